"""What a person calls beside the workflow, one module a command.

A command is a module here with ``main(arguments)``, whose ``--help`` says input, output and an
example, and a line in :data:`COMMANDS`. ``main`` raises :class:`criticflow.errors.UserError` for
what the person can mend. Modules that take long to import are imported inside ``main``.
"""

from __future__ import annotations

COMMANDS = {
    "train": "PPO or GRPO with verl's configuration and criticflow's keys",
    "convert": "verl's FSDP checkpoint to a HuggingFace directory, or to another number of ranks",
    "score": "JSON lines of responses, with their scores",
    "evaluate": "a model on prepared problems: pass@1, pass@k, entropy",
    "plan": "a study's arms, contrasts and cost, without running it",
    "retriever": "a corpus behind HTTP, for searches from other machines",
    "accept": "keep a training although code or libraries have changed since",
}
"""Name of each command (its module here) and what it does, in one line."""
