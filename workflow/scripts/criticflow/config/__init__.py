"""Typed configuration. Imports neither torch nor any stage."""

from criticflow.config.load import load_config, read_config
from criticflow.config.measuring import Evaluate, Probe, Tempered, Truth
from criticflow.config.models import Build, Hasty, Model, Sft, Shape
from criticflow.config.resources import Resources
from criticflow.config.runs import Critic, PretrainedCritic, RewardMask, Run, Train
from criticflow.config.study import Config
from criticflow.config.tasks import (
    Dense,
    Facts,
    Generate,
    Search,
    Service,
    Source,
    Split,
    Task,
)

__all__ = [
    "Build",
    "Config",
    "Critic",
    "Dense",
    "Evaluate",
    "Facts",
    "Generate",
    "Hasty",
    "Model",
    "PretrainedCritic",
    "Probe",
    "Resources",
    "RewardMask",
    "Run",
    "Search",
    "Service",
    "Sft",
    "Shape",
    "Source",
    "Split",
    "Task",
    "Tempered",
    "Train",
    "Truth",
    "load_config",
    "read_config",
]
