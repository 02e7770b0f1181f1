"""Reads the settings: ``config.toml``, then the environment over it."""

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from freescout_audit.errors import SettingsError
from settings.table import Setting, Settings, table

CONFIG_FILE = Path(__file__).resolve().parent.parent / "config.toml"


def load_settings(environment: Mapping[str, str], config_file: Path = CONFIG_FILE) -> Settings:
    """Return the settings in force.

    Raises:
        SettingsError: An unknown key, or a value outside its range; the message names the key and the range.
    """
    known = {setting.key: setting for setting in table()}
    values: dict[str, dict[str, object]] = {}
    for key, value in _from_file(config_file).items():
        if key not in known:
            raise SettingsError(f"{config_file.name}: there is no setting {key}", "docs/settings.md lists them all")
        setting = known[key]
        values.setdefault(setting.section, {})[setting.name] = _checked(setting, value, f"{config_file.name}: {key}")
    for setting in known.values():
        text = environment.get(setting.variable, "")
        if text:
            value = _parsed(setting, text)
            values.setdefault(setting.section, {})[setting.name] = _checked(setting, value, setting.variable)
    return msgspec.convert(values, Settings)


def unwise(settings: Settings) -> list[str]:
    """Return a line for each setting that is allowed but will probably disappoint."""
    lines = []
    if settings.cache.lease < 3 * settings.poller.interval:
        lines.append(
            f"cache.lease ({settings.cache.lease:g} s) is under three poller.interval ({settings.poller.interval:g} s):"
            " one slow or failed pass and every answer is none"
        )
    if settings.poller.overlap < 3900:  # noqa: PLR2004 - the repeated hour and five minutes
        lines.append(
            f"poller.overlap ({settings.poller.overlap:g} s) is under 3900: on a desk whose time zone has daylight"
            " saving, changes in the repeated hour of autumn can be missed"
        )
    if settings.cache.ttl < settings.cache.lease:
        lines.append(
            f"cache.ttl ({settings.cache.ttl:g} s) is under cache.lease ({settings.cache.lease:g} s): without a poller"
            " deliveries are believed for less time than with one"
        )
    return lines


def _from_file(config_file: Path) -> dict[str, object]:
    try:
        document = tomllib.loads(config_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"{config_file.name} cannot be read ({error.strerror})", "make it readable") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{config_file.name} is not valid TOML: {error}") from error
    values: dict[str, object] = {}
    for section, content in document.items():
        if not isinstance(content, dict):
            raise SettingsError(f"{config_file.name}: {section} stands outside a [section]", "put it below its own")
        values |= {f"{section}.{name}": value for name, value in content.items()}
    return values


def _parsed(setting: Setting, text: str) -> object:
    """Return an environment variable's text as the setting's kind, or as it is when it is not of that kind."""
    try:
        return setting.kind(text.strip())
    except ValueError:
        return text


def _checked(setting: Setting, value: object, where: str) -> object:
    """Return the value if the setting can take it; ``where`` begins the message if it cannot."""
    numbers = (int,) if setting.kind is int else (int, float)
    if setting.choices:
        good = value in setting.choices
    elif setting.low is None or setting.high is None:
        good = isinstance(value, str) and bool(value)
    else:
        good = (
            isinstance(value, numbers)
            and not isinstance(value, bool)
            and math.isfinite(value)
            and setting.low <= value <= setting.high
        )
    if not good:
        raise SettingsError(f"{where} must be {setting.range}, not {value!r}: {setting.help}")
    return value
