"""The failures: how each is made, how it is healed, and where DESIGN's contract wants to see it."""

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import aiohttp

from proof.failures.stage import ROLE, Stage
from simulator import ApiFault

Make = Callable[[Stage], Awaitable[None]]
Readiness = Literal["red", "red when the lease is over", "green"]
_WRITTEN = "freescout_ticket, freescout_lease, freescout_delivery, freescout_gap, freescout_poller, freescout_answer"
_POISON = 3
_LATER: Readiness = "red when the lease is over"
_FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
"""Where Debian's package has its library."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure. What a surface need not show is left out of ``shows``."""

    name: str
    make: Make
    heal: Make
    readyz: Readiness
    shows: Sequence[str] = ("doctor", "status", "metrics", "log")
    check: str = ""
    """The check of `doctor` that has to say it, yellow or red; empty: any that is red."""
    deliveries_go_on: bool = False
    """Whether deliveries have to be answered 200 all the while."""
    why_not: Callable[[], str] = lambda: ""
    """Why it cannot be made here; empty: it can."""


async def _kill_poller(stage: Stage) -> None:
    await stage.poller.kill()


async def _start_poller(stage: Stage) -> None:
    await stage.poller.start()


async def _stop_poller(stage: Stage) -> None:
    await stage.poller.end()


async def _stop_postgres(stage: Stage) -> None:
    await stage.stop_postgres()


async def _start_postgres(stage: Stage) -> None:
    await stage.start_postgres()


async def _become_standby(stage: Stage) -> None:
    await stage.stop_postgres()
    signal_file, owner = stage.data_folder / "standby.signal", stage.data_folder.stat()
    signal_file.touch()
    os.chown(signal_file, owner.st_uid, owner.st_gid)
    await stage.start_postgres()


async def _be_promoted(stage: Stage) -> None:
    await stage.execute("SELECT pg_promote()")


def _may_not_mount() -> str:
    return "" if os.geteuid() == 0 and shutil.which("mount") else "only root may mount a small disk"


def _small_disk(stage: Stage) -> Path:
    return stage.folder / "small"


async def _fill_the_disk(stage: Stage) -> None:
    disk, owner = _small_disk(stage), stage.data_folder.stat()
    disk.mkdir(exist_ok=True)
    options = f"size=2m,uid={owner.st_uid},gid={owner.st_gid},mode=700"
    await _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk))
    await stage.execute(
        f"CREATE TABLESPACE small LOCATION '{disk}'", "ALTER TABLE freescout_delivery SET TABLESPACE small"
    )
    (disk / "filling").write_bytes(b"")
    with (disk / "filling").open("wb", buffering=0) as filling:
        try:
            while True:
                filling.write(b"x" * 4096)
        except OSError:
            return


async def _empty_the_disk(stage: Stage) -> None:
    (_small_disk(stage) / "filling").unlink()
    await stage.execute("ALTER TABLE freescout_delivery SET TABLESPACE pg_default", "DROP TABLESPACE small")
    await _run("umount", str(_small_disk(stage)))


async def _run(*command: str) -> None:
    running = await asyncio.create_subprocess_exec(*command)
    if await running.wait():
        raise OSError(f"{command[0]} ended with {running.returncode}")


async def _revoke(stage: Stage) -> None:
    await stage.execute(f"REVOKE INSERT, UPDATE ON {_WRITTEN} FROM {ROLE}")


async def _grant(stage: Stage) -> None:
    await stage.execute(f"GRANT INSERT, UPDATE ON {_WRITTEN} TO {ROLE}")


async def _sign_with_another_key(stage: Stage) -> None:
    """Another webhook key stands in the vault than FreeScout signs with; the API key is right."""
    stage.put_keys(webhook="0" * 32)


async def _sign_with_our_key(stage: Stage) -> None:
    stage.put_keys(webhook=stage.desk.webhook_key)


def _api(fault: ApiFault) -> Make:
    async def make(stage: Stage) -> None:
        stage.desk.faults.api = fault

    return make


async def _api_answers(stage: Stage) -> None:
    stage.desk.faults.api = None


async def _poison(stage: Stage) -> None:
    stage.desk.faults.unlistable = {_POISON}
    stage.desk.faults.unreadable = {_POISON}


async def _unpoison(stage: Stage) -> None:
    stage.desk.faults.unlistable = set()
    stage.desk.faults.unreadable = set()


async def _module_off(stage: Stage) -> None:
    stage.desk.faults.module_active = False


async def _module_on(stage: Stage) -> None:
    stage.desk.faults.module_active = True


async def _vault_away(stage: Stage) -> None:
    await stage.close_vault()


async def _vault_back(stage: Stage) -> None:
    await stage.open_vault()


def _no_faketime() -> str:
    return "Debian's package faketime is not installed" if _FAKETIME is None else ""


async def _start_faked(stage: Stage) -> None:
    """Start the poller on a host whose clock is then set back by an hour."""
    told = stage.folder / "clock"
    told.write_text("+0\n", encoding="ascii")
    await stage.poller.end()
    stage.poller.variables |= {
        "LD_PRELOAD": str(_FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(told),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    await stage.poller.start()
    async with asyncio.timeout(60):
        while not stage.poller.has_said("pass.completed"):  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.2)
    told.write_text("-3600\n", encoding="ascii")


async def _start_unfaked(stage: Stage) -> None:
    await stage.poller.end()
    for name in ("LD_PRELOAD", "FAKETIME_TIMESTAMP_FILE", "FAKETIME_CACHE_DURATION", "FAKETIME_DONT_FAKE_MONOTONIC"):
        stage.poller.variables.pop(name, None)
    await stage.poller.start()


async def _hang_the_logs_reader(stage: Stage) -> None:
    """The receiver's log is a pipe that is full, and requests go on."""
    await stage.receiver.end()
    await stage.receiver.start(log_unread=True)
    await _until_it_listens(stage)


async def _until_it_listens(stage: Stage) -> None:
    async with asyncio.timeout(30), aiohttp.ClientSession() as client:
        while True:
            with suppress(aiohttp.ClientError):
                async with client.get(f"{stage.url}/healthz"):
                    return
            await asyncio.sleep(0.1)


async def _read_the_log_again(stage: Stage) -> None:
    await stage.receiver.end()
    await stage.receiver.start()


FAILURES: Sequence[Failure] = (
    Failure("the poller is killed", _kill_poller, _start_poller, "red", deliveries_go_on=True),
    Failure(
        "the poller is stopped", _stop_poller, _start_poller, _LATER, ("doctor",), check="poller", deliveries_go_on=True
    ),
    Failure("PostgreSQL is away", _stop_postgres, _start_postgres, "red"),
    Failure("PostgreSQL is a standby", _become_standby, _be_promoted, "red"),
    Failure("PostgreSQL's disk is full", _fill_the_disk, _empty_the_disk, "red", why_not=_may_not_mount),
    Failure("our rights are revoked", _revoke, _grant, "red"),
    Failure("the webhook key is wrong", _sign_with_another_key, _sign_with_our_key, "green"),
    Failure("the desk hangs", _api(ApiFault.HANG), _api_answers, _LATER, deliveries_go_on=True),
    Failure("the desk answers 401", _api(ApiFault.UNAUTHORIZED), _api_answers, _LATER, deliveries_go_on=True),
    Failure("the desk answers 403", _api(ApiFault.UNTRUSTED_HOST), _api_answers, _LATER, deliveries_go_on=True),
    Failure("the desk answers 500", _api(ApiFault.SERVER_ERROR), _api_answers, _LATER, deliveries_go_on=True),
    Failure("one conversation answers 500", _poison, _unpoison, "green", deliveries_go_on=True),
    Failure("the module is off", _module_off, _module_on, _LATER),
    Failure("the vault is away", _vault_away, _vault_back, "green", deliveries_go_on=True),
    Failure(
        "the host's clock is set back",
        _start_faked,
        _start_unfaked,
        "green",
        ("log",),
        deliveries_go_on=True,
        why_not=_no_faketime,
    ),
    Failure(
        "the log's reader hangs",
        _hang_the_logs_reader,
        _read_the_log_again,
        "green",
        ("doctor", "metrics"),
        check="log",
        deliveries_go_on=True,
    ),
)
"""In the order of the table."""
