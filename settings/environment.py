"""What the environment tells a process: where things are, which keys are accepted, which switches are on."""

from collections.abc import Mapping
from dataclasses import dataclass

from freescout_audit.errors import SettingsError


class Secret:
    """A value that never shows itself; only :meth:`reveal` gives it out."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def reveal(self) -> str:
        """Return the value, to use and not to keep."""
        return self._value


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The contract's environment variables, read once."""

    database_url: Secret | None
    """None: the embedded PostgreSQL."""
    port: int
    receive: bool
    """Whether the audit path is on."""
    webhook_secrets: tuple[Secret, ...]
    """The keys accepted now, the current one first."""
    freescout_url: str | None
    freescout_api_key: Secret | None
    ops_token: Secret | None


def load_environment(variables: Mapping[str, str]) -> Environment:
    """Read the environment variables of the contract.

    Raises:
        SettingsError: A value we cannot use; the message names the variable and says what it takes.
    """

    def text(name: str) -> str | None:
        return variables.get(name, "").strip() or None

    def secret(name: str) -> Secret | None:
        value = text(name)
        return None if value is None else Secret(value)

    keys = (secret("FREESCOUT_AUDIT_WEBHOOK_SECRET"), secret("FREESCOUT_AUDIT_WEBHOOK_SECRET_PREVIOUS"))
    return Environment(
        database_url=secret("DATABASE_URL"),
        port=_port(text("PORT") or "8080"),
        receive=_flag("FLAG_FREESCOUT_WEBHOOK_RECEIVE", text("FLAG_FREESCOUT_WEBHOOK_RECEIVE")),
        webhook_secrets=tuple(dict.fromkeys(key for key in keys if key is not None)),
        freescout_url=_url("FREESCOUT_URL", text("FREESCOUT_URL")),
        freescout_api_key=secret("FREESCOUT_API_KEY"),
        ops_token=secret("OPS_TOKEN"),
    )


def _port(value: str) -> int:
    if value.isascii() and value.isdecimal() and len(value) < 6 and int(value) <= 65535:  # noqa: PLR2004 - the highest port there is
        return int(value)
    raise SettingsError(f"PORT must be a whole number from 0 to 65535, not {value!r}")


def _flag(name: str, value: str | None) -> bool:
    if value in {None, "0"}:
        return False
    if value == "1":
        return True
    raise SettingsError(f"{name} must be 1 (on) or 0 (off), not {value!r}")


def _url(name: str, value: str | None) -> str | None:
    if value is None or value.startswith(("http://", "https://")):
        return value and value.rstrip("/")
    raise SettingsError(f"{name} must begin with https:// (or http://), like https://desk.example.org")
