"""A wrong configuration is one readable error before the first job."""

from __future__ import annotations

import pytest
from snake import snakemake


@pytest.mark.parametrize(
    ("overlay", "says"),
    [
        ({"evalute": {}}, "evalute: unknown key"),
        ({"probe": {"N": 16}}, "probe.N: unknown key"),
        ({"train": {"step": 3}}, "train.step: unknown key"),
        ({"train": {"steps": "many"}}, "train.steps"),
        ({"train": {"actor_lr": "1e-6"}}, "write 1.0e-6"),
        ({"runs": {"cold": {"model": "tini"}}}, "runs.cold.model: no model named 'tini'"),
        ({"runs": {"cold": {"task": "sums"}}}, "runs.cold.task: no task named 'sums'"),
        ({"runs": {"warm-frozen-m50": {"critic": {"from": "hot"}}}}, "no run named 'hot'"),
        ({"runs": {"cold": {"critic": {"from": "warm-frozen-m50"}}}}, "critic.from is a cycle"),
        ({"runs": {"cold": {"like": "warm-frozen-m50"}}}, "like is a cycle"),
        ({"tasks": {"countdown-mini": {"kind": "chess"}}}, "no such task kind"),
        ({"train": {"micro_batch_size": 24}}, "not divisible by 2 ranks"),
        ({"train": {"batch_size": 100}}, "batch_size 100 is not a multiple"),
        ({"seeds": []}, "seeds"),
    ],
)
def test_says_what_is_wrong_and_where(tmp_path, overlay, says):
    done = snakemake(tmp_path, "--cores", "1", overlay=overlay)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert [line for line in output.splitlines() if says in line], output
    assert "Traceback" not in output
    assert not (tmp_path / "results").exists()
