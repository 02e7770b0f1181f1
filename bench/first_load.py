"""A first load from a desk that answers from memory: how many conversations a second, and how much memory it takes.

``python -m bench.first_load 1000000 URL`` makes one complete first pass in a process of its own and prints a line of
JSON. The desk writes its pages as they are asked for, about 1 KB a row, so that it takes no memory itself.
"""

import asyncio
import resource
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
import uvloop

from bench.processes import empty_the_cache
from db import lease
from db.database import Database
from db.url import normalise
from freescout_audit.logs import set_up_logs
from freescout_audit.rule import Terms
from poller.freescout import DeskResponse, FreeScout
from poller.passes import Passes

PAGE = 200
BEGAN = datetime(2020, 1, 1, tzinfo=UTC)
"""When the first conversation was created."""
_ROW = (
    '{"id":%d,"number":%d,"threadsCount":3,"type":"email","folderId":4,"status":"closed","state":"published",'
    '"subject":"A subject","preview":"' + "p" * 400 + '","mailboxId":1,"createdBy":{"id":1,"type":"customer"},'
    '"createdAt":"%s","updatedAt":"%s","closedAt":null,"customer":{"id":1,"firstName":"' + "n" * 100 + '"},'
    '"_embedded":{}}'
)


class Loaded(msgspec.Struct, kw_only=True):
    """What a first load took."""

    conversations: int
    seconds: float
    peak_bytes: int
    cpu: float


class MemoryDesk:
    """A desk with a conversation for each second since 2020, all at rest; it takes ``pace`` seconds for each row."""

    def __init__(self, conversations: int, *, pace: float = 0.0) -> None:
        self._total = conversations
        self._pace = pace

    async def __call__(self, path: str, query: Mapping[str, str], /) -> DeskResponse:
        """Answer a list request; this desk is asked for nothing else."""
        assert path == "conversations", path  # noqa: S101 - a cache that holds what the desk has asks no other
        first, total = 0, self._total
        if "createdSince" in query:
            since = datetime.strptime(query["createdSince"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
            first = max(int((since - BEGAN).total_seconds()), 0)
        if "updatedSince" in query:
            first = total  # nothing has changed lately
        size, number = int(query["pageSize"]), int(query["page"])
        begin = first + (number - 1) * size
        shown = range(begin, min(begin + size, total))
        if query.get("sortOrder") == "desc":
            shown = range(total + first - 1 - begin, max(total + first - 1 - begin - size, first - 1), -1)
        await asyncio.sleep(len(shown) * self._pace)
        rows = ",".join(map(self._row, shown))
        body = f'{{"_embedded":{{"conversations":[{rows}]}},"page":{{"totalElements":{max(total - first, 0)}}}}}'
        headers = {"content-type": "application/json", "date": format_datetime(datetime.now(UTC), usegmt=True)}
        return DeskResponse(status=200, headers=headers, body=body.encode())

    def _row(self, number: int) -> str:
        date = (BEGAN + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return _ROW % (number + 1, number + 1, date, date)


async def load(conversations: int, url: str, *, pace: float = 0.0) -> Loaded:
    """Make the first pass over an empty cache, from a desk that takes ``pace`` seconds for each row."""
    set_up_logs(process="bench", style="text", level="error")
    database = Database(normalise(url), name="bench")
    await empty_the_cache(url)
    desk = FreeScout(MemoryDesk(conversations, pace=pace))
    passes = Passes(desk, database, terms=Terms(), overlap=timedelta(seconds=3900), page_size=PAGE)
    began = time.perf_counter()
    await passes.run()
    seconds = time.perf_counter() - began
    assert (await lease.read_beginning(database)).lease.complete_through is not None  # noqa: S101 - it is complete
    await database.close()
    usage = resource.getrusage(resource.RUSAGE_SELF)  # its maxrss would be that of the parent, if that had more
    status = Path("/proc/self/status").read_text(encoding="ascii")  # noqa: ASYNC240 - not a disk
    return Loaded(
        conversations=conversations,
        seconds=seconds,
        peak_bytes=int(status.partition("VmHWM:")[2].split()[0]) * 1024,
        cpu=usage.ru_utime + usage.ru_stime,
    )


def main(
    conversations: int,
    url: str,
    pace: Annotated[float, typer.Option(help="Seconds that the desk takes for each row.")] = 0.0,
) -> None:
    """Load so many conversations into the database at ``url``, whose cache is emptied first."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loaded = runner.run(load(conversations, url, pace=pace))
    sys.stdout.buffer.write(msgspec.json.encode(loaded) + b"\n")


if __name__ == "__main__":
    typer.run(main)
