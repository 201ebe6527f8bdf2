"""The configuration: YAML in, checked and complete values out."""

from polytask.config.component import ComponentSpec
from polytask.config.config import Config, load_config
from polytask.config.families import Kind
from polytask.config.json_schema import json_schema
from polytask.config.schema import DataConfig, ModelConfig
from polytask.config.training_schema import EarlyStoppingConfig, TrainingConfig, TransferConfig

__all__ = [
    "ComponentSpec",
    "Config",
    "DataConfig",
    "EarlyStoppingConfig",
    "Kind",
    "ModelConfig",
    "TrainingConfig",
    "TransferConfig",
    "json_schema",
    "load_config",
]
