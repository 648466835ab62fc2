"""Make a task's corpus: its documents, and an index of them."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.config import Dense, Source
    from criticflow.stages import corpus

    made_from = snakemake.params.made_from
    source = Source.model_validate(made_from["source"])
    dense = Dense.model_validate(made_from["dense"]) if "dense" in made_from else None
    corpus.build(source, made_from["documents"], Path(snakemake.output.corpus), dense)


if __name__ == "__main__":
    run_stage(snakemake, main)
