"""What the console says when it is called wrongly, told nonsense, or left running; never a traceback."""

import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from typer.testing import CliRunner

from conftest import Log
from db.database import Database
from db.journal import Lag
from freescout_audit.errors import SettingsError
from ops.commands import status
from ops.console import console
from poller.__main__ import main as poller_main
from poller.freescout import FreeScout
from poller.transport import http_transport
from settings import Environment, Settings, load_environment
from settings.place import where_we_run
from settings.process import run_process
from support.cases import CASES, case, serving
from support.console_world import Operator, Said, at_the_console, run
from support.processes import ROOT
from support.world import make_world


def variables_of(name: str) -> dict[str, str]:
    """The variables of a case."""
    text = (CASES / name).read_text(encoding="utf-8")
    return dict(word.split("=", 1) for word in shlex.split(text))


@pytest.fixture
async def operator(database: Database, database_url: str, sql: asyncpg.Connection) -> AsyncIterator[Operator]:
    """A desk of three tickets; deliveries come."""
    async with (
        make_world(database, sql, tickets=3, sockets=False) as world,
        at_the_console(world, database_url) as operator,
    ):
        world.desk.faults.drop_chance = 0
        await world.poll()
        yield operator


class TestAddresses:
    @pytest.mark.parametrize(("name", "value"), variables_of("10-bracket-in-url.env").items())
    def test_a_bracket_is_one_line_that_names_the_variable(self, name: str, value: str) -> None:
        others = {f"INFISICAL_{each}": "x" for each in ("CLIENT_ID", "CLIENT_SECRET", "PROJECT_ID", "ENVIRONMENT")}
        variables = {name: value} | (others if name.startswith("INFISICAL") else {})

        said, for_programs = run("status", variables=variables), run("status", "--json", variables=variables)

        assert (said.code, said.out, said.err.count("\n")) == (3, "", 1)
        assert said.err.startswith(f"✗ {name} has no host name that can be asked: write it like https://")
        assert (for_programs.code, for_programs.json["exit"]) == (3, 3)

    def test_a_process_ends_with_1_and_the_same_line(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("settings.process.set_up_logs", lambda **_: None)
        monkeypatch.setenv("FREESCOUT_URL", variables_of("10-bracket-in-url.env")["FREESCOUT_URL"])

        with pytest.raises(SystemExit, match="1"):
            run_process("poller", poller_main)

        (line,) = log.lines("process.failed")
        assert line["message"] == "FREESCOUT_URL has no host name that can be asked"

    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            ("https://", "FREESCOUT_URL has no host name that can be asked"),
            ("https://desk.example.org:port", "FREESCOUT_URL has no host name that can be asked"),
            ("https://desk.exa\N{ZERO WIDTH SPACE}mple.org", "there is a zero-width space in FREESCOUT_URL"),
            ("https://desk.example.org/?page=1", "FREESCOUT_URL holds more than an address"),
        ],
    )
    def test_what_is_no_address_is_said_to_be_none(self, value: str, problem: str) -> None:
        with pytest.raises(SettingsError) as raised:
            load_environment({"FREESCOUT_URL": value})

        assert raised.value.problem == problem

    @pytest.mark.parametrize(
        "value", [variables_of("26-url-ends-in-api.env")["FREESCOUT_URL"], "https://desk.example.org//"]
    )
    def test_api_at_the_end_is_left_out(self, value: str) -> None:
        assert load_environment({"FREESCOUT_URL": value}).freescout_url == "https://desk.example.org"

    def test_the_new_address_of_a_desk_is_checked_like_a_variable(self) -> None:
        said = run("desk", "change", "https://[desk.example.org]", "--json", variables={})

        assert (said.code, said.json["exit"]) == (2, 2)
        assert "URL has no host name that can be asked" in said.json["error"]


class TestKeysOfTwoLines:
    async def test_every_command_that_needs_it_ends_with_one_line(self, operator: Operator) -> None:
        variables = variables_of("06-multiline-api-key.env")

        for command in (("heal", "1"), ("reconcile", "--since", "1h"), ("ticket", "1", "--ask")):
            said = await operator.types(*command, COLUMNS="300", **variables)
            for_programs = await operator.types(*command, "--json", **variables)

            assert said.code == 3, command
            assert "there is a line end in FREESCOUT_API_KEY" in said.err, command
            assert said.err.count("\n") == 1, command
            assert for_programs.json["exit"] == 3, command

    async def test_doctor_is_red_and_shows_nothing_of_it(self, operator: Operator) -> None:
        said = await operator.types("doctor", "--json", **variables_of("06-multiline-api-key.env"))

        red = {check["name"]: check["detail"] for check in said.json["checks"] if check["state"] == "red"}
        assert red == {
            "API key": "there is a line end in it",
            "API": "there is a line end in FREESCOUT_API_KEY",
        }
        assert "6c2b1677" not in said.out + said.err


class TestJson:
    @pytest.mark.parametrize(
        ("command", "code"),
        [
            (("status", "--no-such-option", "--json"), 2),
            (("no-such-command", "--json"), 2),
            (("ticket", "--json"), 2),
            (("heal", "abc", "--json"), 2),
            (("deliveries", "--since", "soon", "--json"), 2),
            (("secret", "derive", "--json"), 2),
        ],
    )
    def test_a_wrong_call_is_an_object_with_its_code(self, command: tuple[str, ...], code: int) -> None:
        said = run(*command, variables={}, typed="")

        assert (said.code, said.json["exit"], said.err) == (code, code, "")
        assert said.json["error"]

    def test_what_nobody_expects_is_an_object_too_and_one_line_for_people(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def break_down(*_: object, **__: object) -> None:
            raise ZeroDivisionError("a secret")

        monkeypatch.setattr("ops.runner.read_workplace", break_down)

        said, for_programs = run("status", variables={}), run("status", "--json", variables={})

        assert (said.code, for_programs.code) == (1, 1)
        assert said.err.startswith("✗ the console itself fails (ZeroDivisionError at test_console_words:")
        assert for_programs.json["error"] == said.err.removeprefix("✗ ").partition(": please")[0]
        assert "secret" not in said.err + for_programs.out

    def test_ctrl_c_leaves_an_object(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("ops.runner.read_workplace", interrupt)

        said = run("status", "--json", variables={})

        assert (said.code, said.json["exit"]) == (130, 130)


@pytest.mark.parametrize("command", [("ticket", "abc"), ("heal", "abc"), ("deliveries", "--ticket", "abc")])
def test_what_is_no_ticket_id_is_answered_with_one_that_is(command: tuple[str, ...]) -> None:
    said = run(*command, variables={"COLUMNS": "200"})

    assert said.code == 2
    assert "'abc' is not a ticket id: give a number such as 4711" in said.err


@pytest.mark.parametrize("command", [("doctor",), ("heal",), ("secret", "check"), ()])
def test_help_says_no_bool(command: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(console(command[:1]), [*command, "--help"], prog_name="freescout-audit").output

    assert "--help" in shown
    assert "<bool>" not in shown


class TestProcesses:
    def fail(self, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        async def main(_environment: Environment, _settings: Settings, _stop: asyncio.Event) -> None:
            raise error

        monkeypatch.setattr("settings.process.set_up_logs", lambda **_: None)
        with pytest.raises(SystemExit, match="1"):
            run_process("receiver", main)

    def test_what_nobody_expects_is_one_line_without_its_message(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fail(ZeroDivisionError("a secret"), monkeypatch)

        (line,) = log.lines("process.failed")
        assert str(line["message"]).startswith("the process itself fails (ZeroDivisionError at test_console_words:")


@pytest.mark.parametrize(
    ("variables", "marked", "start"),
    [
        ({"DYNO": "run.1", "INVOCATION_ID": "x"}, True, "heroku ps:scale poller=1"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False, "docker compose up --detach poller"),
        ({"container": "podman"}, False, "docker compose up --detach poller"),
        ({}, True, "docker compose up --detach poller"),
        ({"INVOCATION_ID": "x"}, True, "systemctl enable --now freescout-audit-poller"),
        ({}, False, "python -m poller"),
    ],
)
def test_next_steps_fit_where_we_run(variables: dict[str, str], marked: bool, start: str, tmp_path: Path) -> None:  # noqa: FBT001
    mark = tmp_path / ".dockerenv"
    if marked:
        mark.touch()

    here = where_we_run(variables, dockerenv=mark)

    assert here.start_poller == start
    assert "FLAG=1" in here.set_variable("FLAG", "1")
    assert "FLAG" in here.unset_variable("FLAG")


async def test_a_page_of_which_no_row_is_understood_says_so_and_once_a_day_which(log: Log) -> None:
    async with (
        serving(case("31-dates-without-zone.http")) as url,
        http_transport(url, lambda: None, patience=5) as transport,
    ):
        desk = FreeScout(transport)
        pages = [await desk.page(size=50) for _ in range(3)]

    assert [page.none_understood for page in pages] == [True] * 3
    assert [line["ticket_id"] for line in log.lines("desk.strange_row")] == [1]


async def test_doctor_is_red_when_no_row_is_understood(operator: Operator) -> None:
    async with serving(case("31-dates-without-zone.http")) as url:
        said = await operator.types("doctor", "--json", FREESCOUT_URL=url)

    (check,) = [check for check in said.json["checks"] if check["name"] == "rows"]
    assert (check["state"], check["detail"]) == ("red", "no row of the page is understood: every ticket reads none")


async def test_events_are_found_by_the_name_we_show_and_by_their_own(operator: Operator) -> None:
    operator.world.desk.bulk_set_status([1], "spam")
    await operator.world.advance(10)

    found = [
        [entry["event"] for entry in (await operator.types("deliveries", "--json", "--event", name)).json["deliveries"]]
        for name in ("status", "convo.status", "*.status", "st*", "assigned")
    ]

    assert found == [["convo.status"]] * 4 + [[]]


@asynccontextmanager
async def console_process(*command: str, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ops",
        *command,
        cwd=ROOT,
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            yield running
    finally:
        if running.returncode is None:
            running.kill()
            await running.communicate()


async def after_ctrl_c(running: asyncio.subprocess.Process) -> Said:
    running.send_signal(signal.SIGINT)
    out, err = await running.communicate()
    return Said(running.returncode or 0, out.decode(), err.decode())


async def test_deliveries_are_followed_as_they_come_until_ctrl_c(operator: Operator) -> None:
    desk, world = operator.world.desk, operator.world
    desk.bulk_set_status([1], "spam")
    await world.advance(10)
    command = ("deliveries", "--follow", "--since", "1h", "--json")
    async with console_process(*command, **operator.variables) as running:
        assert running.stdout is not None
        before = json.loads(await running.stdout.readline())
        desk.bulk_set_status([2], "spam")
        await world.advance(10)
        after = json.loads(await running.stdout.readline())
        ended = await after_ctrl_c(running)

    assert (before["ticket_id"], after["ticket_id"]) == (1, 2)
    assert (ended.code, ended.out, ended.err) == (0, "", "")


async def test_status_is_watched_until_ctrl_c(operator: Operator) -> None:
    async with console_process("status", "--watch", **operator.variables) as running:
        assert running.stdout is not None
        first = (await running.stdout.readline()).decode()
        ended = await after_ctrl_c(running)

    assert first.startswith("freescout-audit at 2")
    assert first.endswith(" UTC\n")
    assert (ended.code, ended.err) == (0, "")


async def test_a_watched_status_survives_a_database_that_is_away(
    operator: Operator, capsys: pytest.CaptureFixture[str], sql: asyncpg.Connection
) -> None:
    looks = 0

    async def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            await sql.execute("ALTER TABLE freescout_lease RENAME TO freescout_lease_away")
        elif looks == 2:
            await sql.execute("ALTER TABLE freescout_lease_away RENAME TO freescout_lease")
        else:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await status.watch(operator.workplace, sleep=sleep)

    shown = capsys.readouterr().out
    assert shown.count("freescout-audit at ") == 2
    assert shown.count("✗ ") == 1


def test_the_lag_is_told_by_its_percentiles() -> None:
    lag = Lag(samples=31, p50=2.31, p95=4.52, p99=4.66, max=4.71)

    assert str(status.draw_lag(lag)) == "p50 2.3 s, p95 4.5 s, slowest 4.7 s (31 deliveries)"
