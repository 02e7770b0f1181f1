"""What the environment tells a process: where things are, which keys are accepted, which switches are on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from freescout_audit.endpoints import AUDIT, RBAC
from freescout_audit.errors import SettingsError
from freescout_audit.invisible import what_does_not_belong

WEBHOOK_SECRET = "FREESCOUT_AUDIT_WEBHOOK_SECRET"  # noqa: S105 - names of variables, here and below
WEBHOOK_SECRET_PREVIOUS = "FREESCOUT_AUDIT_WEBHOOK_SECRET_PREVIOUS"  # noqa: S105
RBAC_SECRET = "FREESCOUT_RBAC_WEBHOOK_SECRET"  # noqa: S105
RBAC_SECRET_PREVIOUS = "FREESCOUT_RBAC_WEBHOOK_SECRET_PREVIOUS"  # noqa: S105
API_KEY = "FREESCOUT_API_KEY"
OPS_TOKEN = "OPS_TOKEN"  # noqa: S105
HEARTBEAT_URL = "OPS_HEARTBEAT_URL"
KEYS = (
    WEBHOOK_SECRET,
    WEBHOOK_SECRET_PREVIOUS,
    RBAC_SECRET,
    RBAC_SECRET_PREVIOUS,
    API_KEY,
    OPS_TOKEN,
    HEARTBEAT_URL,
)
"""The variables that a vault can hold instead."""

FLAGS = {AUDIT: "FLAG_FREESCOUT_WEBHOOK_RECEIVE", RBAC: "FLAG_FREESCOUT_WEBHOOK_RBAC"}
"""The switch of each endpoint."""
SECRETS = {AUDIT: WEBHOOK_SECRET, RBAC: RBAC_SECRET}
"""The key of each endpoint that signs now."""

VAULT_PATH = "/MooseQuest/freescout/"
_VAULT_NEEDS = ("URL", "CLIENT_ID", "CLIENT_SECRET", "PROJECT_ID", "ENVIRONMENT")


class AddressError(SettingsError):
    """The address of the desk or of the vault is none, so that neither can be asked."""


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
class VaultAccess:
    """An Infisical vault, and how we get into it: the source of truth for the keys it holds."""

    url: str
    """Without a path, ``https://vault.example.org``."""
    client_id: str
    client_secret: Secret
    project_id: str
    environment: str
    """The environment's slug, such as ``prod``."""
    path: str
    variables: Mapping[str, Secret]
    """What the environment itself says of the keys, by the variable's name."""


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
    receive_rbac: bool
    """Whether RV-4's path is on."""
    rbac_secret: Secret | None
    """The key of RV-4's path; None: the audit path's keys are accepted there."""
    rbac_secret_previous: Secret | None
    """A key that is accepted there as well, while a rotation lasts."""
    freescout_url: str | None
    freescout_api_key: Secret | None
    ops_token: Secret | None
    heartbeat_url: Secret | None
    """Pinged at each pass, so that somebody hears of passes that do not come."""
    vault: VaultAccess | None
    """None: the keys above are the ones in use; otherwise `settings.vault.live` says which are."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints that are switched on."""
        return tuple(name for name, on in ((AUDIT, self.receive), (RBAC, self.receive_rbac)) if on)


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

    keys = (secret(WEBHOOK_SECRET), secret(WEBHOOK_SECRET_PREVIOUS))
    return Environment(
        database_url=secret("DATABASE_URL"),
        port=_port(text("PORT") or "8080"),
        receive=_flag(FLAGS[AUDIT], text(FLAGS[AUDIT])),
        webhook_secrets=tuple(dict.fromkeys(key for key in keys if key is not None)),
        receive_rbac=_flag(FLAGS[RBAC], text(FLAGS[RBAC])),
        rbac_secret=secret(RBAC_SECRET),
        rbac_secret_previous=secret(RBAC_SECRET_PREVIOUS),
        freescout_url=read_address("FREESCOUT_URL", text("FREESCOUT_URL")),
        freescout_api_key=secret(API_KEY),
        ops_token=secret(OPS_TOKEN),
        heartbeat_url=secret(HEARTBEAT_URL),
        vault=_vault(text),
    )


def _vault(text: Callable[[str], str | None]) -> VaultAccess | None:
    """Read how to get into the vault; all of it or none."""
    needed = {name: text(f"INFISICAL_{name}") for name in _VAULT_NEEDS}
    path = text("INFISICAL_PATH")
    if path is None and not any(needed.values()):
        return None
    if missing := [f"INFISICAL_{name}" for name, value in needed.items() if value is None]:
        raise SettingsError(
            f"the vault needs {', '.join(missing)} as well", "set it, or unset every INFISICAL_ variable"
        )
    given = {name: value for name, value in needed.items() if value is not None}
    for name, what in given.items():
        if strange := what_does_not_belong(what):
            raise SettingsError(f"there is {strange} in INFISICAL_{name}", "copy it again, and nothing else")
    path = path or VAULT_PATH
    if not path.startswith("/"):
        raise SettingsError(f"INFISICAL_PATH must begin with /, like {VAULT_PATH}, not {path!r}")
    return VaultAccess(
        url=read_address("INFISICAL_URL", given["URL"], "https://vault.example.org") or "",
        client_id=given["CLIENT_ID"],
        client_secret=Secret(given["CLIENT_SECRET"]),
        project_id=given["PROJECT_ID"],
        environment=given["ENVIRONMENT"],
        path=path,
        variables={name: Secret(value) for name in KEYS if (value := text(name)) is not None},
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


def read_address(name: str, value: str | None, example: str = "https://desk.example.org") -> str | None:
    """Return the address of the desk or of the vault, without the ``/api`` that may be copied with it.

    Raises:
        AddressError: It is none; the message names the variable, and never quotes what was given.
    """
    if value is None:
        return None
    if not value.startswith(("http://", "https://")):
        raise AddressError(f"{name} must begin with https:// (or http://), like {example}")
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host:
        raise AddressError(f"{name} has no host name that can be asked", f"write it like {example}")
    if strange := what_does_not_belong(value):
        raise AddressError(f"there is {strange} in {name}", f"write it like {example}")
    if "@" in parts.netloc:
        raise AddressError(f"{name} holds a user or a password, which would be stored and shown", "leave them out")
    if parts.query or parts.fragment:
        raise AddressError(f"{name} holds more than an address", f"leave out what follows ? or #, like {example}")
    return value.rstrip("/").removesuffix("/api").rstrip("/")
