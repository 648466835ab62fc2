"""Convert verl's FSDP checkpoint of a critic to a HuggingFace directory (see --help)."""

from criticflow.commands.convert import main
from criticflow.errors import run_program

if __name__ == "__main__":
    run_program(lambda: main(kind="critic"))
