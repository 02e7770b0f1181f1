"""``make run`` as a newcomer meets it: it shows the main job at work, takes a delivery by curl, and leaves nothing."""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import asyncpg
import pytest

ROOT = Path(__file__).resolve().parent.parent
KEPT = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}


async def lines_until(stream: asyncio.StreamReader, pattern: str) -> str:
    """Return all that is said until a line matches."""
    said = ""
    async with asyncio.timeout(60):
        async for line in stream:
            said += line.decode()
            if re.search(pattern, said):
                return said
    raise AssertionError(f"it ended without {pattern!r}:\n{said}")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the code, so that the database of this checkout is left alone."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("freescout_audit", "settings", "db", "receiver", "poller", "ops", "simulator"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "config.toml", folder)
    return folder


def left_behind(folder: Path) -> list[str]:
    """The command lines of processes that still use the folder (Linux)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


async def ended(checkout: Path, module: str, *arguments: str, **variables: str) -> tuple[int | None, str, str]:
    """Run a command of the checkout to its end; return its code and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", module, *arguments),
        cwd=checkout,
        env=KEPT | {"COLUMNS": "200"} | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def test_everything_comes_up_shows_itself_takes_a_delivery_and_goes(checkout: Path, unused_tcp_port: int) -> None:
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ops.run",
        cwd=checkout,
        env=KEPT | {"PORT": str(unused_tcp_port), "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    assert running.stdout is not None
    try:
        said = await lines_until(running.stdout, r"the cache says \w+ after")
        (command,) = re.findall(r"^  (curl .*)$", said, flags=re.MULTILINE)
        assert re.search(r"ticket \d+: .*(active|pending|closed|none)", said)

        words = shlex.split(command)
        headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
        async with (
            aiohttp.ClientSession() as client,
            client.post(words[2], data=words[words.index("-d") + 1].encode(), headers=headers) as response,
        ):
            assert response.status == 200
            assert (await response.json())["outcome"] in {"applied", "disputed"}

        # In another terminal, whose environment says nothing of all this.
        second, sent, doctor = await asyncio.gather(
            ended(checkout, "ops.run"),
            ended(checkout, "ops.delivery"),
            ended(checkout, "ops", "doctor", "--json"),
        )
        noted = checkout / ".local" / "run.json"
        assert noted.stat().st_mode & 0o777 == 0o600
    finally:
        running.send_signal(signal.SIGINT)
        rest, _ = await asyncio.wait_for(running.communicate(), 30)

    assert second[0] == 1
    assert f"already (process {running.pid}, http://127.0.0.1:{unused_tcp_port})" in second[1]
    assert sent[1].startswith(f"curl -sS http://127.0.0.1:{unused_tcp_port}/api/internal/")
    checks = {check["name"]: check["state"] for check in json.loads(doctor[1])["checks"]}
    assert (doctor[0], {name for name, state in checks.items() if state != "green"}) == (0, {"OPS_TOKEN"})
    assert not noted.exists()
    assert running.returncode == 0
    assert rest.decode().rstrip().endswith("Stopping.")
    assert left_behind(checkout) == []
    log = (checkout / ".local" / "run.log").read_text(encoding="utf-8")
    assert '"event": "pass.completed"' in log
    assert "process.failed" not in log


async def test_a_port_that_is_in_use_is_one_line_with_another_to_try(checkout: Path, database_url: str) -> None:
    async with await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        desk = {"FREESCOUT_URL": "http://127.0.0.1:1", "FREESCOUT_API_KEY": "a-key"}

        code, out, err = await ended(checkout, "ops.run", PORT=str(port), DATABASE_URL=database_url, **desk)

    assert code == 1
    assert f"Port {port} is in use. Try: PORT={port + 1} make run\n" in out
    assert "Traceback" not in out + err


async def test_in_a_container_it_is_shown_to_who_has_its_token(
    checkout: Path, postgres: Callable[[str], str], sql: asyncpg.Connection, unused_tcp_port: int
) -> None:
    """A request from the host comes from elsewhere there, and there is no `make`."""
    name = f"container_{os.getpid()}"
    await sql.execute(f"CREATE DATABASE {name}")
    database_url = postgres(name)
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "ops.run"),
        cwd=checkout,
        env=KEPT
        | {"PORT": str(unused_tcp_port), "COLUMNS": "200", "DATABASE_URL": database_url}
        | {"RECEIVER_HOST": "0.0.0.0", "container": "oci"},
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    assert running.stdout is not None
    try:
        said = await lines_until(running.stdout, "next pass puts it right")
        (token,) = re.findall(r"with the token (\S+)$", said, flags=re.MULTILINE)
        (page,) = re.findall(r"how it is +(\S+)$", said, flags=re.MULTILINE)
        async with aiohttp.ClientSession() as client:
            async with client.get(page) as stranger:
                assert stranger.status == 401
            async with client.get(page, headers={"Authorization": f"Bearer {token}"}) as operator:
                assert operator.status == 200
        doctor = await ended(checkout, "ops", "doctor", "--json", container="oci", DATABASE_URL=database_url)
    finally:
        running.send_signal(signal.SIGTERM)
        await asyncio.wait_for(running.communicate(), 30)
        await sql.execute(f"DROP DATABASE {name} WITH (FORCE)")

    assert page.startswith(f"http://127.0.0.1:{unused_tcp_port}/")
    assert "make" not in said.replace("made up", "")
    assert "docker compose exec demo python -m ops.delivery | sh" in said
    checks = {check["name"]: check["state"] for check in json.loads(doctor[1])["checks"]}
    assert checks["OPS_TOKEN"] == "green"
    assert running.returncode == 0
