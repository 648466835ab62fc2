"""A wrong configuration is one readable error before the first job (all mistakes: test_config)."""

from __future__ import annotations

import pytest
from snake import snakemake


@pytest.mark.parametrize(
    ("overlay", "says"),
    [
        ({"probe": {"N": 16}}, "probe.N: unknown key"),
        ({"train": {"steps": "many"}}, "train.steps"),
        ({"runs": {"cold": {"model": "tini"}}}, "runs.cold.model: no model named 'tini'"),
        ({"runs": {"cold": {"critic": {"from": "warm-frozen-m50"}}}}, "critic.from is a cycle"),
        ({"train": {"micro_batch_size": 24}}, "not divisible by 2 ranks"),
        ({"train": {"verl": {"trainer.save_frq": 1}}}, "verl has no key 'trainer.save_frq'"),
    ],
)
def test_says_what_is_wrong_and_where(tmp_path, overlay, says):
    done = snakemake(tmp_path, "--cores", "1", overlay=overlay)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert [line for line in output.splitlines() if says in line], output
    assert "Traceback" not in output
    assert not (tmp_path / "results").exists()
