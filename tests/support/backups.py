"""Backups as PostgreSQL's own programs make them and bring them back."""

import asyncio
from pathlib import Path

import asyncpg
import pytest


async def programs_of(sql: asyncpg.Connection) -> Path:
    """Where ``pg_dump`` and ``pg_restore`` of the server's own version are; skip where they are missing."""
    major = sql.get_server_version().major
    folders = [Path(f"/usr/lib/postgresql/{major}/bin")]
    try:
        from db.embedded.binaries import MAJOR, find_binaries  # noqa: PLC0415 - it is not on every platform

        if major == MAJOR:
            folders.insert(0, find_binaries(None, lambda _line: None).postgres.parent)
    except Exception as error:  # noqa: BLE001 - whatever keeps it from running here
        pytest.skip(f"no embedded PostgreSQL: {error}")
    for folder in folders:
        if (folder / "pg_dump").exists():
            return folder
    pytest.skip(f"pg_dump {major} is not installed")


class Backup:
    """A backup of a database, in a file."""

    def __init__(self, programs: Path, file: Path) -> None:
        self._programs = programs
        self._file = file

    async def make(self, url: str) -> None:
        await self._run("pg_dump", "--format=custom", f"--file={self._file}", url)

    async def restore(self, url: str, *options: str) -> None:
        """Fill the empty database of ``url``."""
        await self._run("pg_restore", "--exit-on-error", "--no-owner", *options, f"--dbname={url}", str(self._file))

    async def _run(self, program: str, *arguments: str) -> None:
        running = await asyncio.create_subprocess_exec(
            self._programs / program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await running.communicate()
        assert running.returncode == 0, said.decode()
