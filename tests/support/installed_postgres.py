"""A PostgreSQL that is installed on this machine, started for tests in a folder of its own; never as root."""

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from support.grants import parts

PROGRAMS = "POSTGRES_BIN"
"""The environment variable that names the folder with ``initdb``, ``pg_ctl`` and ``postgres`` of any version."""
PASSWORD = "the-password-of-the-servers-owner"


def programs() -> Path:
    """Return the folder that `PROGRAMS` names, or that of Debian's oldest; skip where there is none."""
    if named := os.environ.get(PROGRAMS):
        return Path(named).resolve(strict=True)
    majors = sorted(int(initdb.parts[-3]) for initdb in Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not majors:
        pytest.skip("Debian's package postgresql is not installed (see .ci/run)")
    return Path(f"/usr/lib/postgresql/{majors[0]}/bin")


@contextmanager
def installed_postgres(*options: str) -> Iterator[str]:
    """Start it with a superuser ``postgres``, and give its URL without a database."""
    folder_of_programs = programs()
    # The temp folder itself, because the server's user does not get into pytest's.
    folder = Path(tempfile.mkdtemp(prefix="freescout-audit-postgres-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    who: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = _ordinary_user()
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        os.chown(folder, user.pw_uid, user.pw_gid)

    def run(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [folder_of_programs / program, "-D", folder / "data", *arguments],
            cwd="/",
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **who,
        )
        assert done.returncode == 0, done.stdout

    (folder / "password").write_text(PASSWORD, encoding="ascii")
    (folder / "password").chmod(0o644)
    settings = ("listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=", "fsync=off", *options)
    try:
        run("initdb", "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "-E", "UTF8", "-N")
        run("pg_ctl", "-l", str(folder / "log"), "-w", "-o", " ".join(f"-c {each}" for each in settings), "start")
        try:
            asyncio.run(_close_the_schema(f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/template1"))
            yield f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _close_the_schema(template: str) -> None:
    """Give PostgreSQL 14's databases the schema that later versions give them, as docs/applications.md asks for."""
    admin = await asyncpg.connect(template)
    await admin.execute(parts()["closed"])
    await admin.close()


def _ordinary_user() -> pwd.struct_passwd:
    """Return Debian's ``postgres``, or ``nobody`` where that is missing."""
    with suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")
