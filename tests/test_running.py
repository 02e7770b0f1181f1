"""What `make run` started on is found beside it, and no database is used that is not its own."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import nullcontext
from itertools import count
from pathlib import Path

import asyncpg
import pytest
import typer
from typer.testing import CliRunner

from conftest import Log
from db.database import Database
from db.lease import OtherDeskError
from db.url import normalise
from freescout_audit.errors import DatabaseUnavailableError, SettingsError
from ops import delivery, run, running
from ops.run import OtherDatabaseError, move_in
from ops.running import MADE_UP, AlreadyRunningError, Running, be_the_only_one, beside, tell_the_others, who_is_running
from settings import load_environment, load_settings

URL = "http://127.0.0.1:4711"
GIVEN = {"DATABASE_URL": "postgresql://u:pw@db/x", "FREESCOUT_API_KEY": "k", "PORT": "1", "OPS_TOKEN": ""}
_numbers = count(1)


class TestWhatIsWritten:
    def test_the_others_find_it_while_it_runs_and_no_longer(self, tmp_path: Path) -> None:
        with be_the_only_one(tmp_path):
            assert who_is_running(tmp_path) is None
            tell_the_others(URL, {"PORT": "4711"}, made_up=True, given=GIVEN, folder=tmp_path)

            found = who_is_running(tmp_path)

        assert found is not None
        assert (found.url, found.variables, found.needs) == (URL, {"PORT": "4711"}, [])
        assert who_is_running(tmp_path) is None
        assert not (tmp_path / "run.json").exists()

    def test_what_a_killed_one_left_is_not_believed(self, tmp_path: Path) -> None:
        with be_the_only_one(tmp_path):
            tell_the_others(URL, {}, made_up=True, given={}, folder=tmp_path)
            left = (tmp_path / "run.json").read_bytes()
        (tmp_path / "run.json").write_bytes(left)

        assert who_is_running(tmp_path) is None

    def test_a_second_one_says_that_there_is_one_and_leaves_its_note(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(running, "_PAUSE", 0.0)
        with be_the_only_one(tmp_path):
            tell_the_others(URL, {}, made_up=True, given={}, folder=tmp_path)

            with (
                pytest.raises(AlreadyRunningError, match=f"in this checkout already .*{URL}"),
                be_the_only_one(tmp_path),
            ):
                pass

            assert who_is_running(tmp_path) is not None

    def test_beside_a_real_desk_secrets_are_named_and_not_written(self, tmp_path: Path) -> None:
        with be_the_only_one(tmp_path):
            tell_the_others(URL, {"PORT": "4711"}, made_up=False, given=GIVEN, folder=tmp_path)
            written, found = (tmp_path / "run.json").read_text(), who_is_running(tmp_path)
            mode = (tmp_path / "run.json").stat().st_mode & 0o777

        assert found is not None
        assert found.needs == ["DATABASE_URL", "FREESCOUT_API_KEY"]
        assert "pw@" not in written
        assert mode == 0o600


def made_up(**more: str) -> Running:
    return Running(
        pid=1,
        url=URL,
        made_up=True,
        variables={"FREESCOUT_URL": "http://127.0.0.1:9", "PORT": "4711", **more},
        needs=[],
    )


REAL = Running(
    pid=1,
    url=URL,
    made_up=False,
    variables={"FREESCOUT_URL": "https://desk"},
    needs=["DATABASE_URL", "FREESCOUT_API_KEY"],
)


def test_no_key_shows_in_its_repr() -> None:
    assert "hidden" not in repr(made_up(FREESCOUT_API_KEY="hidden"))


class TestBeside:
    @pytest.mark.parametrize(
        ("found", "variables"),
        [
            (made_up(), {}),
            (made_up(), {"PORT": "8080", "INFISICAL_URL": "https://vault"}),
            (made_up(DATABASE_URL="postgresql://x"), {"DATABASE_URL": "postgresql://x"}),
            (made_up(DATABASE_URL="postgresql://x"), {}),
            (REAL, {"DATABASE_URL": "postgresql://y", "FREESCOUT_API_KEY": "k"}),
        ],
    )
    def test_its_variables_are_those_of_the_others(self, found: Running, variables: Mapping[str, str]) -> None:
        surroundings = beside(found, variables)

        assert surroundings is not None
        assert surroundings.items() >= found.variables.items()
        assert "INFISICAL_URL" not in surroundings

    @pytest.mark.parametrize(
        ("found", "variables"),
        [
            (None, {}),
            (made_up(), {"DATABASE_URL": "postgresql://elsewhere"}),
            (made_up(DATABASE_URL="postgresql://x"), {"DATABASE_URL": "postgresql://elsewhere"}),
            (made_up(), {"FREESCOUT_URL": "https://desk.example.org"}),
            (REAL, {"FREESCOUT_URL": "https://another"}),
        ],
    )
    def test_who_names_another_place_gets_that(self, found: Running | None, variables: Mapping[str, str]) -> None:
        assert beside(found, variables) is None

    def test_what_it_was_given_and_the_others_were_not_is_asked_for(self) -> None:
        with pytest.raises(SettingsError, match="make run was given DATABASE_URL, FREESCOUT_API_KEY, and this"):
            beside(REAL, {"FREESCOUT_URL": "https://desk"})


def test_no_delivery_is_made_for_whoever_listens_on_the_usual_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "who_is_running", lambda: None)
    app = typer.Typer()
    app.command()(delivery.main)

    said = CliRunner().invoke(app, ["--ticket", "1"], env={"PORT": None})

    assert (said.exit_code, said.stdout) == (1, "")
    assert "make run is not running in this checkout" in said.stderr


@pytest.fixture
async def empty(postgres: Callable[[str], str]) -> AsyncIterator[Database]:
    """A database with nothing in it."""
    name = f"running_{os.getpid()}_{next(_numbers)}"
    owner = await asyncpg.connect(postgres("postgres"))
    await owner.execute(f"CREATE DATABASE {name}")
    database = Database(normalise(postgres(name)))
    yield database
    await database.close()
    await owner.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await owner.close()


async def tied_to(database: Database) -> str | None:
    async with database.connection() as connection:
        desk_url: str | None = await connection.driver.fetchval("SELECT desk_url FROM freescout_lease")
    return desk_url


async def execute(database: Database, statement: str) -> None:
    async with database.connection() as connection:
        await connection.driver.execute(statement)


@pytest.fixture
async def ours(database: Database) -> Database:
    """A migrated database with nothing else in it; the clock that tests may stop is not ours."""
    await execute(database, "DROP SCHEMA test CASCADE")
    return database


class TestMovingIn:
    @pytest.mark.parametrize("desk", [MADE_UP, "https://desk.example.org"])
    async def test_an_empty_database_is_migrated_and_taken(self, empty: Database, desk: str) -> None:
        await move_in(empty, desk)
        await move_in(empty, desk)

        assert await tied_to(empty) == desk

    async def test_one_that_was_migrated_and_never_used_is_empty(self, ours: Database) -> None:
        await move_in(ours, MADE_UP)

        assert await tied_to(ours) == MADE_UP

    @pytest.mark.parametrize(
        ("statement", "holds"),
        [
            ("UPDATE freescout_lease SET desk_url = 'https://desk.example.org'", "https://desk.example.org"),
            (
                "INSERT INTO freescout_webhook (url, events, began_at) VALUES ('https://app', '{}', now())",
                "deliveries of a desk",
            ),
            ("CREATE TABLE invoices ()", "what is not ours"),
        ],
        ids=["a desk's", "one that takes deliveries", "another program's"],
    )
    async def test_a_made_up_desk_is_not_let_into_one_that_is_in_use(
        self, ours: Database, statement: str, holds: str
    ) -> None:
        await execute(ours, statement)
        before = await tied_to(ours)

        with pytest.raises(OtherDatabaseError, match=holds) as refused:
            await move_in(ours, MADE_UP)

        assert "DATABASE_URL to an empty database" in refused.value.next_step
        assert await tied_to(ours) == before

    async def test_another_programs_is_not_migrated(self, empty: Database) -> None:
        await execute(empty, "CREATE TABLE invoices ()")

        with pytest.raises(OtherDatabaseError, match="what is not ours"):
            await move_in(empty, MADE_UP)
        with pytest.raises(DatabaseUnavailableError):
            await move_in(empty, "https://desk.example.org")

        async with empty.connection() as connection:
            assert await connection.driver.fetchval("SELECT to_regclass('freescout_lease')") is None

    async def test_a_real_desk_is_not_let_into_a_made_up_ones(self, ours: Database) -> None:
        await move_in(ours, MADE_UP)

        with pytest.raises(OtherDeskError, match=MADE_UP):
            await move_in(ours, "https://desk.example.org")

    async def test_it_refuses_before_it_listens(
        self, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, log: Log
    ) -> None:
        monkeypatch.setattr(run, "be_the_only_one", nullcontext)
        await execute(database, "UPDATE freescout_lease SET desk_url = 'https://desk.example.org'")
        environment = load_environment({"DATABASE_URL": database_url, "PORT": "0"})

        with pytest.raises(OtherDatabaseError):
            await run.main(environment, load_settings({}), asyncio.Event())

        assert log.lines("receiver.started") == []
