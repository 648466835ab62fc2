"""Names of tensors and the configuration file of the model that a checkpoint becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from criticflow.errors import UserError
from criticflow.files import read_json
from criticflow.models.value_head import HEADS

Kind = Literal["critic", "actor"]

AUTO_CLASSES = {"critic": "AutoModelForTokenClassification", "actor": "AutoModelForCausalLM"}
# Added to names by FSDP1, torch.compile and TRL's value-head wrapper.
_WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "pretrained_model.")


def rename(names: list[str], kind: Kind) -> tuple[dict[str, str], list[str]]:
    """Stored name to HuggingFace name, and notes; a name absent from the result is not written.

    TRL's ``v_head.summary.*`` and ``v_head.*`` become ``score.*``; the language-model head beside
    such a value head has no place in a value model.

    Raises:
        UserError: LoRA adapters, two names that become one, a critic without a value head.
    """
    result: dict[str, str] = {}
    notes: list[str] = []
    for stored in names:
        name = stored
        for wrapper in _WRAPPERS:
            name = name.replace(wrapper, "")
        if "lora_" in name or name.startswith("base_model.model."):
            raise UserError(f"{stored} is a LoRA parameter: merge the adapter before converting")
        if name.startswith("v_head."):
            if kind == "actor":
                notes.append(f"value head parameter {stored} not written to an actor")
                continue
            name = "score." + name.removeprefix("v_head.").removeprefix("summary.")
        result[stored] = name
    heads = {name for name in result.values() if name.startswith("score.")}
    if kind == "critic":
        if not heads:
            raise UserError(
                "the checkpoint has no value head (no score.* or v_head.*): it is not a critic; "
                "for an actor use convert_actor_to_hf.py"
            )
        for stored in [s for s, name in result.items() if name.startswith("lm_head.")]:
            del result[stored]
            notes.append(f"language-model head {stored} not written to a critic")
    elif heads:
        raise UserError(
            "the checkpoint has a value head (score.*): it is a critic; use convert_critic_to_hf.py"
        )
    if len(set(result.values())) != len(result):
        raise UserError("two tensors of the checkpoint have the same name in the model")
    return result, notes


def head_kind(names: set[str]) -> str:
    """``linear`` or ``mlp``, from the names of the ``score.*`` tensors.

    Raises:
        UserError: neither.
    """
    score = {name.removeprefix("score.") for name in names if name.startswith("score.")}
    for kind, expected in HEADS.items():
        if score == expected:
            return kind
    raise UserError(
        f"the value head has tensors {sorted(score)}: a linear head has weight, bias; an MLP head "
        "0.weight, 0.bias, 2.weight, 2.bias"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` that verl saved beside the shards.

    Raises:
        UserError: absent or unusable.
    """
    path = folder / "config.json"
    if not path.exists():
        raise UserError(
            f"{path} is missing: verl writes it next to the shards; copy the base model's there"
        )
    config = read_json(path)
    if not isinstance(config, dict) or "model_type" not in config:
        raise UserError(f"{path} names no model_type: restore it from the base model")
    return config


def label(
    config: dict[str, Any], kind: Kind, head: str | None, dtype: str, trust_remote_code: bool
) -> dict[str, Any]:
    """The configuration of the converted model.

    Args:
        head: The value head of a critic (``linear`` or ``mlp``); None for an actor.
        dtype: Floating-point type written, e.g. ``float32``.

    Raises:
        UserError: the family has no such class, or needs ``--trust-remote-code``.
    """
    labelled = {key: value for key, value in config.items() if key != "torch_dtype"}
    labelled["architectures"] = [_architecture(config, kind, trust_remote_code)]
    labelled["dtype"] = dtype
    if kind == "critic":
        labelled |= {
            "num_labels": 1,
            "id2label": {"0": "LABEL_0"},
            "label2id": {"LABEL_0": 0},
            "classifier_dropout": 0.0,
            "value_head": head,
        }
    else:
        for key in ("num_labels", "id2label", "label2id", "classifier_dropout", "value_head"):
            labelled.pop(key, None)
    return labelled


def _architecture(config: dict[str, Any], kind: Kind, trust_remote_code: bool) -> str:
    from transformers.models.auto import modeling_auto

    auto_class, model_type = AUTO_CLASSES[kind], config["model_type"]
    remote = (config.get("auto_map") or {}).get(auto_class)
    if remote is not None and trust_remote_code:
        return remote.rsplit(".", 1)[-1]
    names = (
        modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES
        if kind == "critic"
        else modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    )
    if model_type in names:
        name = names[model_type]
        return name if isinstance(name, str) else name[0]
    if remote is not None:
        raise UserError(f"model type {model_type} has code of its own: add --trust-remote-code")
    raise UserError(f"transformers has no {auto_class.removeprefix('Auto')} of type {model_type}")
