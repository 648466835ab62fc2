"""Critics in verl's FSDP2 engine on one and two gloo ranks: train, freeze, save, convert, load."""

import json
import shutil

import pytest
import torch
from ranks import run_on_ranks
from safetensors.torch import load_file

from criticflow.checkpoint.convert import convert
from criticflow.checkpoint.ranks import fit_ranks
from criticflow.checkpoint.retention import TRACKER
from criticflow.models.value_head import load_value_model


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


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_training_goes_on_with_another_number_of_ranks(trained, base_model, tmp_path, ranks):
    """With Adam's moments: without them the first steps are much larger."""
    out, world_size, head, _ = trained
    if (head, world_size) != ("linear", 2):
        pytest.skip("once is enough")
    directory = tmp_path / "seed0"
    shutil.copytree(out / "global_step_3", directory / "global_step_3")
    (directory / TRACKER).write_text("3")
    assert fit_ranks(directory, 2) is None
    assert fit_ranks(directory, ranks) == 2
    folder = directory / "global_step_3/critic"
    assert len(list(folder.glob("*_rank_*.pt"))) == 3 * ranks

    def weights(folder, ranks, name):
        (work := tmp_path / name).mkdir()
        case = {"model": str(base_model), "folder": str(folder), "head": head}
        return run_on_ranks("go_on", ranks, work, **case)[0]

    same = weights(out / "global_step_3/critic", 2, "same")
    torch.testing.assert_close(weights(folder, ranks, "other"), same, rtol=0, atol=2e-6)


def test_a_converted_critic_has_the_values_of_the_trained_one(trained):
    out, _, head, results = trained
    model = load_value_model(out / "hf", head=head).eval()
    for result in results:
        with torch.no_grad():
            values = model(input_ids=result["tokens"]).logits.squeeze(-1)
        torch.testing.assert_close(values, result["values"], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_converted_critic_is_a_model_path_for_verl(trained, tmp_path):
    """On one rank and on as many as trained it; and so is what a frozen one's checkpoint gives."""
    out, world_size, head, results = trained
    weights = load_file(out / "hf/model.safetensors")
    for ranks in {1, world_size}:
        work = tmp_path / str(ranks)
        work.mkdir()
        found = run_on_ranks(
            "model_path", ranks, work, critic=str(out / "hf"), head=head, out=str(work)
        )
        for result, then in zip(found, results, strict=False):
            for values in result.values():
                torch.testing.assert_close(values, then["values"], rtol=1e-5, atol=1e-6)
        convert(work / "critic", work / "again", kind="critic")
        again = load_file(work / "again/model.safetensors")
        assert set(again) == set(weights)
        assert all(torch.equal(again[name], weights[name]) for name in weights)


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


def test_a_warm_start_takes_every_weight_from_the_checkpoint_and_no_optimizer(
    trained, base_model, tmp_path
):
    out, world_size, head, results = trained
    if head == "mlp":
        pytest.skip("the linear head's case covers it")
    folder = str(out / "global_step_3" / "critic")
    loaded = run_on_ranks(
        "critic_alone", world_size, tmp_path, base=str(base_model), checkpoint=folder
    )
    for by_freeze, then in zip(loaded, results, strict=True):
        for freeze, now in by_freeze.items():
            assert now["changed"] and now["weights"] == then["saved"]
            assert now["names"] == now["parameters"] and "score.weight" in now["names"]
            assert now["optimizer"] == (None if freeze else 0)  # a fresh one has no state yet
            assert ("optimizer" in now["contents"]) is not freeze  # later loads are as before


@pytest.mark.parametrize("world_size", [1, 2])
def test_fsdp1_serves_critics_as_far_as_a_cpu_can_show(world_size, base_model, tmp_path):
    """Two refusals of CPU parameters are taken out of torch and verl for it; FSDP1 as it is needs
    an accelerator."""
    critic = tmp_path / "critic"
    shutil.copytree(base_model, critic)
    load_value_model(base_model, allow_untrained=True).save_pretrained(critic)
    arguments = {"critic": str(critic), "base": str(base_model), "out": str(tmp_path)}
    model = load_value_model(critic).eval()
    for result in run_on_ranks("fsdp1", world_size, tmp_path, **arguments):
        with torch.no_grad():
            expected = model(input_ids=result["tokens"]).logits.squeeze(-1)
        torch.testing.assert_close(result["values"], expected, rtol=1e-5, atol=1e-6)
        assert not torch.equal(result["trained"], result["values"])
        # A warm start takes the trained critic, frozen; so does what that one saves.
        assert result["changed"] and set(result["names"]) == set(model.state_dict())
        assert torch.equal(result["frozen"], result["trained"])
        assert torch.equal(result["again"], result["trained"])
        assert result["optimizer"] is None and result["learning"] == []
        assert not any(name.startswith("optim_") for name in result["files"])
        assert torch.equal(result["constant"], torch.full_like(result["constant"], 0.4))


def test_a_constant_critic_says_the_same_of_every_state(base_model, tmp_path):
    for result in run_on_ranks("constant", 2, tmp_path, base=str(base_model)):
        for head in ("linear", "mlp"):
            found = result[head]
            assert torch.equal(found["values"], torch.full_like(found["values"], 0.4))
            assert found["learning"] == [] and found["optimizer"] is None


def test_checkpoints_keep_save_and_load_what_the_configuration_says(trained, tmp_path):
    out, world_size, head, _ = trained
    if (head, world_size) != ("linear", 2):
        pytest.skip("one case is enough")
    results = run_on_ranks(
        "checkpoints", world_size, tmp_path, critic=str(out / "hf"), out=str(tmp_path)
    )
    found = results[0]
    for kind in ("trained", "frozen"):
        assert found[f"{kind}: kept"] == ["global_step_2", "global_step_3"]
        parts = {name.partition("_world")[0] for name in found[f"{kind}: files"]}
        common = {"model", "extra_state", "fsdp_config.json", "huggingface"}
        assert parts == common | ({"optim"} if kind == "trained" else set())
        parts = {name.partition("_world")[0] for name in found[f"{kind}: model only"]}
        assert parts == {"model", "fsdp_config.json", "huggingface"}
        assert found[f"{kind}: loaded"] and not found[f"{kind}: optimizer"]
        model = load_value_model(tmp_path / kind / "whole" / "huggingface").eval()
        for result in results:
            with torch.no_grad():
                values = model(input_ids=result["tokens"]).logits.squeeze(-1)
            torch.testing.assert_close(values, result[f"{kind}: values"], rtol=1e-5, atol=1e-6)


def test_critics_and_actors_run_the_attention_that_is_asked_for(base_model, tmp_path):
    ((default, chosen),) = run_on_ranks("attention", 1, tmp_path, base=str(base_model))
    assert default == {"critic": "sdpa", "actor": "sdpa"}
    assert chosen == {"critic": "eager", "actor": "eager"}
