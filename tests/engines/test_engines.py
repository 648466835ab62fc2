"""Critics in verl's FSDP2 engine on one and two gloo ranks: train, freeze, save, convert, load."""

import json
import shutil

import pytest
import torch
from ranks import run_on_ranks

from criticflow.checkpoint.convert import convert
from criticflow.value_head import load_value_model


@pytest.fixture(scope="session", params=[("linear", 1), ("linear", 2), ("mlp", 2)], ids=str)
def trained(request, base_model, tmp_path_factory):
    """A critic that was trained, saved and resumed; with its conversion."""
    head, world_size = request.param
    out = tmp_path_factory.mktemp(f"{head}-{world_size}")
    results = run_on_ranks(
        "train_and_save", world_size, out, model=str(base_model), out=str(out), head=head
    )
    convert(out / "global_step_3" / "critic", out / "hf", kind="critic")
    return out, world_size, head, results


def test_a_trained_critic_resumes_bit_for_bit(trained):
    _, _, _, results = trained
    for result in results:
        assert result["learned"] and result["restored"] and result["resumed_equal"]
        assert any(name.startswith("optim_world_size") for name in result["files"])


def test_a_converted_critic_has_the_values_of_the_trained_one(trained):
    out, _, head, results = trained
    model = load_value_model(out / "hf", head=head).eval()
    for result in results:
        with torch.no_grad():
            values = model(input_ids=result["tokens"]).logits.squeeze(-1)
        torch.testing.assert_close(values, result["values"], rtol=1e-5, atol=1e-6)


def test_a_frozen_critic_gives_values_and_never_changes(trained, tmp_path):
    out, world_size, head, results = trained
    if head == "mlp":
        pytest.skip("the linear head's case covers freezing")
    frozen = run_on_ranks("frozen", world_size, tmp_path, critic=str(out / "hf"), out=str(tmp_path))
    for now, then in zip(frozen, results, strict=True):
        torch.testing.assert_close(now["values"], then["values"], rtol=1e-5, atol=1e-6)
        assert now["again"] and now["unchanged"]
        assert now["optimizer"] is None and now["scheduler"] is None and not now["gradients"]
        assert now["dtypes"] == {"torch.float32"}
        assert not any(name.startswith("optim_") for name in now["files"])
        assert any(name.startswith("model_world_size") for name in now["files"])


def test_a_frozen_critic_holds_its_weights_and_nothing_else(trained, tmp_path):
    out, world_size, head, _ = trained
    if (head, world_size) != ("linear", 2):
        pytest.skip("measured once")
    for result in run_on_ranks("optimizer_memory", world_size, tmp_path, critic=str(out / "hf")):
        # fp32: weights 4 bytes a parameter, AdamW's two moments 8 (gradients are freed by then).
        assert result["freeze=True"] == pytest.approx(4, abs=0.01)
        assert result["freeze=False"] == pytest.approx(12, abs=0.1)


def test_untrained_critics_are_refused_unless_asked_for(base_model, tmp_path):
    headless = tmp_path / "headless"
    shutil.copytree(base_model, headless)
    config = json.loads((headless / "config.json").read_text())
    config["architectures"] = ["Qwen3ForTokenClassification"]
    (headless / "config.json").write_text(json.dumps(config))
    (found,) = run_on_ranks("refusals", 1, tmp_path, base=str(base_model), headless=str(headless))
    assert "never trained" in found["frozen base"] and "allow_untrained" in found["frozen base"]
    assert "score" in found["critic without head"]
    assert found["allowed"] == ""


def test_a_fresh_head_is_a_function_of_its_seed(base_model, tmp_path):
    (result,) = run_on_ranks("fresh_heads", 1, tmp_path, base=str(base_model))
    assert torch.equal(result[0], result[1])
    assert not torch.equal(result[0], result[2])
