"""``logs``: our lines out of any stream, and the times that operators type."""

import asyncio
import json
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer

from ops.loglines import Filter, LogLine, read_line, value_of
from ops.times import parse_since
from support.console_world import run
from support.processes import ROOT

AT = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)


def line(event: str = "delivery.applied", seconds: float = 0, level: str = "info", **fields: object) -> str:
    at = (AT + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    return json.dumps(
        {"logger": "freescout_audit", "process": "receiver", "timestamp": at, "level": level, "event": event, **fields}
    )


def heroku(payload: str, dyno: str = "web.1") -> str:
    return f"2026-11-25T10:00:00.123456+00:00 app[{dyno}]: {payload}"


LOG = "\n".join(
    [
        heroku(line("delivery.applied", 0, ticket_id=4711, outcome="applied")),
        "2026-11-25T10:00:01.000000+00:00 heroku[router]: at=info method=POST path=/api status=200",
        heroku(line("gap.lost", 5, "warning", ticket_id=12), "poller.1"),
        heroku(line("ticket.missing", 6, tickets=[4711, 13]), "poller.1"),
        heroku('{"logger": "freescout_audit", "event": "cut of'),
        heroku('{"logger": "another", "event": "delivery.applied"}'),
        "Traceback (most recent call last):",
        line("pass.failed", 10, "error", reason="FreeScout answers 503"),
    ]
)


def events(*arguments: str) -> list[str]:
    said = run("logs", "--json", *arguments, variables={}, typed=LOG)
    assert said.code == 0
    return [json.loads(shown)["event"] for shown in said.out.splitlines()]


def test_herokus_prefix_names_the_process() -> None:
    read = read_line(heroku(line("pass.completed", rows=3), "poller.1"))

    assert isinstance(read, LogLine)
    assert (read.process, read.event, read.at, read.fields) == ("poller.1", "pass.completed", AT, {"rows": 3})
    assert value_of(read, "process") == "poller.1"


@pytest.mark.parametrize(
    "foreign",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"logger": "freescout_audit"}',
        '{"logger": "freescout_audit", "timestamp": "soon", "event": "x"}',
        '{"logger": "freescout_audit", "timestamp": "2026-11-25T10:00:00", "event": "x"}',
        "\ufffd\x00" * 30,
        "[" * 5000,
        '{"a":' * 5000,
    ],
)
def test_what_is_not_ours_is_passed_over(foreign: str) -> None:
    assert read_line(foreign) is None
    assert read_line(heroku(foreign)) is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ["delivery.applied", "gap.lost", "ticket.missing", "pass.failed"]),
        (("--ticket", "4711"), ["delivery.applied", "ticket.missing"]),
        (("--event", "gap.*", "--event", "pass.failed"), ["gap.lost", "pass.failed"]),
        (("--level", "warning"), ["gap.lost", "pass.failed"]),
        (("--since", "2026-11-25T10:00:06Z"), ["ticket.missing", "pass.failed"]),
        (("--since", "2026-11-25T10:00:01", "--ticket", "12"), ["gap.lost"]),
    ],
)
def test_filters_narrow_down(arguments: tuple[str, ...], expected: list[str]) -> None:
    assert events(*arguments) == expected


def test_an_unknown_level_is_never_left_out() -> None:
    unheard_of = read_line(line(level="critical"))

    assert unheard_of is not None
    assert Filter(level="error").wants(unheard_of)


def test_a_line_for_people_fits_one_line() -> None:
    said = run("logs", "--ticket", "4711", "--event", "delivery.*", variables={}, typed=LOG)

    assert said.out == "11-25 10:00:00Z web.1     delivery.applied         ticket_id=4711 outcome=applied\n"


def test_lines_are_counted_by_any_field() -> None:
    by_event = run("logs", "--by", "event", "--json", variables={}, typed=LOG).json
    by_level = run("logs", "--by", "level", variables={}, typed=LOG)

    assert by_event == {
        "by": "event",
        "lines": 4,
        "counts": {"delivery.applied": 1, "gap.lost": 1, "ticket.missing": 1, "pass.failed": 1},
    }
    assert [shown.split() for shown in by_level.out.splitlines()] == [
        ["level", "lines"],
        ["info", "2"],
        ["warning", "1"],
        ["error", "1"],
    ]


def test_a_file_is_read_as_well_and_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run.log"
    file.write_bytes(LOG.encode() + b"\n\xff\xfe\n")

    read = run("logs", str(file), "--json", variables={})
    missing = run("logs", str(tmp_path / "no.log"), variables={})

    assert len(read.out.splitlines()) == 4
    reason = "cannot be read (No such file or directory): name another file"
    assert (missing.code, missing.err) == (2, f"✗ {tmp_path}/no.log {reason}\n")


async def test_a_line_is_shown_as_it_comes_and_a_closed_pipe_ends_it_quietly() -> None:
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ops",
        "logs",
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert running.stdin is not None
    assert running.stdout is not None
    assert running.stderr is not None
    try:
        async with asyncio.timeout(30):
            running.stdin.write(line("gap.found", ticket_id=1).encode() + b"\n")
            first = await running.stdout.readline()  # while the stream goes on
            running.stdout._transport.close()  # type: ignore[attr-defined] # noqa: SLF001 - as `| head -1` does
            with suppress(BrokenPipeError, ConnectionResetError):
                while True:
                    running.stdin.write(line("gap.found", ticket_id=2).encode() + b"\n")
                    await running.stdin.drain()
                    await asyncio.sleep(0)
            complaints = await running.stderr.read()
            code = await running.wait()
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()

    assert b"gap.found" in first
    assert (code, complaints) == (0, b"")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("90s", AT - timedelta(seconds=90)),
        ("30m", AT - timedelta(minutes=30)),
        ("1h", AT - timedelta(hours=1)),
        ("2d", AT - timedelta(days=2)),
        ("2026-11-25T09:00", datetime(2026, 11, 25, 9, tzinfo=UTC)),
        ("2026-11-25T09:00:00+02:00", datetime(2026, 11, 25, 7, tzinfo=UTC)),
        ("2026-11-25", datetime(2026, 11, 25, tzinfo=UTC)),
    ],
)
def test_times_are_read_as_operators_type_them(typed: str, expected: datetime) -> None:
    assert parse_since(typed).at(AT) == expected


@pytest.mark.parametrize("typed", ["", "soon", "1y", "-1h", "1.5h", "25.11.2026", "9999999d"])
def test_what_is_no_time_is_answered_with_two_that_are(typed: str) -> None:
    with pytest.raises(typer.BadParameter, match="write 90s, 30m, 1h"):
        parse_since(typed)


WHOLE = line("gap.lost", 5, "warning", ticket_id=12)


@pytest.mark.parametrize(
    ("shown", "process"),
    [
        (f"web-1     | {WHOLE}", "web-1"),
        (f"\x1b[36mweb-1     | \x1b[0m{WHOLE}\x1b[0m", "web-1"),
        (f"Nov 25 10:00:05 host python[4242]: {WHOLE}", "receiver"),
        (json.dumps({"log": WHOLE + "\n", "stream": "stdout", "time": "2026-11-25T10:00:05.1Z"}), "receiver"),
        (json.dumps({"MESSAGE": WHOLE, "_SYSTEMD_UNIT": "web.service"}), "receiver"),
        (f"<190>1 2026-11-25T10:00:05.1+00:00 host app web.1 - - {WHOLE}", "web.1"),
        (f"312 <190>1 2026-11-25T10:00:05.1+00:00 host app poller.1 - - {WHOLE}", "poller.1"),
        (f'<14>1 2026-11-25T10:00:05Z host freescout-audit 4242 - [meta id="{{1}}"] {WHOLE}', "receiver"),
        (f"Nov 25 10:00:05 my-app app/web.1: {WHOLE}", "web.1"),
        (f"2026-11-25T10:00:05.1Z stdout F {WHOLE}", "receiver"),
    ],
)
def test_our_object_is_found_behind_any_prefix(shown: str, process: str) -> None:
    read = read_line(shown)

    assert read is not None
    assert (read.event, read.level, read.process, read.ticket_ids) == ("gap.lost", "warning", process, {12})
    assert read.at == AT + timedelta(seconds=5)


def test_a_line_of_the_text_format_is_read_with_its_fields() -> None:
    head = "\x1b[2m10:00:05\x1b[0m [\x1b[33mwarning  \x1b[0m] gap.lost        "
    shown = f"{head}detail='a b' late=\"it's\" n=3 tickets=[1, 12] who=x"
    now = datetime(2026, 11, 25, 10, 30).astimezone()

    read = read_line(f"poller-1  | {shown}", now=now)

    assert read is not None
    assert (read.event, read.level, read.process) == ("gap.lost", "warning", "poller-1")
    assert read.fields == {"detail": "a b", "late": "it's", "n": 3, "tickets": [1, 12], "who": "x"}
    assert read.at == datetime(2026, 11, 25, 10, 0, 5).astimezone()
    assert read.ticket_ids == {1, 12}


def test_a_time_without_a_date_is_of_the_last_24_hours_unless_the_prefix_has_one() -> None:
    now = datetime(2026, 11, 25, 9, 0).astimezone()
    text = "10:00:05 [info     ] pass.completed"

    yesterday, prefixed = read_line(text, now=now), read_line(f"2026-11-20T10:00:05Z stdout F {text}", now=now)

    assert yesterday is not None
    assert yesterday.at == datetime(2026, 11, 24, 10, 0, 5).astimezone()
    assert prefixed is not None
    assert prefixed.at == datetime(2026, 11, 20, 10, 0, 5, tzinfo=UTC)


def test_text_that_only_looks_like_ours_is_passed_over() -> None:
    assert read_line("10:00:05 [info     ] somebody.elses x=1") is None
    assert read_line("29:00:05 [info     ] gap.lost x=1") is None


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--by", "event")])
def test_a_stream_without_a_line_of_ours_is_told_on_stderr(arguments: tuple[str, ...]) -> None:
    said = run("logs", *arguments, variables={}, typed="GET / 200\n\n{}\n")

    assert said.code == 0
    assert said.err == (
        "2 lines came, and none of them was ours: is this the log of freescout-audit, whole lines of it?\n"
    )


def test_nothing_is_told_where_nothing_came_or_a_filter_left_nothing() -> None:
    assert run("logs", variables={}, typed="\n").err == ""
    assert run("logs", "--event", "no.such", variables={}, typed=LOG).err == ""
