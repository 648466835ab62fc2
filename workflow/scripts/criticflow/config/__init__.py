"""Typed configuration. Imports neither torch nor any stage."""

from criticflow.config.load import load_config, read_config
from criticflow.config.schema import (
    Build,
    Config,
    Critic,
    Evaluate,
    Generate,
    Model,
    PretrainedCritic,
    Probe,
    Resources,
    RewardMask,
    Run,
    Sft,
    Source,
    Split,
    Task,
    Train,
    Truth,
)

__all__ = [
    "Build",
    "Config",
    "Critic",
    "Evaluate",
    "Generate",
    "Model",
    "PretrainedCritic",
    "Probe",
    "Resources",
    "RewardMask",
    "Run",
    "Sft",
    "Source",
    "Split",
    "Task",
    "Train",
    "Truth",
    "load_config",
    "read_config",
]
