"""The distribution holds what an application imports, and nothing that could stand in another one's way."""

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import asyncpg
import pytest
from test_store import record

from db.database import Database
from freescout_audit.asking import read_ticket
from support.databases import Clock
from support.examples import NOON, at, claim

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution, built from a copy of what it is made of."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for path in (ROOT / "freescout_audit").glob("*"):
        if path.is_file():
            (source / "freescout_audit").mkdir(exist_ok=True)
            (source / "freescout_audit" / path.name).write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*command, "--wheel-dir", built, source], check=True, cwd=source)
    (made,) = built.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what installing it brings."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(code: str, *paths: Path) -> str:
    """Run code with the standard library and these folders, and return what it prints."""
    said = f"import sys; sys.path[:0] = {[str(path) for path in paths]!r}; {code}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", said], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_it_holds_one_package_and_asks_for_nothing(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith("METADATA")]
        asks = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist") or []

    assert {name.split("/")[0].split("-")[0] for name in names} == {"freescout_audit"}
    assert "freescout_audit/py.typed" in names
    assert [each for each in asks if "extra ==" not in each] == []


def test_what_an_application_imports_needs_the_standard_library_alone(installed: Path) -> None:
    code = "import freescout_audit, freescout_audit.asking as a; print(freescout_audit.verify_freescout_hmac.__name__)"

    assert run(code, installed) == "verify_freescout_hmac"
    assert run("import freescout_audit; print('freescout_audit.asking' in sys.modules)", installed) == "False"


def test_an_application_with_settings_and_db_of_its_own_keeps_them(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text("WHOSE = 'mine'\n", encoding="ascii")
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "__init__.py").write_text("WHOSE = 'mine too'\n", encoding="ascii")
    code = "import freescout_audit, freescout_audit.asking, settings, db; print(settings.WHOSE, db.WHOSE)"

    assert run(code, tmp_path, installed) == "mine mine too"
    assert run(code, installed, tmp_path) == "mine mine too"


async def test_an_application_reads_a_ticket_now_and_at_a_moment(
    database: Database, database_url: str, clock: Clock
) -> None:
    await record(database, claim("active", 0))
    await clock.set(at(60))
    await record(database, claim("closed", 50))
    connection = await asyncpg.connect(database_url)
    try:
        assert await read_ticket(connection, 7, deadline=5) == "closed"
        assert await read_ticket(connection, 7, at=NOON, deadline=5) == "active"
        assert await read_ticket(connection, 8, deadline=5) == "none"
    finally:
        await connection.close()
    assert await read_ticket(connection, 7, deadline=5) == "none"
