"""The table of settings: every one that is no secret, with its default, its range and what it is for.

``config.toml`` holds the same keys with the same defaults, and ``[section] key`` is overridden by the environment
variable ``SECTION_KEY``. Durations are seconds, sizes are bytes.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Literal, NamedTuple, get_args, get_origin, get_type_hints

from msgspec import Meta, Struct, field

from freescout_audit.rule import Terms
from settings.environment import (
    API_KEY,
    HEARTBEAT_URL,
    OPS_TOKEN,
    RBAC_SECRET,
    RBAC_SECRET_PREVIOUS,
    WEBHOOK_SECRET,
    WEBHOOK_SECRET_PREVIOUS,
)


class CacheSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long an answer is vouched for."""

    lease: Annotated[float, Meta(ge=1, le=86400, description="how long a completed pass vouches for everything")] = 900
    ttl: Annotated[
        float, Meta(ge=1, le=2592000, description="how long a delivery is believed while no poller is alive")
    ] = 86400
    dispute_grace: Annotated[
        float, Meta(ge=0, le=300, description="how long a disputed answer still stands while FreeScout is asked")
    ] = 5

    @property
    def terms(self) -> Terms:
        """The same as the rule takes it."""
        return Terms(
            lease=timedelta(seconds=self.lease),
            ttl=timedelta(seconds=self.ttl),
            dispute_grace=timedelta(seconds=self.dispute_grace),
        )


class PollerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How FreeScout's API is read."""

    interval: Annotated[
        float, Meta(ge=1, le=300, description="from the start of one pass to the start of the next")
    ] = 120
    peek: Annotated[
        float,
        Meta(ge=0, le=60, description="from one look at what was updated last to the next, between passes; 0: none"),
    ] = 3
    overlap: Annotated[
        float,
        Meta(ge=0, le=86400, description="how far behind the last pass a walk begins; covers the repeated hour"),
    ] = 3900
    page_size: Annotated[int, Meta(ge=2, le=1000, description="conversations asked for in one list request")] = 200
    timeout: Annotated[float, Meta(ge=1, le=300, description="how long one answer of FreeScout may take")] = 60
    concurrency: Annotated[int, Meta(ge=1, le=32, description="requests to FreeScout under way at once")] = 4
    full_walk_hour: Annotated[
        int, Meta(ge=0, le=23, description="the hour (UTC) in which every conversation is read once more, each night")
    ] = 3


class ReceiverSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How deliveries are taken."""

    host: Annotated[str, Meta(description="the address to listen on; the port is PORT")] = "0.0.0.0"  # noqa: S104 - Heroku's router connects from outside
    max_body: Annotated[int, Meta(ge=1024, le=1073741824, description="the largest body taken")] = 67108864
    max_in_flight: Annotated[
        int,
        Meta(ge=65536, le=8589934592, description="bytes of large bodies held at once; others wait their turn"),
    ] = 67108864
    body_timeout: Annotated[
        float, Meta(ge=0.1, le=30, description="how long a body may take to arrive; FreeScout gives up after 30")
    ] = 25
    first_byte_timeout: Annotated[
        float, Meta(ge=0.1, le=30, description="how long a body may take to begin, and to go on beyond min_rate")
    ] = 3
    min_rate: Annotated[
        int, Meta(ge=1, le=1073741824, description="bytes a second that a body must keep up; fewer are answered 408")
    ] = 4096
    head_timeout: Annotated[float, Meta(ge=0.1, le=60, description="how long a request's head may take to arrive")] = 10
    idle_timeout: Annotated[
        float, Meta(ge=0.1, le=3600, description="how long a connection may stay idle between two requests")
    ] = 95
    connections: Annotated[
        int, Meta(ge=16, le=100000, description="connections open at once; beyond, the one idle for longest is closed")
    ] = 4000
    commit_timeout: Annotated[
        float,
        Meta(ge=0.1, le=4.8, description="how long a delivery may take to be committed before it is answered 503"),
    ] = 4.5
    retry_after: Annotated[int, Meta(ge=1, le=3600, description="the Retry-After of a 503")] = 60


class DatabaseSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How PostgreSQL is used."""

    connections: Annotated[int, Meta(ge=3, le=200, description="connections a process opens at the most")] = 5
    connect_timeout: Annotated[float, Meta(ge=0.1, le=60, description="how long opening one may take")] = 4


class JournalSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of each delivery."""

    keep: Annotated[float, Meta(ge=3600, le=31536000, description="how long a delivery stays in the journal")] = 604800


class HistorySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of each answer and transition."""

    keep: Annotated[
        float, Meta(ge=86400, le=315360000, description="how long it stays known what was answered when")
    ] = 34560000


class VaultSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the Infisical vault is read, where one is configured."""

    interval: Annotated[float, Meta(ge=1, le=3600, description="from one reading of the vault to the next")] = 60
    timeout: Annotated[float, Meta(ge=0.1, le=60, description="how long one answer of the vault may take")] = 10
    webhook_secret_name: Annotated[str, Meta(description="the key in the vault that holds FreeScout's webhook key")] = (
        WEBHOOK_SECRET
    )
    webhook_secret_previous_name: Annotated[
        str, Meta(description="the key that holds the webhook key before it, while a rotation lasts")
    ] = WEBHOOK_SECRET_PREVIOUS
    rbac_webhook_secret_name: Annotated[
        str, Meta(description="the key that holds the webhook key of RV-4's path, if it has one of its own")
    ] = RBAC_SECRET
    rbac_webhook_secret_previous_name: Annotated[
        str, Meta(description="the key that holds one that RV-4's path accepts as well, while a rotation lasts")
    ] = RBAC_SECRET_PREVIOUS
    api_key_name: Annotated[str, Meta(description="the key that holds FreeScout's API key")] = API_KEY
    ops_token_name: Annotated[str, Meta(description="the key that holds the operators' token")] = OPS_TOKEN

    heartbeat_url_name: Annotated[str, Meta(description="the key that holds the URL of a dead man's switch")] = (
        HEARTBEAT_URL
    )

    @property
    def names(self) -> dict[str, str]:
        """The key in the vault for each variable that a vault can hold instead."""
        return {
            WEBHOOK_SECRET: self.webhook_secret_name,
            WEBHOOK_SECRET_PREVIOUS: self.webhook_secret_previous_name,
            RBAC_SECRET: self.rbac_webhook_secret_name,
            RBAC_SECRET_PREVIOUS: self.rbac_webhook_secret_previous_name,
            API_KEY: self.api_key_name,
            OPS_TOKEN: self.ops_token_name,
            HEARTBEAT_URL: self.heartbeat_url_name,
        }


class LogSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the log looks like."""

    format: Annotated[
        Literal["auto", "json", "text"],
        Meta(description="json: one object a line; text: for people; auto: by terminal"),
    ] = "auto"
    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="the least important level shown")
    ] = "info"


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that is no secret, section by section as in ``config.toml``."""

    cache: CacheSettings = field(default_factory=CacheSettings)
    poller: PollerSettings = field(default_factory=PollerSettings)
    receiver: ReceiverSettings = field(default_factory=ReceiverSettings)
    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    journal: JournalSettings = field(default_factory=JournalSettings)
    history: HistorySettings = field(default_factory=HistorySettings)
    vault: VaultSettings = field(default_factory=VaultSettings)
    log: LogSettings = field(default_factory=LogSettings)


class Setting(NamedTuple):
    """One line of the table."""

    section: str
    name: str
    kind: type
    default: float | str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    help: str

    @property
    def key(self) -> str:
        """The key as ``config.toml`` and messages write it, ``cache.lease``."""
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that overrides it, ``CACHE_LEASE``."""
        return f"{self.section}_{self.name}".upper()

    @property
    def range(self) -> str:
        """The values it takes, for messages and docs."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.low is None:
            return "text"
        number = "a whole number" if self.kind is int else "a number"
        return f"{number} from {self.low:g} to {self.high:.10g}"


def table() -> Iterator[Setting]:
    """Yield every setting, in the order of ``config.toml``."""
    for section, section_type in get_type_hints(Settings).items():
        for name, annotated in get_type_hints(section_type, include_extras=True).items():
            kind, meta = get_args(annotated)
            choices = get_args(kind) if get_origin(kind) is Literal else ()
            yield Setting(
                section=section,
                name=name,
                kind=str if choices else kind,
                default=getattr(section_type(), name),
                low=meta.ge,
                high=meta.le,
                choices=choices,
                help=meta.description,
            )
