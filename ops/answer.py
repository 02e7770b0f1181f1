"""What every command of the console has in common: it answers once, as a picture or as JSON, and ends with a code."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from functools import cached_property
from typing import Annotated, NoReturn

import asyncpg
import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from db.database import Database
from db.opening import open_database
from freescout_audit.errors import DatabaseUnavailableError, FreescoutAuditError, SettingsError
from freescout_audit.logs import set_up_logs
from freescout_audit.rule import Terms
from poller.changes import Changes
from poller.freescout import DeskError, DeskUnavailableError, FreeScout
from poller.transport import http_transport
from settings import Environment, LiveSecrets, Settings, load_environment, load_settings
from settings.infisical import VaultError
from settings.keys import Keys
from settings.live import tell_nobody

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of a picture.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether it is meant.")]

WIDEST = 110
"""Columns a picture takes at the most: longer lines are hard to read."""
_SIGINT_CODE, _SIGTERM_CODE = 130, 143


class Exit(IntEnum):
    """How a command ends; docs/console.md says the same."""

    GOOD = 0
    WRONG = 1
    USAGE = 2
    UNAVAILABLE = 3


class CommandError(FreescoutAuditError):
    """A command cannot do what it was told; the message says what would help."""

    def __init__(self, message: str, code: Exit = Exit.WRONG) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command found: for programs, for people, and whether that is good."""

    document: msgspec.Struct
    picture: RenderableType
    code: Exit = Exit.GOOD


class _Failure(msgspec.Struct, frozen=True):
    error: str
    exit: int


@dataclass(frozen=True, slots=True)
class Desk:
    """The desk as the console uses it: to read, and to change what an operator says."""

    url: str
    reads: FreeScout
    changes: Changes


@dataclass(frozen=True)
class Workplace:
    """What a command works with: what it was told, the keys, the cache, the desk, and the terminal."""

    environment: Environment
    settings: Settings
    as_json: bool = False
    screen: Console = field(default_factory=lambda: Console(stderr=True))
    """For bars and remarks; the answer itself goes to stdout."""

    @property
    def terms(self) -> Terms:
        """How long answers are vouched for."""
        cache = self.settings.cache
        return Terms.of_seconds(lease=cache.lease, ttl=cache.ttl, dispute_grace=cache.dispute_grace)

    @cached_property
    def secrets(self) -> LiveSecrets:
        """The keys as receiver and poller know them; those of a vault once `keys` or `fresh_secrets` has read it."""
        return LiveSecrets(self.environment, self.settings.vault, tell=tell_nobody)

    async def keys(self) -> Keys:
        """Return the keys in use; a vault is read for them once.

        Raises:
            VaultError: There is a vault and it gave nothing; the message names the next step.
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
                        connections=self.settings.database.connections,
                        connect_timeout=self.settings.database.connect_timeout,
                        progress=self.remark,
                    )
                )
            except FreescoutAuditError as error:
                if url is not None:
                    raise
                raise CommandError(str(error), Exit.UNAVAILABLE) from error
            yield database

    @asynccontextmanager
    async def desk(self, url: str | None = None) -> AsyncIterator[Desk]:
        """Open the desk of FREESCOUT_URL, or of another URL.

        Raises:
            SettingsError: Nobody said where it is, or with which key.
            VaultError: The key is in a vault that did not give it.
        """
        url = url or self.environment.freescout_url
        if url is None:
            raise SettingsError("FREESCOUT_URL is not set: set it to the desk's address, like https://desk.example.org")
        if (await self.keys()).api_key is None:
            put_it = "set it" if self.environment.vault is None else "put it into the vault"
            raise SettingsError(
                "FREESCOUT_API_KEY is not set: take it from FreeScout's Manage » Settings » API & Webhooks,"
                f" and {put_it}"
            )
        async with http_transport(url, self.secrets.api_key, patience=self.settings.poller.timeout) as transport:
            reads = FreeScout(transport, concurrency=self.settings.poller.concurrency)
            yield Desk(url, reads, Changes(transport.send))

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
            CommandError: It is not, or nobody is there to be asked.
        """
        if yes:
            return
        if self.as_json or not sys.stdin.isatty():
            raise CommandError(f"add --yes, since nobody is there to be asked: {what}", Exit.USAGE)
        if not typer.confirm(f"{what} Go on?", err=True):
            raise CommandError("nothing was changed")

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show how far long work has come, on a terminal only; yields what is told so many of so many."""
        if self.as_json or not self.screen.is_terminal:
            yield lambda _done, _total: None
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self.screen, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=max(done, total))


Work = Callable[[Workplace], Awaitable[Answer]]


def answer(work: Work, *, as_json: bool) -> None:
    """Do a command's work, show what it found, and end with its code.

    Raises:
        typer.Exit: Always, when the code is not 0.
    """
    set_up_logs(process="console", style="auto", level="warning", stream=sys.stderr)
    try:
        workplace = Workplace(*read_settings(), as_json=as_json)
        found = asyncio.run(_until_told_to_stop(work(workplace)))
    except FreescoutAuditError as error:
        fail(_line(error), _code(error), as_json=as_json)
    except asyncpg.PostgresError as error:
        line = str(error).partition("\n")[0]
        fail(f"PostgreSQL refuses what we ask it: {line}", Exit.UNAVAILABLE, as_json=as_json)
    except asyncio.CancelledError:
        raise typer.Exit(_SIGTERM_CODE) from None
    except KeyboardInterrupt:
        raise typer.Exit(_SIGINT_CODE) from None
    show(found, as_json=as_json)
    if found.code is not Exit.GOOD:
        raise typer.Exit(found.code)


def read_settings() -> tuple[Environment, Settings]:
    """Return what this process is told: the one place where the console learns its settings and secrets."""
    return load_environment(os.environ), load_settings(os.environ)


def show(found: Answer, *, as_json: bool) -> None:
    """Write an answer to stdout; no colour unless that is a terminal."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(found.document, enc_hook=str).decode() + "\n")
        sys.stdout.flush()
        return
    console = Console(highlight=False)
    console.print(found.picture, width=min(console.width, WIDEST))


def fail(message: str, code: Exit, *, as_json: bool) -> NoReturn:
    """Say in one line what went wrong and what to do, and end.

    Raises:
        typer.Exit: Always.
    """
    if as_json:
        sys.stdout.write(msgspec.json.encode(_Failure(message, code)).decode() + "\n")
    else:
        Console(stderr=True, highlight=False).print(f"[red]✗[/red] {escape(message)}", soft_wrap=True)
    raise typer.Exit(code)


def facts(*rows: tuple[str, RenderableType]) -> Table:
    """Return facts one below the other: a name, and what is to be said of it."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, said in rows:
        table.add_row(name, said)
    return table


def titled(title: str, *parts: RenderableType) -> Group:
    """Return parts under a title."""
    return Group(f"[bold]{escape(title)}[/bold]", "", *parts)


def moment(at: datetime | None, *, day: bool = True, year: bool = True) -> str:
    """Return a time as the console writes all of them, in UTC; tables leave out the year, or the day."""
    if at is None:
        return "never"
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S" if day and year else "%m-%d %H:%M:%S" if day else "%H:%M:%S")


def columns(*headings: str, right: Collection[str] = (), fold: Collection[str] = ()) -> Table:
    """Return an empty table; only the columns of ``fold`` are ever broken into lines."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(
            heading,
            justify="right" if heading in right else "left",
            no_wrap=heading not in fold,
            overflow="fold" if heading in fold else "ellipsis",
        )
    return table


def span(seconds: float) -> str:
    """Return a duration for people: ``40 ms``, ``3 min``, ``2 h 5 min``, ``4 d``."""
    seconds = abs(seconds)
    for unit, size, next_size in (("d", 86400, 3600), ("h", 3600, 60), ("min", 60, 1)):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            smaller = {"d": "h", "h": "min", "min": "s"}[unit]
            part = rest // next_size
            return f"{whole} {unit}" + (f" {part} {smaller}" if part and whole < 10 else "")  # noqa: PLR2004 - two figures are enough
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 - the same


def ago(at: datetime | None, now: datetime) -> str:
    """Return how long ago something was, or how far it lies ahead."""
    if at is None:
        return "never"
    seconds = (now - at).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(seconds)}"


def _line(error: FreescoutAuditError) -> str:
    """Return an error's one line, with the next step where it names none itself."""
    line = str(error)
    if isinstance(error, DatabaseUnavailableError) and line.startswith("PostgreSQL is not available"):
        return f"{line}; is DATABASE_URL right, and does PostgreSQL run?"
    if isinstance(error, DeskUnavailableError) and line.startswith("FreeScout does not answer"):
        return f"{line}; is FREESCOUT_URL right, and is the desk up?"
    return line


def _code(error: FreescoutAuditError) -> Exit:
    if isinstance(error, CommandError):
        return error.code
    if isinstance(error, SettingsError):
        return Exit.USAGE
    if isinstance(error, (DatabaseUnavailableError, DeskError, VaultError)):
        return Exit.UNAVAILABLE
    return Exit.WRONG


async def _until_told_to_stop(work: Awaitable[Answer]) -> Answer:
    """Do the work; SIGTERM ends it as Ctrl-C does, so that what has to be put back is put back."""
    task = asyncio.current_task()
    # Signals are the main thread's; Windows has no handlers.
    if task is not None and threading.current_thread() is threading.main_thread():
        with suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work
