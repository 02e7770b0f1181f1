"""What a command works with: what it was told, the keys, the cache, the desk, and the terminal."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import typer
from rich.console import Console
from rich.markup import escape

from db.database import Database
from db.opening import open_database
from db.standing import Standing, read_standing
from freescout_audit.errors import DatabaseUnavailableError, FreescoutAuditError, SettingsError
from freescout_audit.rule import Terms
from ops.result import CommandError, Exit
from poller.changes import DeskChanges
from poller.freescout import FreeScout
from settings import Environment, LiveSecrets, Settings
from settings.place import Place, where_we_run
from settings.vault.keys import Keys
from settings.vault.live import tell_nobody

CONNECTIONS = 2
"""Connections of a command at the most: it works beside processes that need theirs."""


@dataclass(frozen=True, slots=True)
class Desk:
    """The desk as the console uses it: to read, and to change what an operator says."""

    url: str
    name: str
    """What a database is tied to that holds its tickets: its URL, unless it is made up."""
    reads: FreeScout
    changes: DeskChanges


@dataclass(frozen=True)
class Workplace:
    """What a command works with: what it was told, the keys, the cache, the desk, and the terminal."""

    environment: Environment
    settings: Settings
    as_json: bool = False
    tied_to: str | None = None
    """What the database is tied to, when it is not FREESCOUT_URL: a made-up desk has another address each time."""
    screen: Console = field(default_factory=lambda: Console(stderr=True))
    """For bars and remarks; the answer itself goes to stdout."""

    @property
    def desk_name(self) -> str | None:
        """What the database is tied to, if it holds this desk's tickets; None: no desk is named."""
        return self.tied_to or self.environment.freescout_url

    @cached_property
    def here(self) -> Place:
        """Where we run, for the words of next steps."""
        return where_we_run(os.environ)

    @property
    def terms(self) -> Terms:
        """How long answers are vouched for."""
        return self.settings.cache.terms

    @cached_property
    def secrets(self) -> LiveSecrets:
        """The keys as receiver and poller know them; those of a vault once `keys` or `fresh_secrets` has read it."""
        return LiveSecrets(self.environment, self.settings.vault, tell=tell_nobody)

    async def keys(self) -> Keys:
        """Return the keys in use; a vault is read for them once.

        Raises:
            VaultError: There is a vault and it gave nothing.
        """
        if not self.secrets.are_known:
            await self.secrets.read_once()
            for variable in self.secrets.ignored:
                self.remark(f"{variable} says otherwise than the vault, and is ignored: doctor says what to do")
        return self.secrets.keys

    @asynccontextmanager
    async def fresh_secrets(self) -> AsyncIterator[None]:
        """Read a vault as the processes do, now and every ``vault.interval``: no oftener, or it locks us all out."""
        refreshing = asyncio.create_task(self.secrets.keep_fresh())
        try:
            await self.secrets.tried()
            yield
        finally:
            refreshing.cancel()
            await asyncio.gather(refreshing, return_exceptions=True)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """Open the cache.

        Raises:
            SettingsError: The URL is none.
            CommandError: There is no URL, and no embedded PostgreSQL here either.
        """
        url = self.environment.database_url
        async with AsyncExitStack() as stack:
            try:
                database = await stack.enter_async_context(
                    open_database(
                        None if url is None else url.reveal(),
                        process="console",
                        connections=min(CONNECTIONS, self.settings.database.connections),
                        connect_timeout=self.settings.database.connect_timeout,
                        progress=self.remark,
                    )
                )
            except FreescoutAuditError as error:
                if url is not None:
                    raise
                raise CommandError(error.problem, error.next_step, Exit.UNAVAILABLE) from error
            yield database

    @asynccontextmanager
    async def desk(self, url: str | None = None) -> AsyncIterator[Desk]:
        """Open the desk of FREESCOUT_URL, or of another URL.

        Raises:
            SettingsError: It is not set where it is, or with which key.
            VaultError: The key is in a vault that did not give it.
        """
        url = url or self.environment.freescout_url
        if url is None:
            raise SettingsError(
                "FREESCOUT_URL is not set", "set it to the desk's address, like https://desk.example.org"
            )
        if (await self.keys()).api_key is None:
            put_it = "set it" if self.environment.vault is None else "put it into the vault"
            raise SettingsError(
                "FREESCOUT_API_KEY is not set",
                f"take it from FreeScout's Manage » Settings » API & Webhooks, and {put_it}",
            )
        # Imported here: aiohttp takes a third of a second, and most commands do not ask the desk.
        from poller.transport import http_transport  # noqa: PLC0415

        async with http_transport(url, self.secrets.api_key, patience=self.settings.poller.timeout) as transport:
            reads = FreeScout(transport, concurrency=self.settings.poller.concurrency)
            name = self.desk_name if url == self.environment.freescout_url else url
            yield Desk(url, name or url, reads, DeskChanges(transport.send))

    def remark(self, line: str) -> None:
        """Tell people something on the way; programs are not told."""
        if not self.as_json:
            self.screen.print(f"[dim]{escape(line)}[/dim]", highlight=False)

    def warn(self, line: str) -> None:
        """Tell everybody something that must not be missed, on stderr."""
        self.screen.print(f"[yellow]![/yellow] {escape(line)}", highlight=False, soft_wrap=True)

    def confirm(self, what: str, *, yes: bool) -> None:
        """Ask whether something is meant, unless that was said.

        Raises:
            CommandError: It is not meant, or there is no terminal to ask at.
        """
        if yes:
            return
        if self.as_json or not sys.stdin.isatty():
            raise CommandError(f"there is no terminal to ask on: {what}", "add --yes", Exit.USAGE)
        if not typer.confirm(f"{what} Go on?", err=True):
            raise CommandError("nothing was changed")

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show how far long work has come, on a terminal only; yields what is told so many of so many."""
        if self.as_json or not self.screen.is_terminal:
            yield lambda _done, _total: None
            return
        # Imported here: only long work on a terminal shows a bar.
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self.screen, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=max(done, total))


async def standing_of(database: Database) -> Standing:
    """Read everything that stands once.

    Raises:
        DatabaseUnavailableError: A row of it is missing, or PostgreSQL is away or not migrated.
    """
    standing = await read_standing(database)
    if standing is None:
        raise DatabaseUnavailableError("the schema is incomplete", "restore the database, or migrate another")
    return standing
