"""Value models: a transformers backbone with a linear or an MLP head giving one value a token."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from criticflow.errors import UserError

# transformers takes seconds to import; modules that only need the names below do not wait for it.
if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# What other makers call the head's parameters: TRL, and those that follow OpenRLHF.
OTHER_HEADS = {r"^v_head\.summary\.": "score.", r"^value_head\.": "score."}

# Names of the parameters below ``score.`` for each head.
HEADS = {
    "linear": {"weight", "bias"},
    "mlp": {"0.weight", "0.bias", "2.weight", "2.bias"},
}


def attach_value_head(model: PreTrainedModel, kind: str) -> None:
    """Replace ``model.score``: hidden states ``(..., hidden)`` to values ``(..., 1)``.

    ``linear`` is transformers' own ``Linear(hidden, 1)``; ``mlp`` is
    ``Linear(hidden, hidden)-ReLU-Linear(hidden, 1)``.

    Raises:
        UserError: another ``kind``, or a model without ``score``.
    """
    _check_kind(kind)
    if not isinstance(getattr(model, "score", None), nn.Module):
        raise UserError(f"{type(model).__name__} has no module `score` to hold a value head")
    hidden = model.config.get_text_config().hidden_size
    if kind == "linear":
        model.score = nn.Linear(hidden, 1)
    else:
        model.score = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))


def value_model_class(
    config: PretrainedConfig, kind: str, path: Path | str = "", trust_remote_code: bool = False
) -> tuple[type[PreTrainedModel], type[PreTrainedModel]]:
    """The ``...ForTokenClassification`` class of a family, and one that builds it with ``kind``.

    Raises:
        UserError: the family has no such class.
    """
    from transformers import AutoModelForTokenClassification
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    _check_kind(kind)
    remote = (getattr(config, "auto_map", None) or {}).get("AutoModelForTokenClassification")
    if remote is not None and trust_remote_code:
        base = get_class_from_dynamic_module(remote, str(path))
    elif type(config) in AutoModelForTokenClassification._model_mapping:
        base = AutoModelForTokenClassification._model_mapping[type(config)]
    else:
        raise UserError(f"transformers has no ForTokenClassification of type {config.model_type}")

    def __init__(self: PreTrainedModel, config: PretrainedConfig, *args: Any, **kwargs: Any):
        base.__init__(self, config, *args, **kwargs)
        attach_value_head(self, kind)

    # The head must be in place before from_pretrained looks at names, hence a class of its own.
    body = {"__init__": __init__, "__module__": base.__module__}
    return base, base if kind == "linear" else type(base.__name__, (base,), body)


def load_value_model(
    path: Path | str,
    *,
    head: str | None = None,
    allow_untrained: bool = False,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    config: PretrainedConfig | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """Load a value model whose every tensor comes from ``path``.

    Critics of other makers load as well: the head may be called as TRL (``v_head.summary``, beside
    a language model's own) or OpenRLHF (``value_head``) call it; and where the configuration is not
    one of ours (no ``value_head``), a linear head may have no bias, which is then 0, and its weight
    may lie in rows (Open-Reasoner-Zero's: ``(8, hidden / 8)``), which are read one after another.

    Args:
        path: A HuggingFace directory or hub name.
        head: ``linear`` or ``mlp``; None takes ``value_head`` of the configuration (absent:
            linear).
        allow_untrained: Accept a model without a value head (a language model) and give it a fresh
            one: weights normal with the model's ``initializer_range``, biases zero.
        dtype: Of the parameters; None takes the configuration's, ``"auto"`` the files'.
        config: Used in place of the one in ``path``; not modified.
        seed: Of the fresh head's own random generator.

    Returns:
        A ``...ForTokenClassification`` with ``num_labels`` 1 and dropout 0: input ids ``(batch,
        length)`` to ``logits`` ``(batch, length, 1)``, the values.

    Raises:
        UserError: a tensor is missing, unexpected, of another shape or would be freshly
            initialised; with ``allow_untrained`` the head as a whole may be missing.
    """
    from transformers import AutoConfig

    if config is None:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    config = copy.deepcopy(config)
    ours = getattr(config, "value_head", None) is not None
    kind = head or getattr(config, "value_head", None) or "linear"
    base, chosen = value_model_class(config, kind, path, trust_remote_code)
    config.num_labels, config.classifier_dropout, config.value_head = 1, 0.0, kind
    config.architectures = [base.__name__]
    arguments: dict[str, Any] = {"config": config, "output_loading_info": True}
    if not ours:
        arguments["key_mapping"] = OTHER_HEADS
    if dtype is not None:
        arguments["dtype"] = dtype
    if attn_implementation is not None:
        arguments["attn_implementation"] = attn_implementation
    if chosen.__module__.startswith("transformers_modules"):
        arguments["trust_remote_code"] = trust_remote_code
    try:
        model, info = chosen.from_pretrained(path, ignore_mismatched_sizes=True, **arguments)
        if not ours and (shape := _weight_in_rows(info, config)):
            model, info = _in_rows(base, shape).from_pretrained(path, **arguments)
            _as_one_row(model, info)
    except OSError as error:
        raise UserError(f"{path} cannot be loaded as a value model: {error}") from error
    biasless = not ours and kind == "linear" and set(info["missing_keys"]) == {"score.bias"}
    if biasless:
        info["missing_keys"] = []
        if not model.score.bias.is_meta:
            nn.init.zeros_(model.score.bias)
    if not ours and "score.weight" not in info["missing_keys"]:
        names = info["unexpected_keys"]  # the language model's own head, if it was kept
        info["unexpected_keys"] = [name for name in names if not name.startswith("lm_head.")]
    fresh = _check_loaded(path, kind, info, allow_untrained)
    model.__class__ = base  # the same code, under the name that others know
    if fresh:
        _initialise_head(model, seed)
    return model


def _weight_in_rows(info: dict, config: PretrainedConfig) -> tuple[int, int] | None:
    """The stored shape of a linear head's weight, if it is as large as ours and a matrix."""
    shapes = {str(name): tuple(stored) for name, stored, _ in info["mismatched_keys"]}
    rows, *others = shapes.pop("score.weight", (0,))
    if shapes or len(others) != 1 or rows * others[0] != config.get_text_config().hidden_size:
        return None
    return rows, others[0]


def _in_rows(base: type[PreTrainedModel], shape: tuple[int, int]) -> type[PreTrainedModel]:
    """``base`` with a head that holds such a weight: to be loaded, not to be called."""

    def __init__(self: PreTrainedModel, config: PretrainedConfig, *args: Any, **kwargs: Any):
        base.__init__(self, config, *args, **kwargs)
        self.score = nn.Linear(shape[1], shape[0], bias=False)

    body = {"__init__": __init__, "__module__": base.__module__}
    return type(base.__name__, (base,), body)


def _as_one_row(model: PreTrainedModel, info: dict) -> None:
    """Give ``model`` the linear head of the weight that it was loaded with, still without bias."""
    weight = model.score.weight.detach().reshape(1, -1)
    attach_value_head(model, "linear")
    model.score.to(device=weight.device, dtype=weight.dtype)
    model.score.weight = nn.Parameter(weight)
    info["missing_keys"] = {*info["missing_keys"], "score.bias"}


def _check_kind(kind: str) -> None:
    if kind not in HEADS:
        raise UserError(f"value head {kind!r} is unknown: choose linear or mlp")


def _check_loaded(path: Path | str, kind: str, info: dict, allow_untrained: bool) -> bool:
    """Whether the head is fresh; raises if any other tensor is not exactly as stored."""
    missing, unexpected = set(info["missing_keys"]), set(info["unexpected_keys"])
    mismatched = {str(entry[0]) for entry in info["mismatched_keys"]}
    head = {f"score.{name}" for name in HEADS[kind]}
    fresh = allow_untrained and missing == head
    if fresh:
        missing = set()
        unexpected = {name for name in unexpected if not name.startswith("lm_head.")}
    for problem, names in (
        ("lacks", missing),
        ("has other shapes for", mismatched),
        ("has tensors that the model does not know:", unexpected),
    ):
        if names:
            listed = sorted(names)
            shown = ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if listed[4:] else "")
            raise UserError(
                f"{path} {problem} {shown}: it is not a trained value model with a {kind} head; "
                "convert a critic with convert_critic_to_hf.py, or check value_head"
            )
    return fresh


def _initialise_head(model: PreTrainedModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    std = getattr(model.config.get_text_config(), "initializer_range", 0.02)
    with torch.no_grad():
        for name, parameter in model.score.named_parameters():
            # Drawn in float32, so that the same seed gives the same head in every precision.
            draw = torch.randn(parameter.shape, generator=generator, device="cpu") * std
            if not parameter.is_meta:
                parameter.copy_(torch.zeros_like(draw) if name.endswith("bias") else draw)
