"""The poller's life: wait for the right to poll, do the jobs while it lasts, give it up when told to stop."""

import asyncio
import time
import uuid
from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple

import asyncpg

from db import lease
from db.database import Database
from db.minutes import MinuteBook
from db.refusals import explain
from freescout_audit.errors import DatabaseUnavailableError, SettingsError
from freescout_audit.events import LOAD_PROGRESS, POLLER_FAULT
from freescout_audit.logs import emit
from freescout_audit.repeats import Repeats
from poller.freescout import FreeScout
from poller.heartbeat import Heartbeat, heartbeat
from poller.jobs import Jobs
from poller.leader import TRY_EVERY, lead
from poller.passes import Passes, Progress
from poller.peek import PATIENCE
from poller.questions import Questions
from poller.transport import http_transport
from settings.environment import Environment
from settings.process import process_name
from settings.table import Settings
from settings.vault.live import LiveSecrets

PROGRESS_EVERY = 5.0
"""Seconds between two lines about the first load."""


class LogProgress:
    """Tells the log how far the first load has come, every few seconds and at the end."""

    def __init__(self) -> None:
        self._said_at = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Say it, unless that was said just now."""
        now = time.monotonic()
        if done == total or now - self._said_at >= PROGRESS_EVERY:
            self._said_at = now
            emit(LOAD_PROGRESS, done=done, total=total)


class _Outside(NamedTuple):
    """Whom a poller talks to: the desk, the desk in a lane of its own for peeks, and who watches that passes come."""

    desk: FreeScout
    aside: FreeScout
    heartbeat: Heartbeat


async def poll(
    database: Database,
    environment: Environment,
    settings: Settings,
    stop: asyncio.Event,
    *,
    progress: Progress | None = None,
    tied_to: str | None = None,
    secrets: LiveSecrets | None = None,
) -> None:
    """Poll whenever no other process does, until ``stop`` is set.

    ``tied_to`` is the desk's name in the database, when it is not its URL. ``secrets`` are the keys in use, if
    somebody else needs them too; they are kept fresh here.

    Raises:
        SettingsError: No desk is named, or no key for it.
        OtherDeskError: The database holds another desk's tickets.
    """
    secrets = secrets or LiveSecrets(environment, settings.vault)
    refreshing = asyncio.create_task(secrets.keep_fresh())
    leading = asyncio.create_task(
        _lead_with_keys(database, environment.freescout_url, secrets, settings, progress or LogProgress(), tied_to)
    )
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((leading, stopping), return_when=asyncio.FIRST_COMPLETED)
    for task in (leading, stopping, refreshing):
        task.cancel()
    (outcome, *_) = await asyncio.gather(leading, stopping, refreshing, return_exceptions=True)
    if isinstance(outcome, Exception):
        raise outcome


async def _lead_with_keys(
    database: Database,
    url: str | None,
    secrets: LiveSecrets,
    settings: Settings,
    progress: Progress,
    tied_to: str | None,
) -> None:
    """Wait until the keys are known, and then lead again and again."""
    if url is not None:
        await secrets.known()
    if url is None or secrets.api_key() is None:
        raise SettingsError("the poller needs FREESCOUT_URL and FREESCOUT_API_KEY", "set both, or scale it to 0")
    async with (
        http_transport(url, secrets.api_key, patience=settings.poller.timeout) as transport,
        http_transport(url, secrets.api_key, patience=min(PATIENCE, settings.poller.timeout)) as in_passing,
        heartbeat(secrets.heartbeat_url) as beating,
    ):
        desk = FreeScout(transport, concurrency=settings.poller.concurrency)
        outside = _Outside(desk, FreeScout(in_passing, concurrency=1), beating)
        await _lead_again_and_again(database, outside, tied_to or url, settings, progress)


async def _lead_again_and_again(
    database: Database, outside: _Outside, tied_to: str, settings: Settings, progress: Progress
) -> None:
    session, repeats = uuid.uuid4().hex, Repeats()
    while True:
        try:
            await lease.claim_desk(database, tied_to)
            await _lead_once(database, outside, session, settings, progress)
        except asyncpg.PostgresError as error:
            said = explain(error) or DatabaseUnavailableError(f"PostgreSQL raises {type(error).__name__}")
            repeats.emit(POLLER_FAULT, said.problem, job="lead", reason=said.problem, next_step=said.next_step or None)
        except DatabaseUnavailableError as error:
            repeats.emit(
                POLLER_FAULT, error.problem, job="lead", reason=error.problem, next_step=error.next_step or None
            )
        await asyncio.sleep(TRY_EVERY)


async def _lead_once(
    database: Database, outside: _Outside, session: str, settings: Settings, progress: Progress
) -> None:
    """Lead until the right to do so is lost, or until cancelled."""
    terms, minutes = settings.cache.terms, MinuteBook(database, process_name())
    passes = Passes(
        outside.desk,
        database,
        terms=terms,
        overlap=timedelta(seconds=settings.poller.overlap),
        page_size=settings.poller.page_size,
        progress=progress,
        known_after=minutes.known_after,
    )
    async with lead(database, session=session) as leadership:
        await lease.beat(database, terms)
        questions = Questions(
            outside.desk,
            database,
            terms=terms,
            at_once=settings.poller.page_size,
            concurrency=max(1, settings.poller.concurrency - 1),
            clock=time.monotonic,
            crowded=lambda: jobs.pass_now(),  # noqa: PLW0108 - made below
        )
        jobs = Jobs(
            database,
            outside.desk,
            outside.aside,
            passes,
            questions,
            settings=settings,
            disputed=leadership.disputed,
            give_up=leadership.give_up,
            heartbeat=outside.heartbeat,
            minutes=minutes,
        )
        jobs.start()
        try:
            await leadership.lost.wait()
        finally:
            await jobs.stop()
            with suppress(DatabaseUnavailableError):
                await minutes.write()
