"""Configs as typed data: models, checks with all problems in one message, and experiments resolved at a scale."""

from tensorbench.core.config.experiment import Choice, Experiment, Workspace, config_hash
from tensorbench.core.config.problems import ConfigError
from tensorbench.core.config.workspace import DEFAULT_SCALE, config_paths, load

__all__ = ["DEFAULT_SCALE", "Choice", "ConfigError", "Experiment", "Workspace", "config_hash", "config_paths", "load"]
