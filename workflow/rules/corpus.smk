"""What the searches of a task find their documents in."""


rule build_corpus:
    input:
        files=corpus_files,
    output:
        corpus=directory("results/corpora/{task}"),
    log:
        "logs/build_corpus/{task}.log",
    benchmark:
        "results/benchmarks/build_corpus/{task}.tsv"
    wildcard_constraints:
        task=only([name for name, task in CONFIG.tasks.items() if task.search]),
    threads: 1
    resources:
        # An encoder of millions of documents needs one.
        gpu=lambda wildcards: (
            min(1, CONFIG.resources.gpu) if CONFIG.tasks[wildcards.task].search.dense else 0
        ),
        cpus_per_gpu=8,
        nodes=1,
        # bm25s holds all words of the documents while it makes the index, faiss all vectors.
        mem_mb=lambda wildcards, input: 2000 + 10 * int(input.size_mb),
        runtime=600,
    params:
        code=code("build_corpus.py"),
        made_from=lambda wildcards: corpus_settings(wildcards.task),
    message:
        "Make the corpus of {wildcards.task}"
    script:
        "../scripts/build_corpus.py"
