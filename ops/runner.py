"""Runs a command: does its work, shows once what it found, as a picture or as JSON, and ends with its code."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NoReturn, TypeVar

import asyncpg
import typer

from freescout_audit.errors import DatabaseUnavailableError, FreescoutAuditError, SettingsError
from freescout_audit.logs import set_up_logs
from ops.output import fail, let_the_reader_go, show
from ops.result import CommandError, CommandResult, Exit
from ops.running import MADE_UP, beside, who_is_running
from ops.workplace import Workplace
from poller.freescout import DeskError
from settings import load_environment, load_settings
from settings.environment import AddressError
from settings.vault.infisical import VaultError

_SIGINT_CODE, _SIGTERM_CODE = 130, 143

T = TypeVar("T")
Work = Callable[[Workplace], Awaitable[CommandResult]]


def run_command(work: Work, *, as_json: bool) -> None:
    """Do a command's work, show what it found, and end with its code.

    Raises:
        typer.Exit: Always, when the code is not 0.
    """
    found = _do(work, as_json=as_json)
    show(found, as_json=as_json)
    if found.code is not Exit.GOOD:
        raise typer.Exit(found.code)


def run_until_stopped(work: Callable[[Workplace], Awaitable[None]], *, as_json: bool) -> None:
    """Do a command's work that goes on and shows what it finds as it comes, until Ctrl-C, which is no failure.

    Raises:
        typer.Exit: It could not go on.
    """

    async def go_on(workplace: Workplace) -> None:
        with suppress(asyncio.CancelledError):
            await work(workplace)

    try:
        _do(go_on, as_json=as_json)
    except BrokenPipeError:
        let_the_reader_go()


def _do(work: Callable[[Workplace], Awaitable[T]], *, as_json: bool) -> T:
    """Do a command's work, and return what it found.

    Raises:
        typer.Exit: It failed, or was stopped, and that was said.
    """
    set_up_logs(process="console", style="auto", level="warning", stream=sys.stderr)
    try:
        workplace = read_workplace(as_json=as_json)
        return asyncio.run(_until_told_to_stop(work(workplace)))
    except FreescoutAuditError as error:
        fail(error, _code(error), as_json=as_json)
    except asyncpg.PostgresError as error:
        line = str(error).partition("\n")[0]
        refused = CommandError(f"PostgreSQL refuses what we ask it: {line}", "look into PostgreSQL's log")
        fail(refused, Exit.UNAVAILABLE, as_json=as_json)
    except asyncio.CancelledError:
        _stopped(_SIGTERM_CODE, as_json=as_json)
    except KeyboardInterrupt:
        _stopped(_SIGINT_CODE, as_json=as_json)


def read_workplace(*, as_json: bool) -> Workplace:
    """Return what this process is told: the one place where the console learns its settings and secrets.

    While `make run` is running in this checkout, and the environment names no other place, that is where it works.
    """
    running = who_is_running()
    surroundings = beside(running, os.environ)
    if running is None or surroundings is None:
        return Workplace(load_environment(os.environ), load_settings(os.environ), as_json=as_json)
    workplace = Workplace(
        load_environment(surroundings),
        load_settings(surroundings),
        as_json=as_json,
        tied_to=MADE_UP if running.made_up else None,
    )
    workplace.remark(f"beside make run, {running.url}")
    return workplace


def _stopped(code: int, *, as_json: bool) -> NoReturn:
    """End as told to: people know that they did, programs get their document."""
    if as_json:
        fail(CommandError("it was stopped before it was done"), code, as_json=True)
    raise typer.Exit(code)


def _code(error: FreescoutAuditError) -> Exit:
    if isinstance(error, CommandError):
        return error.code
    if isinstance(error, (AddressError, DatabaseUnavailableError, DeskError, VaultError)):
        return Exit.UNAVAILABLE
    if isinstance(error, SettingsError):
        return Exit.USAGE
    return Exit.WRONG


async def _until_told_to_stop(work: Awaitable[T]) -> T:
    """Do the work; SIGTERM ends it as Ctrl-C does, so that what has to be put back is put back."""
    task = asyncio.current_task()
    # Signals are the main thread's; Windows has no handlers.
    if task is not None and threading.current_thread() is threading.main_thread():
        with suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work
