"""A critic's values times a factor."""

import pytest
import torch

from checkpoint_writers import tiny_critic
from criticflow.verl_plugin.scaled_critic import scale_values


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_every_value_is_multiplied(head):
    model = tiny_critic(head)
    tokens = torch.arange(3, 23).reshape(2, 10)
    with torch.no_grad():
        before = model(tokens).logits
        scale_values(model, 0.25)
        after = model(tokens).logits
    torch.testing.assert_close(after, 0.25 * before, rtol=1e-5, atol=1e-7)
    assert before.abs().max() > 0.1
