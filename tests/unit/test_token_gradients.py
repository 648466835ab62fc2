"""Inner products of a model's gradients, token by token, and where they are read again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from checkpoint_writers import tiny_actor
from criticflow import config
from criticflow.commands import truth as truth_command
from criticflow.config.load import load_config
from criticflow.errors import UserError
from criticflow.models.saved_critic import SavedCritic
from criticflow.models.token_gradients import passes, token_products
from criticflow.report import tables
from criticflow.stages import critics_table, judge, token_gradients
from criticflow.stages.truth_files import read_further
from test_audited_tokens import NAME, write

PROMPTS, RESPONSES = [[5, 6], [7, 8, 9]], [[10, 11, 12], [13, 2]]


def test_products_are_those_of_the_gradient_of_the_loss():
    """Of advantages A, the loss ``sum A log pi``: its squared gradient is ``A K A``."""
    model, temperature = tiny_actor(tied=True).double(), 0.7
    products = token_products(model, PROMPTS, RESPONSES, temperature)
    parts = []
    for advantages in np.random.default_rng(0).normal(size=(2, 5)):
        left, loss = list(advantages), 0.0
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
            logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
            for place, token in enumerate(response, len(prompt) - 1):
                loss = loss + left.pop(0) * (logits[place] / temperature).log_softmax(-1)[token]
        found = torch.autograd.grad(loss, list(model.parameters()))
        parts.append((advantages, torch.cat([part.flatten() for part in found])))
    (one, first), (other, second) = parts
    assert one @ products @ other == pytest.approx(float(first @ second), rel=1e-4)
    assert one @ products @ one == pytest.approx(float(first @ first), rel=1e-4)


def test_blocks_of_parameters_add_up():
    model = tiny_actor()
    whole = token_products(model, PROMPTS, RESPONSES, 1.0)
    size = sum(weight.numel() for weight in model.parameters())
    assert passes(size, 5) == 1 and passes(size, 5, 5 * 1000) == -(-size // 1000)
    np.testing.assert_allclose(
        token_products(model, PROMPTS, RESPONSES, 1.0, 5 * 1000), whole, rtol=1e-3, atol=1e-5
    )


@pytest.fixture
def measured(tmp_path):
    folder = tmp_path / "truth"
    frame = write(folder, audited=True)
    tiny_actor().save_pretrained(tmp_path / "actor")
    actor = config.Model(path=str(tmp_path / "actor"))
    token_gradients.measure_token_products(tmp_path / "actor", actor, 1.0, "cpu", folder)
    return folder, frame


def test_rows_have_the_gradients_of_critics_and_references(measured, critic, tmp_path):
    folder, frame = measured
    products = token_gradients.read_token_products(folder)
    lists = [list(map(list, frame[name])) for name in ("prompt_tokens", "tokens")]
    np.testing.assert_allclose(products, token_products(tiny_actor(), *lists, 1.0), rtol=1e-5)
    saved = SavedCritic(critic, config.Model(path="x"))
    rows_json = tmp_path / "out/rows.json"
    judge.judge_critic(saved, NAME, [folder], "cpu", tmp_path / "out")
    rows = critics_table.write_critics_table([rows_json], [folder], tmp_path / "critics.json")
    kinds = ["run", "shuffled", "constant", "position", "prompt_mean"] + 2 * ["monte_carlo"]
    audited = [row for row in rows if row["advantages"]]
    assert [row["kind"] for row in audited] == kinds  # of 8 continuations 16 cannot be taken
    for row in audited:
        for found in row["advantages"]:
            assert found["gradient"]["variance"]["value"] > 0, row["critic"]
            assert found["gradient"]["responses"] == 4
    shown = tables.advantages(rows)
    assert len(shown.rows) == 2 * len(kinds) and len(shown.head) == len(shown.rows[0])
    assert "cosine of the policy gradients" in shown.head
    judge.judge_critic(saved, NAME, [folder], "cpu", tmp_path / "out", gradients=False)
    rows = critics_table.write_critics_table(
        [rows_json], [folder], tmp_path / "critics.json", gradients=False
    )
    assert '"gradient"' not in json.dumps(rows)
    assert "cosine of the policy gradients" not in tables.advantages(rows).head


def test_products_of_other_tokens_are_refused(measured):
    folder, _ = measured
    tokens, _ = read_further(folder, "token")
    tokens["prefix_tokens"] = [[3, *ids] for ids in tokens["prefix_tokens"]]
    tokens.to_parquet(folder / "tokens.parquet")
    with pytest.raises(UserError, match="other tokens"):
        token_gradients.read_token_products(folder)


def test_gradients_need_audited_responses(tmp_path, capsys):
    with pytest.raises(UserError, match=r"gradients .* set audited"):
        load_config({"truth": {"gradients": True}})
    write(tmp_path / "truth", audited=False)
    with pytest.raises(UserError, match="no audited responses"):
        token_gradients.measure_token_products(
            tmp_path, config.Model(path="x"), 1.0, "cpu", tmp_path / "truth"
        )
    with pytest.raises(SystemExit):
        truth_command.main(["--model", "m", "--data", "d", "--out", "o", "--gradients"])
    assert "--audited is at least 2" in capsys.readouterr().err
