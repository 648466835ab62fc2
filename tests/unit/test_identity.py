"""A checkpoint directory belongs to the settings and inputs that it was made from."""

from criticflow.training.identity import claim, fingerprint


def test_the_same_run_keeps_its_checkpoints(tmp_path):
    data = tmp_path / "train.parquet"
    data.write_bytes(b"rows")
    directory = tmp_path / "checkpoints"
    claim(directory, fingerprint({"lr": 1}, [data]))
    (directory / "global_step_1").mkdir()
    claim(directory, fingerprint({"lr": 1}, [data]))
    assert (directory / "global_step_1").exists()


def test_other_settings_or_inputs_start_afresh_and_say_why(tmp_path, caplog):
    data = tmp_path / "model"
    data.mkdir()
    (data / "weights").write_bytes(b"old")
    directory = tmp_path / "checkpoints"
    claim(directory, fingerprint({"train": {"lr": 1}}, [data]))
    (directory / "global_step_1").mkdir()
    (data / "weights").write_bytes(b"new")
    claim(directory, fingerprint({"train": {"lr": 2}}, [data]))
    assert not (directory / "global_step_1").exists()
    assert "settings.train.lr: 1 -> 2" in caplog.text
    assert "weights" in caplog.text


def test_a_directory_without_a_fingerprint_is_not_trusted(tmp_path):
    directory = tmp_path / "checkpoints"
    (directory / "global_step_5").mkdir(parents=True)
    claim(directory, fingerprint({}, []))
    assert not (directory / "global_step_5").exists()
