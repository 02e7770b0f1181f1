"""The saved searches find the trouble they are about, and nothing else, in every language that can be run here.

The logs in tests/recordings/logs are of our processes at a simulated desk, one scene each (`python -m proof.searches
--record`); scenes.json says what was done, which is known without the log.
"""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest

from conftest import ENVIRONMENT, Log
from db.database import Database
from freescout_audit.events import CATALOGUE
from freescout_audit.rule import Terms
from freescout_audit.signature import fingerprint
from ops.loglines import Filter, LogLine, read_line
from ops.search_forms import TICKET, grep, jq, papertrail
from ops.searches import BY_NAME, SEARCHES, Search
from poller.freescout import DeskError
from poller.jobs import Jobs
from proof.searches.page import PAGE, RECORDINGS, write_page
from proof.searches.record import SCENES, Scene
from receiver.health import Health
from receiver.metrics import Metrics
from settings import load_settings
from simulator import ApiFault
from support.console_world import run
from support.examples import signed
from support.processes import ROOT
from support.world import WEBHOOK, World, make_world, settle_gaps

DONE = msgspec.json.decode((RECORDINGS / "scenes.json").read_bytes(), type=dict[str, Scene])
FOUND_IN: Mapping[str, set[str]] = {
    "refused": {"refused", "keys", "changed"},
    "lost": {"lost"},
    "untrusted": {"untrusted"},
    "late": {"late"},
    "passes": {"passes", "keys"},
    "keys": {"keys", "started", "late", "untrusted", "changed"},
    "changed": {"started", "late", "untrusted", "changed", "keys"},
}
"""The scenes with something to find. A process that starts is a change, and says what keys it was given."""

Row = dict[str, Any]


def texts(scene: str) -> list[str]:
    return (RECORDINGS / f"{scene}.jsonl").read_text(encoding="ascii").splitlines()


def found(name: str, scene: str, ticket: int | None = None) -> list[LogLine]:
    """What a search finds in a scene."""
    wanted = Filter(saved=[BY_NAME[name]], ticket_id=ticket)
    lines = [line for text in texts(scene) if (line := read_line(text)) is not None]
    return [line for line in lines if wanted.wants(line)]


def tickets(lines: list[LogLine]) -> list[object]:
    return [line.fields["ticket_id"] for line in lines]


def test_every_scene_is_recorded() -> None:
    assert list(DONE) == list(SCENES)
    assert {path.stem for path in RECORDINGS.glob("*.jsonl")} == set(SCENES)


def test_every_recorded_event_is_in_the_catalogue() -> None:
    recorded = {json.loads(text)["event"] for scene in SCENES for text in texts(scene)}

    assert recorded <= {event.name for event in CATALOGUE}


@pytest.mark.parametrize("name", FOUND_IN)
def test_a_search_finds_something_only_where_its_trouble_is(name: str) -> None:
    assert {scene for scene in SCENES if found(name, scene)} == FOUND_IN[name]


class TestTheTroubleIsFoundAndOnlyIt:
    def test_sending_is_each_delivery_of_a_healthy_desk(self) -> None:
        assert tickets(found("sending", "healthy")) == DONE["healthy"].tickets

    def test_sending_is_every_delivery_and_no_strangers(self) -> None:
        scene = DONE["refused"]

        lines = found("sending", "refused")

        assert tickets(lines) == scene.spared
        assert not {line.fields["request_id"] for line in lines} & set(scene.requests)

    def test_sending_pauses_while_the_keys_differ_and_tells_the_new_one(self) -> None:
        scene = DONE["keys"]
        changed, put_right = scene.trouble

        lines = found("sending", "keys")

        assert [line for line in lines if changed < line.at < put_right] == []
        by_key = {line.fields["key_fingerprint"]: line.at for line in lines}
        assert list(by_key) == scene.keys

    def test_refused_are_the_strangers_since_they_came(self) -> None:
        scene = DONE["refused"]
        began, ended = scene.trouble

        lines = found("refused", "refused")

        assert [line.fields.get("request_id") for line in lines][:2] == scene.requests[:2]
        assert len(lines) == len(scene.requests)
        assert all(began <= line.at <= ended for line in lines)
        assert not any("next_step" in line.fields for line in lines), "none of them looks like FreeScout's"

    def test_a_ticket_is_all_that_happened_to_it(self) -> None:
        scene = DONE["ticket"]
        (ticket,) = scene.tickets

        lines = found("ticket", "ticket", ticket)

        deliveries = [line for line in lines if "freescout_event" in line.fields]
        assert [line.fields["freescout_event"] for line in deliveries] == ["convo.status"] * 2
        assert [line.event for line in lines[-3:]] == ["ticket.missing", "gap.found", "question.answered"]
        assert lines[-1].fields["answer"] == "gone"
        assert {ticket} == set.union(*(line.ticket_ids for line in lines))

    def test_lost_are_the_two_and_not_the_one_that_was_overtaken(self) -> None:
        assert sorted(tickets(found("lost", "lost")), key=str) == DONE["lost"].tickets

    def test_late_are_the_two_and_not_the_one_in_time(self) -> None:
        lines = found("late", "late")

        assert sorted(tickets(lines), key=str) == DONE["late"].tickets
        assert {line.event for line in lines} == {"delivery.applied", "gap.late"}

    def test_untrusted_is_from_the_end_of_the_poller_to_its_return(self) -> None:
        killed, restarted = DONE["untrusted"].trouble

        lines = found("untrusted", "untrusted")

        bad = [line for line in lines if line.event == "lease.expired" or line.fields.get("state") == "failed"]
        good = [line for line in lines if line not in bad]
        assert killed < bad[0].at < restarted < good[0].at
        assert bad[-1].at < good[0].at
        assert {line.event for line in bad} == {"receiver.state", "lease.expired"}
        assert {line.event for line in good} == {"receiver.state", "lease.restored"}

    def test_passes_are_those_that_failed_and_why(self) -> None:
        broken, mended = DONE["passes"].trouble

        lines = found("passes", "passes")

        assert len(lines) >= 2
        assert {line.fields["reason"] for line in lines} == {"FreeScout answers 500"}
        assert all(broken < line.at <= mended + timedelta(seconds=60) for line in lines)

    def test_keys_tell_when_both_changed_and_when_we_got_the_new_ones(self) -> None:
        changed, put_right = DONE["keys"].trouble

        lines = found("keys", "keys")

        assert all(line.at > changed for line in lines)
        first = {line.event: line.at for line in reversed(lines)}
        assert first.keys() == {"delivery.unverified", "pass.failed", "vault.read"}
        assert max(first["delivery.unverified"], first["pass.failed"]) < put_right < first["vault.read"]

    def test_changed_are_the_starts_before_the_trouble(self) -> None:
        released, broken, _ = DONE["changed"].trouble
        refused = found("refused", "changed")

        lines = [line for line in found("changed", "changed") if line.at < refused[0].at]

        assert [line.event for line in lines if line.event != "vault.read"] == [
            "poller.steps_down",
            "poller.leads",
            "receiver.stopping",
            "receiver.started",
        ]
        assert all(released < line.at < broken for line in lines)

    def test_asked_is_each_pass_and_each_question(self) -> None:
        lines = found("asked", "ticket")

        answers = [line for line in lines if line.event == "question.answered"]
        disputed = [json.loads(text) for text in texts("ticket") if '"outcome": "disputed"' in text]
        assert tickets(answers) == [line["ticket_id"] for line in disputed] + DONE["ticket"].tickets
        assert {line.event for line in lines} == {"pass.completed", "ticket.missing", "question.answered"}
        assert all(line.fields["requests"] for line in lines if line.event == "pass.completed")


# Every language finds the same as the definition, in lines as they are written and as Heroku shows them.


def plain(text: str) -> str:
    return text


def heroku(text: str) -> str:
    line = json.loads(text)
    dyno = {"receiver": "web.1", "poller": "poller.1"}[line["process"]]
    return f"{line['timestamp'].replace('Z', '+00:00')} app[{dyno}]: {text}"


def elsewhere(text: str) -> str:
    """As docker compose, journald and a syslog drain with braces of its own show it, by turns."""
    prefixes = (
        "web-1     | ",
        "Nov 25 10:00:05 host python[4242]: ",
        '<14>1 2026-11-25T10:00:05Z host freescout-audit 4242 - [meta id="{1}"] ',
    )
    return prefixes[len(text) % 3] + text


FOREIGN = [
    "",
    '2026-11-25T10:00:01.000000+00:00 heroku[router]: at=info method=POST path="/api/{}" status=200 bytes=2',
    '{"logger": "another", "event": "gap.lost", "ticket_id": 15}',
    '{"logger": "freescout_audit", "process": "poller", "timestamp": "2026-11-25T10:00:00Z", "event": "gap.lo',
]


def the_log(shape: Callable[[str], str]) -> str:
    """All scenes in a row, with lines of others in between."""
    shown = [shape(text) for scene in SCENES for text in texts(scene)]
    return "\n".join([*FOREIGN, *shown[:20], *FOREIGN, *shown[20:], *FOREIGN]) + "\n"


def by_definition(search: Search, ticket: int) -> list[Row]:
    rows = [json.loads(text) for scene in SCENES for text in texts(scene)]
    if search.needs_ticket:
        return [row for row in rows if row.get("ticket_id") == ticket or ticket in row.get("tickets", [])]
    return [row for row in rows if search.finds(row["event"], row)]


def in_a_shell(pipeline: str, log: str) -> Iterator[Row]:
    done = subprocess.run(["sh", "-c", pipeline], input=log, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    for text in done.stdout.splitlines():
        yield json.loads(text[text.index('{"logger"') :])


def with_jq(search: Search, log: str, ticket: int) -> list[Row]:
    if shutil.which("jq") is None:
        pytest.skip("Debian's package jq is not installed")
    return list(in_a_shell(jq(search).replace(str(TICKET), str(ticket)), log))


def with_grep(search: Search, log: str, ticket: int) -> list[Row]:
    return list(in_a_shell(grep(search).replace(str(TICKET), str(ticket)), log))


def with_the_console(search: Search, log: str, ticket: int) -> list[Row]:
    about = ("--ticket", str(ticket)) if search.needs_ticket else ()
    said = run("logs", "--json", "--saved", search.name, *about, variables={}, typed=log)
    assert said.code == 0
    return [json.loads(text) for text in said.out.splitlines()]


@pytest.mark.parametrize("shape", [plain, heroku, elsewhere])
@pytest.mark.parametrize("run_it", [with_the_console, with_jq, with_grep])
def test_each_language_finds_what_the_definition_says(
    run_it: Callable[[Search, str, int], list[Row]], shape: Callable[[str], str]
) -> None:
    log, (ticket,) = the_log(shape), DONE["ticket"].tickets

    for search in SEARCHES:
        expected = by_definition(search, ticket)
        assert expected, search.name
        assert run_it(search, log, ticket) == expected, search.name


def test_a_ticket_is_found_among_several_and_not_by_its_digits() -> None:
    rows: list[Row] = [{"ticket_id": 15}, {"tickets": [7, 15]}, {"tickets": [15, 7], "n": 1}, {"tickets": [15]}]
    others: list[Row] = [{"ticket_id": 150}, {"ticket_id": 115}, {"tickets": [150, 5]}, {"rows": 15}, {"tickets": 15}]
    common: Row = {
        "logger": "freescout_audit",
        "process": "poller",
        "timestamp": "2026-11-25T10:00:00Z",
        "level": "info",
    }
    lines = [common | {"event": "ticket.missing"} | row for row in [*rows, *others]]
    log = "".join(json.dumps(row) + "\n" for row in lines)

    for run_it in (with_the_console, with_grep, with_jq):
        assert run_it(BY_NAME["ticket"], log, 15) == lines[: len(rows)]


@pytest.mark.parametrize(
    ("lag", "is_late"),
    [(0.004, False), (9.9, False), (29.999, False), (30.0, True), (30, True), (99.5, True), (3e5, True)],
)
def test_a_number_is_compared_by_every_language(lag: float, *, is_late: bool) -> None:
    row = {
        "logger": "freescout_audit", "process": "receiver", "timestamp": "2026-11-25T10:00:00Z", "level": "info",
        "event": "delivery.applied", "ticket_id": 15, "lag_s": lag, "bytes": 4711,
    }  # fmt: skip

    for run_it in (with_the_console, with_grep, with_jq):
        assert run_it(BY_NAME["late"], json.dumps(row) + "\n", 15) == ([row] if is_late else [])


# Papertrail cannot be run here. This is our reading of its documented syntax: words and quoted phrases are fragments of
# the line, whatever their case; what stands side by side has all to be there; OR and brackets.


def papertrail_finds(query: str, line: str) -> bool:
    tokens = re.findall(r"'[^']*'|[()]|[^\s()']+", query)

    def any_of() -> bool:
        holds = all_of()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            holds = all_of() or holds
        return holds

    def all_of() -> bool:
        holds = True
        while tokens and tokens[0] not in {"OR", ")"}:
            token = tokens.pop(0)
            if token == "(":
                holds = any_of() and holds
                assert tokens.pop(0) == ")"
            else:
                holds = token.strip("'").lower() in line.lower() and holds
        return holds

    holds = any_of()
    assert not tokens
    return holds


@pytest.mark.parametrize("search", [each for each in SEARCHES if each.name != "late"], ids=lambda search: search.name)
def test_papertrails_form_finds_the_same_as_we_read_its_syntax(search: Search) -> None:
    (ticket,) = DONE["ticket"].tickets
    query = papertrail(search).replace(str(TICKET), str(ticket))

    lines = [text for scene in SCENES for text in texts(scene)]

    assert [json.loads(line) for line in lines if papertrail_finds(query, line)] == by_definition(search, ticket)


# What the code writes today is found as well, not only what it wrote when the logs were recorded.


@pytest.fixture
async def world(database: Database, sql: asyncpg.Connection) -> AsyncIterator[World]:
    """All is well, and one delivery has come."""
    async with make_world(database, sql, tickets=6, sockets=False) as world:
        await world.poll()
        flip(world, 6)
        await world.advance(30)
        await world.poll()
        yield world


def now_found(name: str, log: Log) -> list[LogLine]:
    lines = [line for text in log.text.splitlines() if (line := read_line(text)) is not None]
    return [line for line in lines if BY_NAME[name].finds(line.event, line.fields)]


def flip(world: World, ticket_id: int) -> None:
    world.desk.set_status(ticket_id, "closed" if world.desk.get(ticket_id).status != "closed" else "active")


async def test_what_is_lost_or_late_today_is_found(world: World, log: Log) -> None:
    assert not [line for name in ("lost", "late", "refused", "passes", "keys") for line in now_found(name, log)]
    world.desk.faults.drop_next = 1
    flip(world, 3)
    await world.advance(60)
    await world.poll()
    await world.advance(2)
    world.desk.faults.delay = 40
    flip(world, 4)
    await world.advance(60)
    flip(world, 5)
    await world.advance(1)
    await world.poll()
    world.desk.faults.delay = 0
    await world.advance(81 * 60)
    await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)

    assert tickets(now_found("lost", log)) == [3]
    assert tickets(now_found("late", log)) == [4]


async def test_who_is_refused_today_is_found_and_freescout_is_told_from_strangers(world: World, log: Log) -> None:
    raw = b'{"id": 3}'
    url = next(iter(world.desk.webhooks.values())).url
    base, headers = url.removesuffix(WEBHOOK), signed(raw, key="another key")
    async with aiohttp.ClientSession() as client:
        for each in ({}, headers):
            async with client.post(f"{base}{WEBHOOK}", data=raw, headers=each) as answer:
                assert answer.status == 401

    assert len(now_found("refused", log)) == 2
    assert len(now_found("keys", log)) == 1
    assert {line.fields["key_fingerprint"] for line in now_found("sending", log)} == {
        fingerprint(world.desk.webhook_key)
    }


async def test_when_the_cache_is_not_to_be_trusted_today_is_found(
    database: Database, sql: asyncpg.Connection, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.health._FRESH", 0.0)
    health = Health(database, ENVIRONMENT, terms=Terms(), metrics=Metrics())
    alive = "UPDATE freescout_lease SET heartbeat_at = freescout_now(), lease_until = freescout_now() + interval '1 h'"
    await sql.execute("UPDATE freescout_poller SET leader = 'p.1'")
    await sql.execute(alive)
    await health.check()
    assert not now_found("untrusted", log)

    await sql.execute("UPDATE freescout_lease SET heartbeat_at = now() - interval '1 h', lease_until = now()")
    await health.check()
    await sql.execute(alive)
    await health.check()

    said = [(line.event, line.fields.get("state")) for line in now_found("untrusted", log)]
    assert sorted(said, key=str) == [
        ("lease.expired", None),
        ("lease.restored", None),
        ("receiver.state", "failed"),
        ("receiver.state", "ok"),
    ]


async def test_a_pass_that_broke_by_our_own_fault_today_is_found(
    world: World, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    for breaks in ("poller.passes.Passes.run", "db.lease.due_for_a_full_walk", "poller.jobs.prune_journal"):
        monkeypatch.setattr(breaks, broken)
    settings = load_settings({"POLLER_INTERVAL": "300", "POLLER_PEEK": "0"})
    jobs = Jobs(
        world.database,
        world.freescout,
        world.freescout,
        world.passes,
        world.questions,
        settings=settings,
        disputed=asyncio.Event(),
        give_up=lambda: None,
    )
    jobs.start()
    try:
        async with asyncio.timeout(30):
            while len(log.lines("poller.fault")) < 3:  # noqa: ASYNC110 - what others do sets no event
                await asyncio.sleep(0.005)
    finally:
        await jobs.stop()

    assert {line.fields["job"] for line in now_found("passes", log)} == {"pass", "full walk"}


async def test_the_reason_of_a_refused_api_key_is_the_one_that_is_searched_for(world: World) -> None:
    world.desk.faults.api = ApiFault.UNAUTHORIZED

    with pytest.raises(DeskError) as refused:
        await world.passes.run()

    (reason,) = [field.values for kind in BY_NAME["keys"].kinds for field in kind.fields if field.name == "reason"]
    assert (refused.value.problem,) == reason


# The console, and the page.


def test_saved_searches_are_listed_with_their_questions() -> None:
    said = run("logs", "--saved", "list", variables={})
    as_json = run("logs", "--saved", "list", "--json", variables={}).json

    assert [shown.split(maxsplit=1) for shown in said.out.splitlines()] == [
        [search.name, search.question] for search in SEARCHES
    ]
    assert [each["name"] for each in as_json["searches"]] == list(BY_NAME)


def test_a_search_that_is_not_there_is_answered_with_those_that_are() -> None:
    said = run("logs", "--saved", "losst", variables={}, typed="")

    assert said.code == 2
    assert said.err.startswith(
        "✗ 'losst' is no saved search: choose one of these\n  sending    Is FreeScout sending?\n"
    )
    assert all(search.question in said.err for search in SEARCHES)


def test_the_search_for_a_ticket_asks_which() -> None:
    said = run("logs", "--saved", "ticket", variables={}, typed="")

    assert (said.code, said.err) == (2, "✗ the saved search ticket is about one ticket: name it: --ticket 4711\n")


def test_several_searches_and_the_other_filters_combine() -> None:
    log = the_log(plain)
    lost = DONE["lost"].tickets[0]

    both = run("logs", "--saved", "lost", "--saved", "late", "--by", "event", "--json", variables={}, typed=log).json
    one = run("logs", "--saved", "lost", "--ticket", str(lost), "--json", variables={}, typed=log)
    none = run("logs", "--saved", "lost", "--since", DONE["late"].began.isoformat(), variables={}, typed=log)

    assert both["counts"] == {"gap.lost": 2, "delivery.applied": 1, "gap.late": 1}
    assert [json.loads(text)["ticket_id"] for text in one.out.splitlines()] == [lost]
    assert none.out == ""


def test_the_page_is_what_the_definitions_say() -> None:
    """`python -m proof.searches` writes it."""
    assert PAGE.read_text(encoding="utf-8") == write_page()


def test_the_recordings_name_no_place_and_nobody() -> None:
    text = "".join("\n".join(texts(scene)) for scene in SCENES)

    assert not re.search(r"/tmp|/root|/home|@|python3|site-packages", text)
    assert str(ROOT) not in text
