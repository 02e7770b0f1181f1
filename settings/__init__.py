"""What a process is told: ``config.toml`` and the environment."""

from settings.environment import Environment, Secret, load_environment
from settings.load import load_settings, unwise
from settings.table import Settings, table
from settings.vault.live import LiveSecrets

__all__ = ["Environment", "LiveSecrets", "Secret", "Settings", "load_environment", "load_settings", "table", "unwise"]
