"""A control: a critic whose values are multiplied by a factor.

    V'(s_t) = f V(s_t)                       f = ``critic.scale``

Where a share m of the rewards is masked, returns are (1 - m) V^pi on average, and a critic that
learned from full rewards is too high by m V^pi; f = 1 - m corrects that. The last layer of the
value head is multiplied when the critic is loaded, so a critic that is saved later contains the
factor.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def scale_values(model: PreTrainedModel, factor: float) -> None:
    """Multiply a value model's values (head ``linear`` or ``mlp``) by ``factor``, in place.

    Parameters on the meta device (ranks that receive their weights from rank 0) stay as they are.
    """
    last = model.score[-1] if isinstance(model.score, torch.nn.Sequential) else model.score
    with torch.no_grad():
        for parameter in last.parameters():
            if not parameter.is_meta:
                parameter.mul_(factor)
