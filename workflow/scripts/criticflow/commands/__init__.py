"""What a person calls beside the workflow, one module a command.

A command is a module here with ``main(arguments)``, whose ``--help`` says input, output and an
example, and a line in :data:`COMMANDS`. ``main`` raises :class:`criticflow.errors.UserError` for
what the person can mend. Modules that take long to import are imported inside ``main``.
"""

from __future__ import annotations

COMMANDS = {
    "init": "a folder in which the installed workflow runs",
    "train": "PPO or GRPO with verl's configuration and criticflow's keys",
    "convert": "verl's FSDP checkpoint to a HuggingFace directory, or to another number of ranks",
    "score": "JSON lines of responses, with their scores",
    "evaluate": "a model on prepared problems: pass@1, pass@k, entropy",
    "truth": "true values of a model's states, by Monte Carlo",
    "judge": "a critic's values beside the true ones",
    "plan": "a study's runs, contrasts and cost, without running it",
    "doctor": "whether this machine can run a study, and what mends it",
    "fetch": "models and data of a study into the local cache, for nodes without internet",
    "watch": "how far a study is, training by training, while it runs",
    "study": "raw rows of a study's runs, exported and taken in on another machine",
    "retriever": "a corpus behind HTTP, for searches from other machines",
    "accept": "keep a training although code or libraries have changed since",
}
"""Name of each command (its module here) and what it does, in one line."""
