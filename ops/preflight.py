"""The pre-flight list as checks: each green, or yellow or red with the next step in one line."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

from db.condition import Condition
from db.database import Database, ImpossibleDateError
from db.gaps import count_gaps
from db.journal import count_twins, read_last_delivery
from db.refusals import MIGRATE
from db.revision import NEWEST, age_of
from db.standing import Standing, everybody_may_create, read_standing, server_version
from db.webhook import Webhook, read_webhook
from freescout_audit.delivery import CONVERSATION_EVENTS
from freescout_audit.endpoints import AUDIT, ENDPOINTS, name_at
from freescout_audit.errors import DatabaseUnavailableError, FreescoutAuditError, SettingsError
from freescout_audit.words import ago, moment, span
from ops import keychecks, selftest
from ops.address import Address, option_of
from ops.check import Check, green, of_condition, red, yellow
from ops.conditions import judge_answers, look_at_the_log, stands, try_writing
from ops.keychecks import check_at
from ops.result import CommandError
from ops.workplace import Workplace
from poller.freescout import DeskError, DeskServerError, FreeScout
from settings import Secret, unwise

_DESK_PATIENCE = 20.0
_CLOCK_GOOD, _CLOCK_TOLERATED = 5.0, 60.0
_NEWEST = 40
"""Deliveries among which twins are looked for."""
_FEW_TWINS, _MANY_TWINS = 5, 0.4
"""Fewer than so many, or than this share, are no sign: two changes within a second look alike."""
_DAY = timedelta(days=1)


async def examine(workplace: Workplace, address: Address | None = None) -> list[Check]:
    """Look at everything once; each endpoint in use at the ``address`` gets a signed delivery as well.

    The vault, where there is one, is not read here: who calls keeps the workplace's secrets fresh.
    """
    checks: list[Check] = []
    async with AsyncExitStack() as stack:
        database, standing = await _open(workplace, stack, checks)
        noted = {} if database is None or standing is None else await _read_webhooks(database)
        used = _in_use(workplace, noted)
        checks += _look_at_the_keys(workplace, used)
        checks += [yellow("settings", line, "see docs/settings.md") for line in unwise(workplace.settings)]
        checks += await _look_at_the_desk(workplace, database, standing)
        if database is not None and standing is not None:
            checks += [await try_writing(database), await look_at_the_log(database)]
            judged = await judge_answers(database, workplace.environment.endpoints)
            for endpoint in used:
                url = None if address is None else address.url(endpoint)
                refusals = judged.get(name_at(endpoint, "deliveries"))
                checks += await _look_at_deliveries(database, endpoint, noted.get(endpoint), refusals, url)
        if address is not None:
            there = database if standing is not None else None
            for endpoint in _on(workplace, used):
                keys = workplace.secrets.webhook(endpoint)
                checks.append(await _send_one(endpoint, keys, there, address.url(endpoint)))
        if database is not None and standing is not None:
            checks += stands(standing)
            checks += await _look_at_gaps(database)
    return checks


async def _read_webhooks(database: Database) -> dict[str, Webhook]:
    """Read what is registered, by endpoint."""
    noted = {endpoint: await read_webhook(database, endpoint) for endpoint in ENDPOINTS}
    return {endpoint: known for endpoint, known in noted.items() if known is not None}


def _in_use(workplace: Workplace, noted: Mapping[str, Webhook]) -> Sequence[str]:
    """Return the endpoints that are on or have a webhook; the audit's if none is."""
    on = workplace.environment.endpoints
    return [endpoint for endpoint in ENDPOINTS if endpoint in on or endpoint in noted] or [AUDIT]


def _on(workplace: Workplace, used: Sequence[str]) -> Sequence[str]:
    """Return those of them that are to take a delivery: those that are on, and all of them if none is."""
    on = workplace.environment.endpoints
    return [endpoint for endpoint in used if endpoint in on] or used


async def _open(
    workplace: Workplace, stack: AsyncExitStack, checks: list[Check]
) -> tuple[Database | None, Standing | None]:
    """Open the database and look at it; what cannot be opened is None."""
    try:
        database = await stack.enter_async_context(workplace.database())
        version = await server_version(database)
    except SettingsError as error:
        checks.append(
            red("database", error.problem, error.next_step or "set DATABASE_URL as the database's owner gave it")
        )
        return None, None
    except (DatabaseUnavailableError, CommandError) as error:
        checks.append(red("database", error.problem, error.next_step))
        return None, None
    checks.append(_server(version, embedded=workplace.environment.database_url is None))
    try:
        standing = await read_standing(database)
    except DatabaseUnavailableError as error:
        unreadable = isinstance(error, ImpossibleDateError)
        there = (error.problem, error.next_step) if unreadable else ("our tables are not there", MIGRATE)
        checks.append(red("schema", *there))
        return database, None
    if standing is None or standing.revision is None:
        checks.append(red("schema", "it is incomplete", "restore the database, or migrate another"))
        return database, None
    if age_of(standing.revision) in {"older", "forgotten"}:
        expected = f"it is at {standing.revision}, this code expects {NEWEST}"
        checks.append(red("schema", expected, MIGRATE))
        return database, None
    checks.append(_schema(standing.revision, open_to_all=await everybody_may_create(database)))
    if standing.behind_pooler:
        checks.append(red("pooler", "one stands before PostgreSQL; LISTEN does not work", "connect directly"))
    else:
        checks.append(green("pooler", "none in front"))
    return database, standing


def _schema(revision: str, *, open_to_all: bool) -> Check:
    if open_to_all:
        return yellow(
            "schema",
            f"at {revision}, and every role may create functions in it, which ours would run with all their rights",
            "close it, as docs/applications.md says: REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        )
    return green("schema", f"at {revision}")


def _server(version: str, *, embedded: bool) -> Check:
    """Say which PostgreSQL it is; one that is too old lets no connection of ours come about."""
    return green("database", f"PostgreSQL {version} answers{', embedded (for laptops)' if embedded else ''}")


def _look_at_the_keys(workplace: Workplace, used: Sequence[str]) -> list[Check]:
    """Look at the vault, the flags and the keys; keys that have not been read yet are not judged."""
    environment, secrets = workplace.environment, workplace.secrets
    checks = [keychecks.flag(endpoint, environment, workplace.here, used=endpoint in used) for endpoint in ENDPOINTS]
    if environment.vault is not None:
        checks = [*keychecks.vault(environment.vault, secrets, workplace.here), *checks]
    if secrets.are_known:
        names = None if environment.vault is None else workplace.settings.vault.names
        checks += keychecks.keys(secrets.keys, desk_url=environment.freescout_url, names=names, endpoints=used)
    return checks


async def _look_at_the_desk(workplace: Workplace, database: Database | None, standing: Standing | None) -> list[Check]:
    environment = workplace.environment
    if environment.freescout_url is None or workplace.secrets.api_key() is None:
        return []
    checks = []
    if standing is not None and standing.desk_url not in {None, workplace.desk_name}:
        checks.append(
            red(
                "desk",
                f"the database holds the tickets of {standing.desk_url}",
                f"set that FREESCOUT_URL or, if it moved, freescout-audit desk change {environment.freescout_url}",
            )
        )
    try:
        async with workplace.desk() as desk, asyncio.timeout(_DESK_PATIENCE):
            checks += await _ask_the_desk(desk.reads, workplace, database, standing)
    except TimeoutError:
        checks.append(
            red("API", f"no answer within {_DESK_PATIENCE:g} s", "is the desk up, and is FREESCOUT_URL right?")
        )
    except DeskError as error:
        checks.append(red("API", error.problem, error.next_step))
    except DatabaseUnavailableError as error:
        checks.append(red("database", error.problem, "it went away while we looked: try again"))
    return checks


async def _ask_the_desk(
    desk: FreeScout, workplace: Workplace, database: Database | None, standing: Standing | None
) -> list[Check]:
    page = await desk.page(size=1, sort="createdAt", retries=0)
    now = datetime.now(UTC) if database is None or standing is None else await database.now()
    checks = [green("API", f"answers, and lets us read: {page.total:,} conversations"), _clock(page.desk_clock, now)]
    size = workplace.settings.poller.page_size
    began = time.perf_counter()
    try:
        page = await desk.page(size=size, retries=0)
    except DeskServerError as error:
        next_step = (
            f"{error.next_step.rstrip('?')}; a row, or too small a memory for them? set a smaller POLLER_PAGE_SIZE"
        )
        checks.append(red("page size", f"{size} rows: {error.problem}", next_step))
    except DeskError as error:
        checks.append(red("page size", f"{size} rows: {error.problem}", "set a smaller POLLER_PAGE_SIZE"))
    else:
        detail = f"{page.rows} of {size} rows in {span(time.perf_counter() - began)}"
        limit = page.rows if page.is_short else page.limit
        if limit < size:
            detail = f"the desk gives at most {limit} rows a page, whatever is asked for; read in such pages"
        checks.append(green("page size", detail))
        if page.none_understood:
            checks.append(
                red(
                    "rows",
                    "no row of the page is understood: every ticket reads none",
                    "see desk.strange_row in the log; have the desk's dates lost their zone?",
                )
            )
    return checks


def _clock(theirs: datetime, ours: datetime) -> Check:
    """Compare the desk's clock, which has whole seconds, with ours."""
    ahead = (theirs - ours).total_seconds()
    detail = f"{span(ahead)} {'ahead of' if ahead > 0 else 'behind'} ours"
    if abs(ahead) <= _CLOCK_GOOD:
        return green("clock", "the desk's agrees with ours")
    if abs(ahead) <= _CLOCK_TOLERATED:
        return yellow("clock", detail, "set the desk's time server right")
    return red(
        "clock",
        f"{detail}; without a poller, which measures it, deliveries are not believed",
        "set the desk's time server right",
    )


async def _look_at_deliveries(
    database: Database, endpoint: str, known: Webhook | None, refusals: Condition | None, url: str | None
) -> list[Check]:
    """Look at what is registered for an endpoint, as far as anybody can tell, and at what has come to it."""
    last = await read_last_delivery(database, endpoint)
    standing_at = await database.now()
    name = check_at(endpoint, "deliveries")
    checks = [webhook(known, came=last is not None, url=url, endpoint=endpoint)]
    if refusals is not None:
        checks.append(of_condition(check_at(endpoint, "refusals"), refusals))
    if last is None:
        next_step = f"change a ticket made for tests: freescout-audit webhook test ID{option_of(endpoint)}"
        return [*checks, yellow(name, "none has come yet", next_step)]
    deliveries, twins = await count_twins(database, _NEWEST, endpoint)
    if twins >= max(_FEW_TWINS, _MANY_TWINS * deliveries):
        checks.append(
            red(
                name,
                f"{twins} of the last {deliveries} came twice: the webhook is registered twice",
                "find the other at Manage » API & Webhooks: freescout-audit webhook remove --id ID",
            )
        )
    else:
        checks.append(green(name, f"the last {ago(last.received_at, standing_at)}: {last.event}"))
    return checks


def webhook(known: Webhook | None, *, came: bool, url: str | None, endpoint: str = AUDIT) -> Check:
    """Judge what is noted of an endpoint's webhook; FreeScout's API cannot list any."""
    name = check_at(endpoint, "webhook")
    at = option_of(endpoint)
    if known is None and not came:
        return yellow(name, "none is noted", f"freescout-audit webhook register https://<app>{at}")
    if known is None:
        next_step = f"freescout-audit webhook register https://<app>{at} --id ID"
        return yellow(name, "deliveries come, but its id is not noted", next_step)
    if known.webhook_id is None:
        return red(
            name,
            f"a registration began at {moment(known.began_at)} and did not end",
            f"freescout-audit webhook register https://<app>{at} says how to go on",
        )
    if url is not None and known.url != url:
        next_step = f"freescout-audit webhook register URL{at} --replace"
        return red(name, f"{known.webhook_id} is registered for {known.url}", next_step)
    missing = sorted(set(CONVERSATION_EVENTS) - set(known.events))
    if missing:
        return yellow(name, f"{known.webhook_id} lacks {', '.join(missing)}", "remove it and register it again")
    return green(name, f"{known.webhook_id}, all conversation events, {known.url}")


async def _send_one(endpoint: str, keys: Sequence[Secret], database: Database | None, url: str) -> Check:
    name = check_at(endpoint, "self-test")
    if not keys:
        return yellow(name, "nothing to sign with", "the webhook key comes first")
    try:
        sent = await selftest.send(url, keys[0], database)
    except FreescoutAuditError as error:
        return red(name, error.problem, error.next_step or "try again")
    if sent.same_database is False:
        return red(
            name,
            "it was taken, but does not stand in this database",
            "the address is of another app, or DATABASE_URL of another database",
        )
    return green(name, f"signed, taken and journalled in {span(sent.seconds)}")


async def _look_at_gaps(database: Database) -> list[Check]:
    gaps = await count_gaps(database, _DAY)
    if gaps["lost"]:
        return [
            yellow(
                "gaps",
                f"{gaps['lost']:,} deliveries of the last 24 h were lost; all are healed",
                "freescout-audit gaps --verdict lost, then FreeScout's own delivery log",
            )
        ]
    return [green("gaps", "no delivery of the last 24 h was lost")]
