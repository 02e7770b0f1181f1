"""The applications of `examples/` ask on while PostgreSQL is away, slow, stopped and started again.

All are asked at once, in one story.
"""

import asyncio
import gc
import os
import re
import signal
import time
import warnings
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest

from db.embedded import EmbeddedPostgres
from db.migrate import migrate
from db.url import normalise
from support.askers import EXAMPLES, PARTS, Asker, asker, missing
from support.grants import granting, parts, vouch_for
from support.processes import ROOT

CLOSED, UNKNOWN = 7, 8
"""A ticket that the service vouches for, and one that it does not."""
ANSWERS = {
    "started while it is away": "none",
    "after the start": "closed",
    "no answer to vouch for": "none",
    "slow": "none",
    "fast again": "closed",
    "frozen": "none",
    "frozen still": "none",
    "thawed": "closed",
    "restarted between two questions": "closed",  # at once: a restart costs no none
    "away": "none",
    "away still": "none",
    "restarted": "closed",
}
"""The stages of the story, and what each application has to answer."""
SLOW = re.compile(r"no answer within|statement timeout|TimeoutError\(\)")
"""What is logged when an answer comes too late: of a server that is well, because this machine is busy."""
PATIENCE = 20
"""Seconds until an application that does not answer again fails its test."""


@dataclass
class Told:
    """What an application answered at each stage, how long each answer took at the most, and what it logged."""

    answers: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)


@pytest.mark.parametrize("name", PARTS)
def test_what_it_needs_is_here(name: str) -> None:
    """Or else the story is told without it."""
    if reason := missing(name):
        pytest.skip(reason)


@pytest.mark.asyncio(loop_scope="function")  # whose executor it takes
async def test_each_answers_none_in_time_says_why_and_answers_again(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", options={"fsync": "off"}, progress=lambda _line: None)
    try:
        story = await _tell(server)
    finally:
        await asyncio.to_thread(server.stop)
    await _let_go()

    for name, told in story.items():
        assert told.answers == ANSWERS, name
        unexplained = [stage for stage, answer in told.answers.items() if answer == "none" and not told.lines[stage]]
        assert unexplained == [], name
        assert "does not vouch" in told.lines["no answer to vouch for"][0], name
        assert "a-password" not in str(told.lines), name
        # 0.25 s, and what this machine is busy with besides.
        assert max(told.seconds.values()) < 3, name


async def _tell(server: EmbeddedPostgres) -> dict[str, Told]:
    told = {name: Told() for name in PARTS if not missing(name)}
    await asyncio.to_thread(server.start)
    await _prepare(server.url())
    url = re.sub("//.*@", "//audit_writer:a-password@", server.url())
    await asyncio.to_thread(server.stop)

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=64))  # no question waits for one
    async with AsyncExitStack() as stack:
        askers = {name: await stack.enter_async_context(asker(name, url)) for name in told}

        async def stage(name: str, ticket_id: int, *, until: str = "", well: bool = False, at_once: int = 1) -> None:
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(
                    *(
                        _ask(askers[each], told[each], name, ticket_id, until, well=well)
                        for each in told
                        for _ in range(at_once)
                    )
                )

        await stage("started while it is away", CLOSED)
        await asyncio.to_thread(server.start)
        await stage("after the start", CLOSED, until="closed")
        await stage("no answer to vouch for", UNKNOWN, well=True)
        async with _locked(server.url()):
            await stage("slow", CLOSED, at_once=5)  # so a pool opens all its connections
        await stage("fast again", CLOSED, until="closed")
        async with _frozen(server):
            await stage("frozen", CLOSED)
            await stage("frozen still", CLOSED)
        await stage("thawed", CLOSED, until="closed")
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        await stage("restarted between two questions", CLOSED, well=True)
        await asyncio.to_thread(server.stop)
        await stage("away", CLOSED)
        await stage("away still", CLOSED)
        await asyncio.to_thread(server.start)
        await stage("restarted", CLOSED, until="closed")
    return told


async def _let_go() -> None:
    """Collect what the applications left behind at a deadline: Python warns of an open connection in a later test."""
    await asyncio.get_running_loop().shutdown_default_executor()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(3):
            gc.collect()


async def _ask(asker: Asker, told: Told, stage: str, ticket_id: int, until: str, *, well: bool) -> None:
    """Ask until it answers so; of a server that is well, until it answers in time."""
    while True:
        asker.lines.clear()
        began = time.monotonic()
        told.answers[stage] = await asker.ask(ticket_id)
        told.seconds[stage] = max(told.seconds.get(stage, 0), time.monotonic() - began)
        late = well and any(SLOW.search(line) for line in asker.lines)
        if not late and told.answers[stage] == (until or told.answers[stage]):
            break
        await asyncio.sleep(0.05)
    told.lines[stage] = list(asker.lines)


async def _prepare(url: str) -> None:
    """Make the cache, one ticket that it vouches for, and the role that may ask."""
    await migrate(normalise(url))
    connection = await asyncpg.connect(url)
    await vouch_for(connection, CLOSED)
    parts = granting(role="audit_writer", password="a-password")
    await connection.execute(parts["role"].replace("LIMIT 5", "LIMIT 100") + parts["answer"])
    await connection.close()


@asynccontextmanager
async def _locked(url: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        await connection.execute("LOCK TABLE freescout_ticket IN ACCESS EXCLUSIVE MODE")
        yield
    await connection.close()


@asynccontextmanager
async def _frozen(server: EmbeddedPostgres) -> AsyncIterator[None]:
    """Stop all that serves the applications, so that connections stay open and nothing answers."""
    connection = await asyncpg.connect(server.url())
    pids = [
        row["pid"] for row in await connection.fetch("SELECT pid FROM pg_stat_activity WHERE usename = 'audit_writer'")
    ]
    await connection.close()
    for pid in (server.pid, *pids):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in (*pids, server.pid):
            os.kill(pid, signal.SIGCONT)


def test_the_documentation_shows_the_files_as_they_are() -> None:
    page = (ROOT / "docs" / "applications.md").read_text("utf-8")
    files = {
        file.name: file.read_text("utf-8")
        for file in EXAMPLES.glob("*")
        if file.name.startswith(("ask", "django", "follow"))
    }
    shown = re.findall(r"^```(python|js|sql)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)

    assert [name for name in files if f"](../examples/{name})" not in page] == []
    statements = {text + "\n" for text in parts().values()}
    console = {text for _language, text in shown if "from db import read_ticket" in text}
    assert [text for _language, text in shown if text not in {*files.values(), *statements, *console}] == []
    assert statements <= {text for _language, text in shown}
