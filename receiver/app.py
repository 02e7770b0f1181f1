"""The receiver: an aiohttp application that takes deliveries and tells how it is."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from aiohttp import web

from db.database import Database
from db.history import prune_history
from db.journal import PRUNE_EVERY, prune_journal
from db.minutes import MinuteBook
from db.transitions import number_for_ever
from freescout_audit import __version__
from freescout_audit.endpoints import ENDPOINTS
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.events import RECEIVER_FAULT, RECEIVER_STARTED, RECEIVER_STOPPING
from freescout_audit.logs import emit
from receiver.access import Access
from receiver.answers import Answers
from receiver.body import Places
from receiver.connections import Connections
from receiver.doorman import Doorman
from receiver.endpoints import Endpoint, register
from receiver.handler import DeliveryHandler
from receiver.health import Health, add_pages
from receiver.metrics import Metrics
from receiver.page.live import Streams
from receiver.page.snapshot import Snapshots
from receiver.page.views import PATH, PageViews, lead_to_the_page
from receiver.refusals import LIKE_FREESCOUTS, Refusals
from receiver.writing import Writing
from settings.environment import Environment
from settings.place import where_we_run
from settings.process import process_name
from settings.table import ReceiverSettings, Settings
from settings.vault.live import LiveSecrets

SHUTDOWN_TIMEOUT = 6.0
"""Seconds that requests in flight are given after SIGTERM; Heroku's patience is 30, our promise 10."""
_FAREWELL = 1.0
"""Seconds for what is written last."""
FIRST_KEY_PATIENCE = 5.0
"""Seconds that the first reading of the vault may hold up the start; SIGTERM waits as long at the most."""


CONNECTIONS = web.AppKey("connections", Connections)
"""An application's own rules for connections, which `serve` applies."""


def create_app(
    database: Database, environment: Environment, settings: Settings, *, secrets: LiveSecrets | None = None
) -> web.Application:
    """Put the receiver together; the database stays the caller's to close.

    ``secrets`` are the keys in use, if somebody else needs them too; the application keeps them fresh.
    """
    secrets = secrets or LiveSecrets(environment, settings.vault)
    terms = settings.cache.terms
    metrics = Metrics()
    writing, answers = Writing(database), Answers(database)
    minutes = MinuteBook(database, process_name())
    health = Health(
        database, environment, terms=terms, metrics=metrics, secrets=secrets, writing=writing, minutes=minutes
    )
    handler = DeliveryHandler(
        database,
        terms=terms,
        commit_timeout=settings.receiver.commit_timeout,
        metrics=metrics,
        writing=writing,
        answers=answers,
        minutes=minutes,
    )

    like_freescouts = {refusal.kind for refusal in LIKE_FREESCOUTS.values()}

    def remember(kind: str) -> None:
        answers.note(kind)
        if kind in like_freescouts:
            minutes.count("refused")

    refusals = Refusals(metrics, remember=remember)
    endpoints = [
        Endpoint(
            name=name,
            enabled=partial(environment.endpoints.__contains__, name),
            secrets=partial(secrets.webhook, name),
            handle=handler.handle,
        )
        for name in ENDPOINTS
    ]
    connections = Connections(
        settings.receiver, refusals, Doorman(endpoints, refusals, metrics, max_body=settings.receiver.max_body)
    )
    app = web.Application(middlewares=[connections.guard])
    app[CONNECTIONS] = connections
    places = Places(settings.receiver.max_in_flight, most=connections.bodies)
    for endpoint in endpoints:
        register(app, endpoint, settings=settings.receiver, metrics=metrics, places=places, refusals=refusals)
    access = Access(secrets.ops_token)
    add_pages(app, health, metrics, access)
    snapshots = Snapshots(database, health, secrets, where_we_run(os.environ))
    app.router.add_get(PATH.rstrip("/"), lead_to_the_page)
    app.add_subapp(PATH, PageViews(database, snapshots, Streams(snapshots), access, refusals).app)

    async def tasks(_app: web.Application) -> AsyncIterator[None]:
        refreshing = asyncio.create_task(secrets.keep_fresh())
        # A delivery that comes before the first key would be answered 503, and come again a minute later.
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_KEY_PATIENCE):
                await secrets.tried()
        running = [
            refreshing,
            asyncio.create_task(health.watch()),
            asyncio.create_task(health.counting.watch()),
            asyncio.create_task(writing.watch()),
            asyncio.create_task(answers.watch()),
            asyncio.create_task(minutes.keep(RECEIVER_FAULT)),
            asyncio.create_task(number_for_ever(database, RECEIVER_FAULT)),
            asyncio.create_task(_keep_short(database, settings)),
        ]
        yield
        await handler.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        with suppress(Exception):  # whatever keeps it from the database, the process ends
            async with asyncio.timeout(_FAREWELL):
                await answers.write()
                await minutes.write()
                await health.leave()

    app.cleanup_ctx.append(tasks)
    return app


@asynccontextmanager
async def serve(app: web.Application, *, host: str, port: int) -> AsyncIterator[int]:
    """Serve the application and yield the port; at the end, let what is in flight finish."""
    connections = app.get(CONNECTIONS) or Connections(ReceiverSettings(), Refusals(Metrics()))
    async with connections.serve(app, host=host, port=port, shutdown_timeout=SHUTDOWN_TIMEOUT) as listening:
        emit(RECEIVER_STARTED, version=__version__, host=host, port=listening)
        yield listening
        emit(RECEIVER_STOPPING)


async def _keep_short(database: Database, settings: Settings) -> None:
    while True:
        try:
            await prune_journal(database, keep=settings.journal.keep)
            await prune_history(database, keep=settings.history.keep)
        except DatabaseUnavailableError:
            pass  # readiness tells of the database
        except Exception as error:  # noqa: BLE001 - the next look comes, whatever this one met
            emit(RECEIVER_FAULT, error=type(error).__name__, where="journal")
        await asyncio.sleep(PRUNE_EVERY)
