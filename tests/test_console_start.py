"""How the console starts: one Python, and nothing imported that the call does not need."""

import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ops.console import COMMANDS, console

ROOT = Path(__file__).resolve().parent.parent
NAMES = [entry.name for entry in COMMANDS]

HEAVY = (
    "aiohttp",
    "alembic",
    "apscheduler",
    "asyncpg",
    "jinja2",
    "msgspec",
    "prometheus_client",
    "rich.progress",
    "simulator",
    "sqlalchemy",
    "structlog",
    "uvloop",
)
"""What takes long to import, or is another process's."""

_TELL = f"""
import sys
from ops.console import main
for call in sys.argv[1:]:
    sys.argv[1:] = call.split()
    try:
        main()
    except SystemExit:
        pass
    print(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)
"""


def shown(called: Sequence[str], *arguments: str, columns: str = "80") -> str:
    """What a console shows that has these commands in full."""
    app = console(called)
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": columns}, prog_name="freescout-audit").output


@pytest.mark.parametrize("columns", ["80", "200"])
def test_the_help_is_what_the_commands_say_of_themselves(columns: str) -> None:
    table = shown([], "--help", columns=columns)

    assert table == shown(NAMES, "--help", columns=columns)
    assert all(f" {name} " in table for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_line_of_the_table_is_the_first_line_of_the_commands_own_help(name: str) -> None:
    (entry,) = [entry for entry in COMMANDS if entry.name == name]
    command = get_command(console([name])).commands[name]  # type: ignore[attr-defined] # a group has some

    assert (command.help or "").partition("\n\n")[0] == entry.help


def test_a_command_that_is_called_is_there_in_full_and_a_typing_error_is_recognised() -> None:
    assert "--accept-yellow" in shown(["doctor"], "doctor", "--help", columns="120")
    assert "register" in shown(["webhook"], "webhook", "--help")
    assert "Did you mean 'status'?" in shown(["statsu"], "statsu")


async def started(*command: str, **variables: str) -> tuple[int | None, str, str]:
    """Run a program, and return its code and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=os.environ | variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def imported(*calls: str, **variables: str) -> list[str]:
    """What of `HEAVY` some calls have imported when they end, one after another in one process."""
    _, _, err = await started(sys.executable, "-c", _TELL, *calls, **variables)
    return err.splitlines()[-1].split()


async def test_the_help_imports_nothing_heavy() -> None:
    assert await imported("--help") == []


async def test_who_only_looks_at_the_cache_imports_what_the_database_needs(database_url: str) -> None:
    needed = await imported("status", "ticket 1", "deliveries", "gaps", DATABASE_URL=database_url)

    assert {"asyncpg", "sqlalchemy"} <= set(needed) <= {"asyncpg", "msgspec", "sqlalchemy", "structlog"}


async def test_who_reads_log_lines_needs_no_database() -> None:
    assert set(await imported(f"logs {os.devnull}")) <= {"msgspec", "structlog"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which nothing is installed."""
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "bin" / "freescout-audit", tmp_path / "bin")
    (tmp_path / "ops").symlink_to(ROOT / "ops")
    return tmp_path


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


async def test_a_call_starts_python_once(checkout: Path) -> None:
    program(checkout / ".venv" / "bin" / "python", 'echo "$PYTHONPATH: $*"')

    code, out, _ = await started(str(checkout / "bin" / "freescout-audit"), "ticket", "#7")

    assert (code, out) == (0, f"{checkout}: -P -m ops ticket #7\n")


async def test_a_checkout_without_its_packages_says_how_to_install_them(checkout: Path) -> None:
    program(checkout / "path" / "python", f'exec {sys.executable} -S "$@"')
    search = f"{checkout / 'path'}:{os.environ['PATH']}"

    code, out, err = await started(str(checkout / "bin" / "freescout-audit"), "status", PATH=search)

    assert (code, out) == (2, "")
    assert err == f"its packages are not installed here: run 'make -C {ROOT} console' once\n"


async def test_a_machine_without_python_is_told_so(checkout: Path) -> None:
    dirname = shutil.which("dirname")
    assert dirname is not None
    (checkout / "path").mkdir()
    (checkout / "path" / "dirname").symlink_to(dirname)

    code, _, err = await started(str(checkout / "bin" / "freescout-audit"), "status", PATH=str(checkout / "path"))

    assert (code, err) == (2, f"there is no Python here: run 'make -C {checkout} console' once\n")
