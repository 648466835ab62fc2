"""Metrics of several attempts at one run become one table."""

import json

import pytest

from criticflow.errors import UserError
from criticflow.training.log import Progress, attempts, metrics_table, next_attempt


def write(path, steps, score):
    with open(path, "a") as stream:
        for step in steps:
            data = {"critic/score/mean": score, "timing_s/step": 2.0, "actor/entropy": 0.5}
            stream.write(json.dumps({"step": step, "data": data}) + "\n")


def test_a_step_made_twice_counts_as_made_last(tmp_path):
    write(next_attempt(tmp_path), [1, 2, 3], 0.1)
    write(next_attempt(tmp_path), [3, 4], 0.9)
    table = metrics_table(tmp_path, steps=4)
    assert table["step"].tolist() == [1, 2, 3, 4]
    assert table["critic/score/mean"].tolist() == [0.1, 0.1, 0.9, 0.9]
    assert len(attempts(tmp_path)) == 2


def test_a_missing_step_is_an_error(tmp_path):
    write(next_attempt(tmp_path), [1, 3], 0.1)
    with pytest.raises(UserError, match="step 2 of 3"):
        metrics_table(tmp_path, steps=3)


def test_a_step_that_was_saved_but_not_logged_has_an_empty_row(tmp_path):
    write(next_attempt(tmp_path), [1, 2], 0.1)
    write(next_attempt(tmp_path), [4, 5], 0.9)
    table = metrics_table(tmp_path, steps=5)
    assert table["step"].tolist() == [1, 2, 3, 4, 5]
    assert table["critic/score/mean"].isna().tolist() == [False, False, True, False, False]


def test_validation_after_a_resume_leaves_the_steps_own_metrics(tmp_path):
    write(next_attempt(tmp_path), [1, 2], 0.1)
    resumed = next_attempt(tmp_path)
    resumed.write_text(json.dumps({"step": 2, "data": {"val/acc": 0.5}}) + "\n")
    write(resumed, [3], 0.9)
    table = metrics_table(tmp_path, steps=3)
    assert table["critic/score/mean"].tolist() == [0.1, 0.1, 0.9]
    assert table["val/acc"].tolist()[1] == 0.5


def test_a_line_cut_by_a_kill_is_ignored(tmp_path):
    path = next_attempt(tmp_path)
    write(path, [1, 2], 0.1)
    with open(path, "a") as stream:
        stream.write('{"step": 3, "da')
    assert metrics_table(tmp_path, steps=2)["step"].tolist() == [1, 2]


def test_progress_reports_each_step_once(tmp_path):
    lines = []
    path = next_attempt(tmp_path)
    watch = Progress(path, steps=10, report=lines.append)
    watch()
    write(path, [1], 0.25)
    watch()
    watch()
    write(path, [2, 3], 0.5)
    watch()
    assert [line.split()[1] for line in lines] == ["1/10", "2/10", "3/10"]
    assert "score 0.500" in lines[-1] and "14 s left" in lines[-1]
