"""Everything that the tests want from real engines, in one process: ``python ... DIRECTORY``.

An engine on the CPU takes its process for itself, so the tests read what this leaves behind.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd

from criticflow import config
from criticflow.commands import evaluate as by_hand
from criticflow.errors import UserError
from criticflow.files import write_json
from criticflow.models.sampling import Engine
from criticflow.stages import base_model, evaluate, probe, truth_on_states, value_truth
from criticflow.stages.data import prepare
from criticflow.stages.samples import read_problems

TASK = config.Task(
    kind="countdown",
    source=config.Source(generate=config.Generate(numbers=[2], high=20, problems=400)),
    split=config.Split(val=16, test=64),
    prompt="{numbers} = {target}",
    max_prompt_length=32,
    max_response_length=24,
)
MODEL = config.Model(path="model")
RESOURCES = config.Resources()
PROBE = config.Probe(n=4, prompts=32)
EVALUATE = config.Evaluate(n=4, resamples=200)
TRUTH = config.Truth(problems=48, positions=[0.0, 0.5, 1.0], continuations=16, pieces=4, audited=12)


def main(out: Path) -> None:
    prepare("mini", TASK, out / "data")
    sft = config.Sft(problems=300, steps=150, batch_size=64)
    build = config.Build(
        task="mini", hidden_size=64, intermediate_size=128, num_layers=2, num_heads=2, sft=sft
    )
    model = out / "model"
    base_model.build(build, out / "data/train.parquet", model)
    prompts = [list(row) for row in pd.read_parquet(out / "data/test.parquet")["prompt"]]
    with Engine(model, MODEL, 64, RESOURCES) as engine:
        sample = {
            "all": engine.generate(prompts, 8, 1.0, 24, 0),
            "reversed": engine.generate(prompts[::-1], 8, 1.0, 24, 0),
            "few": engine.generate(prompts[:3], 8, 1.0, 24, 0),
            "other_seed": engine.generate(prompts, 8, 1.0, 24, 1),
            "repeated": engine.generate([prompts[0]] * 2, 8, 1.0, 24, 0),
            "warm": engine.generate(prompts[:8], 4, 1.5, 24, 0),
            "greedy": engine.generate(prompts, 1, 0.0, 24, 0),
            "short": engine.generate(prompts[:8], 1, 1.0, 2, 0),
        }
        states = [
            [*row.prompt_tokens, *row.tokens[:4]] for row in sample["greedy"].head(12).itertuples()
        ]
        most = [20 - index for index in range(len(states))]
        onward = engine.continue_from(states, 8, 1.0, most, 0)
        turned = engine.continue_from(states[::-1], 8, 1.0, most[::-1], 0)
        write_json(
            out / "continued.json",
            {"states": states, "most": most, "onward": onward, "turned": turned[::-1]},
        )
        try:
            engine.generate(prompts, 1, 1.0, 60, 0)
        except UserError as error:
            (out / "too_long.txt").write_text(str(error))
        problems = read_problems(out / "data/test.parquet")
        longest = int(sample["all"]["prompt_tokens"].map(len).max()) - 1
        fitting, left_out = engine.fitting(problems, longest, "test.parquet")
        write_json(
            out / "fitting.json",
            {"longest": longest, "left_out": left_out, "prompts": engine.render(fitting["prompt"])},
        )
        try:
            engine.fitting(problems, 1, "test.parquet")
        except UserError as error:
            (out / "none_fits.txt").write_text(str(error))
    for name, frame in sample.items():
        frame.to_parquet(out / f"{name}.parquet")
    test = out / "data/test.parquet"
    probe.probe_signal(
        model, MODEL, out / "data/train.parquet", TASK, PROBE, RESOURCES, out / "probe"
    )
    lengths = (TASK.max_prompt_length, TASK.max_response_length)
    job = evaluate.Evaluation(model, MODEL, test, *lengths, EVALUATE, RESOURCES)
    actor = {"actor": "tiny", "actor_seed": None, "actor_step": None, "task": "mini"}
    measured = value_truth.Measurement(model, MODEL, test, *lengths, TRUTH, 1.0, 1.0, RESOURCES)
    value_truth.measure_truth(measured, actor, out / "truth")
    warmer = replace(measured, temperature=1.5)
    for name, new in (("same", measured), ("warmer", warmer)):
        truth_on_states.measure_on_states(new, out / "truth", actor, out / f"truth/on_{name}")
    for name, kind in (("base", "base"), ("same", "run")):
        subject = evaluate.Subject(name, kind, None, "tiny", "mini")
        evaluate.evaluate_model(job, subject, out / name)
    arguments = ["--model", str(model), "--data", str(test), "--out", str(out / "by_hand")]
    arguments += ["--limit", "5", "--max-prompt-length", "32", "--max-response-length", "24"]
    by_hand.main(arguments)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
