"""A PostgreSQL of Debian's, started for a test in a folder of its own; never as root."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "the-password-of-the-servers-owner"


@contextmanager
def debian_postgres() -> Iterator[str]:
    """Start the oldest there is, with a superuser ``postgres``, and give its URL without a database.

    Skip where none is installed.
    """
    majors = sorted(int(initdb.parts[-3]) for initdb in Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not majors:
        pytest.skip("Debian's package postgresql is not installed (see .ci/run)")
    programs = Path(f"/usr/lib/postgresql/{majors[0]}/bin")
    # The temp folder itself, because the server's user does not get into pytest's.
    folder = Path(tempfile.mkdtemp(prefix="freescout-audit-postgres-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    who: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        os.chown(folder, user.pw_uid, user.pw_gid)

    def run(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [programs / program, "-D", folder / "data", *arguments],
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
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories= -c fsync=off"
    try:
        run("initdb", "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "-E", "UTF8", "-N")
        run("pg_ctl", "-l", str(folder / "log"), "-w", "-o", options, "start")
        try:
            yield f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
