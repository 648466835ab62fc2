"""Make a task's corpus: its documents, and BM25's index of them."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.config import Source
    from criticflow.stages import corpus

    made_from = snakemake.params.made_from
    source = Source.model_validate(made_from["source"])
    corpus.build(source, made_from["documents"], Path(snakemake.output.corpus))


if __name__ == "__main__":
    run_stage(snakemake, main)
