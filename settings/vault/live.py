"""The keys in use now. Receiver and poller hold one `LiveSecrets` each and look the keys up for every request."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from freescout_audit.backoff import backoff
from freescout_audit.endpoints import AUDIT
from freescout_audit.events import VAULT_FAILED, VAULT_READ, VAULT_RESTORED, VAULT_VARIABLE_IGNORED, LogEvent
from freescout_audit.logs import emit, where
from settings.environment import API_KEY, KEYS, OPS_TOKEN, Environment, Secret, VaultAccess
from settings.table import VaultSettings
from settings.vault.client import Vault
from settings.vault.infisical import VaultError, VaultUnavailableError
from settings.vault.keys import changed_keys, ignored_variables, keys_from_vault, keys_of

FIRST_WAIT = 1.0
"""Seconds before the vault is asked again after a failure that may pass, at the most; doubled up to the interval."""
LOCKOUT = 60.0
"""Seconds before it is asked again after a refusal, at the least: Infisical locks an identity out for minutes whose
third wrong login comes within 30 s of the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultStanding:
    """How the vault is, since when (UTC), and what to do about it."""

    state: Literal["ok", "failed"]
    detail: str
    since: datetime
    meanwhile: str = ""
    """What holds until it is well again, such as which keys are in use."""
    next_step: str = ""


def tell_nobody(_event: LogEvent, **_fields: object) -> None:
    """Keep what happens to a vault out of the log: a command says itself what matters to it."""


async def read_secrets_once(environment: Environment, settings: VaultSettings) -> "LiveSecrets":
    """Return the keys in use now, for a command that ends; nothing is logged.

    Raises:
        VaultError: There is a vault and it gave nothing.
    """
    secrets = LiveSecrets(environment, settings, tell=tell_nobody)
    await secrets.read_once()
    return secrets


class LiveSecrets:
    """The keys in use now, kept fresh by `keep_fresh`; without a vault they are the environment's and never change.

    Args:
        environment: What the environment says; its ``vault`` tells where the vault is.
        settings: How the vault is read.
        sleep: Waits some seconds; a test passes one that it controls.
        now: Our clock, for what we show.
        clock: Seconds that only grow.
        tell: Logs an event.
    """

    def __init__(
        self,
        environment: Environment,
        settings: VaultSettings,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[..., None] = emit,
    ) -> None:
        self._access = environment.vault
        self._settings = settings
        self._sleep = sleep
        self._now = now
        self._clock = clock
        self._tell = tell
        self._failures = 0
        self._failure_told = False
        self._reported: tuple[str, ...] = ()
        self._tried, self._known = asyncio.Event(), asyncio.Event()
        self.keys = keys_of(environment)
        """The keys in use now; look them up anew for each use."""
        self.vault: VaultStanding | None = None
        """How the vault is; None without one."""
        if self._access is None:
            self._tried.set()
            self._known.set()
        else:
            self.vault = VaultStanding(state="failed", detail="it has not been read yet", since=now())

    def webhook(self, endpoint: str = AUDIT) -> tuple[Secret, ...]:
        """Return the keys that may sign deliveries to an endpoint now, the current one first."""
        return self.keys.accepted(endpoint)

    def api_key(self) -> Secret | None:
        """Return FreeScout's API key as it is now."""
        return self.keys.api_key

    def heartbeat_url(self) -> Secret | None:
        """Return what is pinged at each pass; None: nothing."""
        return self.keys.heartbeat_url

    def ops_token(self) -> Secret | None:
        """Return the operators' token as it is now."""
        return self.keys.ops_token

    @property
    def ignored(self) -> tuple[str, ...]:
        """The environment variables that the vault overrules and that say otherwise."""
        if self._access is None or not self.are_known:
            return ()
        return ignored_variables(self._access.variables, self.keys)

    @property
    def are_known(self) -> bool:
        """Whether the vault has been read once; without a vault, they are."""
        return self._known.is_set()

    async def tried(self) -> None:
        """Wait until the vault has been asked once, whatever came of it; without a vault, do not wait."""
        await self._tried.wait()

    async def known(self) -> None:
        """Wait until the vault has been read once; without a vault, do not wait."""
        await self._known.wait()

    async def keep_fresh(self) -> None:
        """Read the vault now and every ``vault.interval``, for ever; without a vault, end at once."""
        if self._access is None:
            return
        async with self._open(self._access) as vault:
            while True:
                await self._sleep(await self._refresh(vault))

    async def read_once(self) -> None:
        """Read the vault once, for a command that ends; without a vault, do nothing.

        Raises:
            VaultError: It gave nothing.
        """
        if self._access is None:
            return
        async with self._open(self._access) as vault:
            self._take(await vault.read())

    @asynccontextmanager
    async def _open(self, access: VaultAccess) -> AsyncIterator[Vault]:
        # Imported here: aiohttp takes a third of a second, and most of the console's calls read no vault.
        from settings.vault.transport import http_send  # noqa: PLC0415

        async with http_send(access.url, patience=self._settings.timeout) as send:
            yield Vault(access, names=tuple(self._settings.names.values()), send=send, clock=self._clock)

    async def _refresh(self, vault: Vault) -> float:
        """Read the vault once and return the seconds until it is to be read again."""
        try:
            self._take(await vault.read())
        except VaultError as error:
            return self._failed(error)
        except Exception as error:  # noqa: BLE001 - the next reading comes, whatever this one met
            broken = f"the answer broke us ({type(error).__name__} at {where(error)})"
            return self._failed(VaultUnavailableError(broken, "please report it"))
        finally:
            self._tried.set()
        self._failures = 0
        return self._settings.interval

    def _take(self, held: Mapping[str, Secret]) -> None:
        """Use what the vault holds from now on."""
        assert self._access is not None, "only a vault gives keys"  # noqa: S101 - the callers' promise
        before = self.keys
        self.keys = keys_from_vault(held, names=self._settings.names, variables=self._access.variables, before=before)
        self._known.set()
        if changed := changed_keys(before, self.keys) if before.from_vault else tuple(sorted(self.keys.from_vault)):
            self._tell(VAULT_READ, names=list(changed))
        for variable in self.ignored:
            if variable not in self._reported:
                self._tell(VAULT_VARIABLE_IGNORED, variable=variable)
        self._reported = self.ignored
        if self.keys.lacking:
            names = ", ".join(self._settings.names[variable] for variable in self.keys.lacking)
            lost = all(variable in self.keys.values() for variable in self.keys.lacking)
            self._note(
                "failed",
                f"the vault does not hold {names}",
                meanwhile="the last known stays in use until a restart" if lost else "deliveries are answered 503",
                next_step="put it back",
            )
        else:
            self._note("ok", self._what_comes_from_where())

    def _failed(self, error: VaultError) -> float:
        """Note a failure and return the seconds until the vault is to be asked again."""
        self._failures += 1
        known = "the last known keys stay in use" if self._known.is_set() else "no key is known yet"
        self._note("failed", error.problem, meanwhile=known, next_step=error.next_step)
        if not isinstance(error, VaultUnavailableError):
            return max(self._settings.interval, LOCKOUT)
        if error.retry_after is not None:
            return min(max(error.retry_after, FIRST_WAIT), max(self._settings.interval, LOCKOUT))
        return backoff(self._failures, first=FIRST_WAIT, longest=self._settings.interval)

    def _note(self, state: Literal["ok", "failed"], detail: str, *, meanwhile: str = "", next_step: str = "") -> None:
        before = self.vault
        assert before is not None, "there is a vault"  # noqa: S101 - the callers' promise
        since = before.since if before.state == state else self._now()
        self.vault = VaultStanding(state=state, detail=detail, since=since, meanwhile=meanwhile, next_step=next_step)
        if state == "failed" and self.vault != before:
            self._tell(VAULT_FAILED, reason=detail, meanwhile=meanwhile, next_step=next_step or None)
            self._failure_told = True
        elif state == "ok" and self._failure_told:
            self._tell(VAULT_RESTORED)
            self._failure_told = False

    def _what_comes_from_where(self) -> str:
        detail = f"read; it holds {', '.join(name for name in KEYS if name in self.keys.from_vault)}"
        others = self.keys.values().keys() - self.keys.from_vault
        if elsewhere := [name for name in (API_KEY, OPS_TOKEN) if name in others]:
            detail += f"; the environment holds {', '.join(elsewhere)}"
        if self.ignored:
            detail += f"; ignored, since they say otherwise: {', '.join(self.ignored)}"
        return detail
