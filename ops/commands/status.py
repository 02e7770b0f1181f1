"""``status``: everything that stands, on one screen."""

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
import typer
from rich.console import RenderableType
from rich.text import Text

from db.answers import AnswerTally, read_answers, refusals_of, verified_at
from db.components import read_wrong
from db.condition import judge
from db.database import Database
from db.gaps import count_gaps
from db.journal import Lag, LastDelivery, count_outcomes, read_lag, read_last_delivery
from db.runbook import remedy
from db.standing import Standing
from db.tickets import read_holdings
from db.webhook import read_webhook
from freescout_audit.endpoints import AUDIT, ENDPOINTS
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.trust import vouched_until
from freescout_audit.words import ago, moment, span
from ops.check import Check, of_condition
from ops.conditions import judge_answers, try_writing
from ops.drawing import facts, titled
from ops.output import WIDEST, AsJson, Screen, show, tell_failure
from ops.result import CommandResult, Exit
from ops.runner import run_command, run_until_stopped
from ops.workplace import Workplace, standing_of

DAY = timedelta(days=1)
LOOK_EVERY = 3.0
"""Seconds between two looks of ``--watch``."""


class LeaseStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Until when the last complete pass vouches for everything."""

    until: datetime | None
    seconds_left: float | None
    complete_through: datetime | None


class PollerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Who leads, and whether it lives; ``load_until`` is how far a first load has come."""

    alive: bool
    leader: str | None
    led_since: datetime | None
    heartbeat_at: datetime | None
    load_until: datetime | None
    stepped_down_at: datetime | None
    retired_at: datetime | None
    """Since when push alone is meant; None: a poller is expected."""


class PassStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The last complete pass."""

    ended_at: datetime
    seconds: float
    rows: int
    requests: int


class DeskStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the poller reports of FreeScout's API; ``clock_offset_s``: how far its clock is ahead of ours."""

    url: str | None
    state: str
    detail: str
    since: datetime | None
    silent_since: datetime | None
    trouble: str
    """What FreeScout does wrong for some tickets while its API answers."""
    clock_offset_s: float


class EndpointStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What came to an endpoint; the webhook's id is None when none is noted, the others when nothing was verified."""

    webhook_id: int | None
    verified_at: datetime | None
    key_fingerprint: str | None
    deliveries_24h: Mapping[str, int]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What ``status --json`` says."""

    now: datetime
    tickets: int
    lease: LeaseStatus
    poller: PollerStatus
    last_pass: PassStatus | None
    desk: DeskStatus
    last_delivery: LastDelivery | None
    deliveries_24h: Mapping[str, int]
    endpoints: Mapping[str, EndpointStatus]
    """By endpoint, the audit's and those that are used: switched on here, registered, or delivered to."""
    lag_24h: Lag
    disputes: int
    oldest_dispute: datetime | None
    gaps_24h: Mapping[str, int]
    refusals: Mapping[str, AnswerTally]
    """Requests that were not believed, by kind, since the first release."""
    problems: Sequence[Check]
    """What is wrong, and what to do about it."""


def status(
    *,
    watching: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again every few seconds, until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """How it is: lease, passes, deliveries, lag, disputes and gaps, on one screen."""
    if watching:
        run_until_stopped(watch, as_json=as_json)
    else:
        run_command(look, as_json=as_json)


async def look(workplace: Workplace) -> CommandResult:
    """Read and show how it is."""
    async with workplace.database() as database:
        document = await read_status(database, workplace.environment.endpoints)
    return CommandResult(document, picture(document), Exit.WRONG if document.problems else Exit.GOOD)


async def watch(workplace: Workplace, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Read and show how it is, again and again; a database that goes away is shown, and asked again.

    A terminal is drawn anew each time; elsewhere one picture, or one document a line, follows the other.
    """
    # Imported here: only who watches needs it.
    from rich.live import Live  # noqa: PLC0415

    screen = Screen(highlight=False)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(workplace.database())
        live = None
        if screen.is_terminal and not workplace.as_json:
            live = stack.enter_context(Live(console=screen, auto_refresh=False))
        while True:
            try:
                document = await read_status(database, workplace.environment.endpoints)
            except DatabaseUnavailableError as error:
                if workplace.as_json:
                    tell_failure(error, Exit.UNAVAILABLE, as_json=True)
                shown: RenderableType = Text(f"✗ {error}", "red")
            else:
                if workplace.as_json:
                    show(CommandResult(document, ""), as_json=True)
                shown = picture(document)
            if live is not None:
                live.update(shown, refresh=True)
            elif not workplace.as_json:
                screen.print(shown, "", width=min(screen.width, WIDEST))
                sys.stdout.flush()
            await sleep(LOOK_EVERY)


async def read_status(database: Database, endpoints: Sequence[str] = (AUDIT,)) -> Status:
    """Read how it is; ``endpoints`` are those that are on.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away or not migrated.
    """
    standing = await standing_of(database)
    holdings = await read_holdings(database)
    answers = await read_answers(database)
    conditions = judge(standing) | dict(await judge_answers(database, endpoints))
    outcomes = await count_outcomes(database, DAY)
    checks = [
        *(of_condition(name, each) for name, each in conditions.items()),
        await try_writing(database),
        *(
            Check(
                name=f"{each.name} at {each.process}",
                state="red",
                detail=each.detail,
                next_step=each.next_step,
                runbook=remedy(each.name),
            )
            for each in await read_wrong(database)
            if each.name not in conditions
        ),
    ]
    return Status(
        now=standing.now,
        tickets=holdings.living,
        lease=_lease(standing),
        poller=PollerStatus(
            alive=standing.poller == "leads",
            leader=standing.leader,
            led_since=standing.led_since,
            heartbeat_at=standing.lease.heartbeat_at,
            load_until=standing.load_cursor,
            stepped_down_at=standing.stepped_down_at,
            retired_at=standing.retired_at,
        ),
        last_pass=_last_pass(standing),
        desk=DeskStatus(
            url=standing.desk_url,
            state=standing.desk_state,
            detail=standing.desk_detail,
            since=standing.desk_since,
            silent_since=standing.silent_since,
            trouble=standing.trouble,
            clock_offset_s=round(standing.lease.clock_offset.total_seconds(), 3),
        ),
        last_delivery=await read_last_delivery(database),
        deliveries_24h=dict(sorted(_sum(outcomes.values()).items())),
        endpoints=await _read_endpoints(database, endpoints, answers, outcomes),
        lag_24h=await read_lag(database, DAY),
        disputes=holdings.disputed,
        oldest_dispute=holdings.oldest_dispute,
        gaps_24h=await count_gaps(database, DAY),
        refusals=refusals_of(answers),
        problems=[check for check in checks if check.state == "red"],
    )


def _sum(counts: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
    return sum((Counter(each) for each in counts), Counter())


async def _read_endpoints(
    database: Database,
    on: Sequence[str],
    answers: Mapping[str, AnswerTally],
    outcomes: Mapping[str, Mapping[str, int]],
) -> Mapping[str, EndpointStatus]:
    found = {}
    for endpoint in ENDPOINTS:
        noted, verified = await read_webhook(database, endpoint), verified_at(answers, endpoint)
        if endpoint == AUDIT or endpoint in {*on, *outcomes} or noted is not None:
            found[endpoint] = EndpointStatus(
                webhook_id=None if noted is None else noted.webhook_id,
                verified_at=None if verified is None else verified.last_at,
                key_fingerprint=None if verified is None else verified.key_fingerprint,
                deliveries_24h=outcomes.get(endpoint, {}),
            )
    return found


def _lease(standing: Standing) -> LeaseStatus:
    until = standing.lease.lease_until and (vouched_until(standing.lease, standing.now) or standing.now)
    left = None if until is None else round((until - standing.now).total_seconds(), 1)
    return LeaseStatus(until=until, seconds_left=left, complete_through=standing.lease.complete_through)


def _last_pass(standing: Standing) -> PassStatus | None:
    if standing.passed_at is None:
        return None
    return PassStatus(
        ended_at=standing.passed_at,
        seconds=round(standing.pass_seconds or 0.0, 3),
        rows=standing.pass_rows or 0,
        requests=standing.pass_requests or 0,
    )


def picture(status: Status) -> RenderableType:
    """Draw it."""
    return titled(
        f"freescout-audit at {moment(status.now)}",
        *(Text(f"✗ {problem.name}: {problem.detail}\n  → {problem.what_to_do}", "red") for problem in status.problems),
        facts(
            ("lease", _draw_lease(status)),
            ("poller", _draw_poller(status)),
            ("last pass", _draw_pass(status)),
            ("desk", _draw_desk(status)),
            ("last delivery", _draw_delivery(status)),
            *_draw_endpoints(status),
            ("lag, 24 h", draw_lag(status.lag_24h)),
            ("refusals", _draw_refusals(status)),
            ("disputes", _draw_disputes(status)),
            ("gaps, 24 h", _draw_counts(status.gaps_24h, red=("lost",), yellow=("late",))),
            ("tickets", f"{status.tickets:,}"),
        ),
    )


def _draw_lease(status: Status) -> Text:
    left = status.lease.seconds_left
    if left is None:
        return Text("no pass has been complete yet", "yellow")
    if left <= 0:
        return Text(f"ended {span(left)} ago: everything that only it vouched for reads none", "red")
    return Text.assemble(("valid", "green"), f" for {span(left)} more, until {moment(status.lease.until, day=False)}")


def _draw_poller(status: Status) -> Text:
    poller = status.poller
    if not poller.alive and poller.retired_at is not None:
        return Text(f"none; push alone is meant since {moment(poller.retired_at)}")
    if not poller.alive:
        return Text(f"no poller is running (last heartbeat {ago(poller.heartbeat_at, status.now)})", "yellow")
    led = "" if poller.led_since is None else f" for {span((status.now - poller.led_since).total_seconds())}"
    who = f": {poller.leader} leads{led}, heartbeat {ago(poller.heartbeat_at, status.now)}"
    return Text.assemble(("alive", "green"), who)


def _draw_pass(status: Status) -> Text:
    last = status.last_pass
    if last is None:
        loaded = status.poller.load_until
        under_way = "" if loaded is None else f"; the first load has come to tickets created {moment(loaded)}"
        return Text(f"none yet{under_way}", "yellow")
    work = f"{last.rows:,} rows in {last.requests} requests, {span(last.seconds)}"
    return Text(f"{ago(last.ended_at, status.now)}, {work}")


def _draw_desk(status: Status) -> Text:
    desk = status.desk
    since = "" if desk.since is None else f" since {moment(desk.since)}"
    ahead = desk.clock_offset_s
    # Its Date has whole seconds.
    clock = f", its clock {span(ahead)} {'ahead' if ahead > 0 else 'behind'}" if abs(ahead) > 1 else ""
    if not status.poller.alive:
        return Text("FreeScout has not been asked lately", "yellow")
    if desk.silent_since is not None:
        return Text(f"neither push nor pull works since {moment(desk.silent_since)}: {desk.detail}", "red")
    if desk.state == "ok" and desk.trouble:
        return Text(f"answers{since}{clock}, but {desk.trouble}", "red")
    if desk.state == "ok":
        return Text.assemble(("answers", "green"), f"{since}{clock}")
    if desk.state == "unknown":
        return Text("FreeScout has not been asked yet", "yellow")
    return Text(f"{desk.state}{since}: {desk.detail}", "red")


def _draw_delivery(status: Status) -> Text:
    last = status.last_delivery
    if last is None:
        return Text("none has come yet", "yellow")
    ticket = "" if last.ticket_id is None else f", ticket {last.ticket_id}"
    return Text(f"{ago(last.received_at, status.now)}: {last.event}{ticket}, {last.outcome}")


def _draw_endpoints(status: Status) -> Iterator[tuple[str, Text]]:
    """Draw what came in a day, of each endpoint where there are two."""
    for name, endpoint in status.endpoints.items():
        counts = _draw_counts(endpoint.deliveries_24h, red=("unusable",), yellow=("disputed",))
        if len(status.endpoints) == 1:
            yield "deliveries, 24 h", counts
            continue
        noted = "no webhook is noted" if endpoint.webhook_id is None else f"webhook {endpoint.webhook_id}"
        verified = f"the last verified {ago(endpoint.verified_at, status.now)}"
        if endpoint.key_fingerprint is not None:
            verified += f", by key {endpoint.key_fingerprint}"
        yield f"{name}, 24 h", Text.assemble(counts, f"; {verified}; {noted}")


def _draw_counts(counts: Mapping[str, int], *, red: tuple[str, ...], yellow: tuple[str, ...]) -> Text:
    """Write counts one after the other, the ones that ought to be looked at in colour."""
    if not any(counts.values()):
        return Text("none")
    text = Text()
    for name, count in counts.items():
        style = "" if not count else "red" if name in red else "yellow" if name in yellow else ""
        text.append(", " if text else "").append(f"{count:,} {name.replace('_', ' ')}", style)
    return text


def draw_lag(lag: Lag) -> Text:
    """Draw how late deliveries are."""
    if lag.p50 is None or lag.p95 is None or lag.max is None:
        return Text("no delivery told of a change")
    shown = f"p50 {span(lag.p50)}, p95 {span(lag.p95)}, slowest {span(lag.max)}"
    return Text(f"{shown} ({lag.samples:,} deliver{'y' if lag.samples == 1 else 'ies'})")


def _draw_refusals(status: Status) -> Text:
    if not status.refusals:
        return Text("none")
    shown = (
        f"{tally.answers:,} {kind.replace('_', ' ')} (the last {ago(tally.last_at, status.now)})"
        for kind, tally in status.refusals.items()
    )
    return Text(", ".join(shown))


def _draw_disputes(status: Status) -> Text:
    if not status.disputes:
        return Text("none")
    return Text(f"{status.disputes:,}, the oldest since {moment(status.oldest_dispute)}", "yellow")
