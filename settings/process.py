"""The life of a process: told its settings, told by a signal when to stop, one line when it cannot run."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable

import uvloop

from freescout_audit.errors import FreescoutAuditError, SettingsError
from freescout_audit.events import PROCESS_FAILED, SETTINGS_UNWISE
from freescout_audit.logs import emit, set_up_logs, where
from settings.environment import Environment, load_environment
from settings.load import load_settings, unwise
from settings.table import Settings

Main = Callable[[Environment, Settings, asyncio.Event], Awaitable[None]]
"""Runs until the event is set, which SIGTERM and SIGINT do, and then finishes what is in flight."""


def run_process(name: str, main: Main) -> None:
    """Run ``main`` on uvloop with the settings of this process's environment; exit with 1 when it cannot run."""
    try:
        environment, settings = load_environment(os.environ), load_settings(os.environ)
    except SettingsError as error:
        set_up_logs(process=name)
        _report(error)
        sys.exit(1)
    set_up_logs(process=name, style=settings.log.format, level=settings.log.level)
    for line in unwise(settings):
        emit(SETTINGS_UNWISE, message=line)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_told_to_stop(main, environment, settings))
    except FreescoutAuditError as error:
        _report(error)
        sys.exit(1)
    except OSError as error:
        _report(FreescoutAuditError(str(error)))
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - an operator gets a line, whatever it is
        broken = f"the process itself fails ({type(error).__name__} at {where(error)})"
        _report(FreescoutAuditError(broken, "please report this line"))
        sys.exit(1)


def _report(error: FreescoutAuditError) -> None:
    """Log why this process cannot run."""
    emit(PROCESS_FAILED, message=error.problem, next_step=error.next_step or None)


async def _until_told_to_stop(main: Main, environment: Environment, settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await main(environment, settings, stop)


def process_name() -> str:
    """Return a name to tell processes apart: the dyno's, or host and process."""
    return os.environ.get("DYNO") or f"{socket.gethostname()}:{os.getpid()}"
