"""Signed deliveries at a steady rate while strangers flood the same receiver, and what is seen of it meanwhile."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from bench.load import threads
from proof.fuzz.http import delivery
from proof.fuzz.receiver import ROOT, Watched, receiver
from proof.fuzz.wire import NotAnAnswerError, Wire
from proof.strangers.flood import Flood

RATE = 50.0
"""Signed deliveries a second, each on a connection of its own, as FreeScout sends them."""
SIZE = 4096
PATIENCE = 30.0
OWN_LINES = frozenset({"delivery.applied", "delivery.duplicate", "delivery.stale"})
"""What a signed delivery logs: one line each, which is no stranger's doing."""
DEFAULTS: Mapping[str, str] = {"LOG_LEVEL": "info"}


@dataclass(slots=True, kw_only=True)
class Seen:
    """What a run has seen.

    Attributes:
        latencies: Of each delivery, in seconds since it was due, in ascending order.
        statuses: How many deliveries got which answer; "lost" is a connection that ended without one.
        memory: The most resident bytes of the receiver.
        lines: The most lines a second that strangers made it log, over any five seconds, and over all of the run.
        events: All its lines, by event.
        floods: What became of the strangers' connections.
        after: How many of the deliveries after the flood were answered 200, of how many.
        wrong: What the receiver should not have logged.
    """

    latencies: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    memory: int = 0
    lines: tuple[float, float] = (0.0, 0.0)
    events: Counter[str] = field(default_factory=Counter)
    floods: dict[str, dict[str, int]] = field(default_factory=dict)
    after: tuple[int, int] = (0, 0)
    wrong: list[str] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Return the latency that so many percent do not exceed, in seconds."""
        return self.latencies[min(int(len(self.latencies) * share / 100), len(self.latencies) - 1)]


async def run(
    database_url: str, flood: Flood, *, rate: float = RATE, files: int | None = None, settle: float = 1.0
) -> Seen:
    """Flood a receiver on this migrated database, with ``ulimit -n`` as given, and deliver all the while.

    Args:
        database_url: The database.
        flood: What strangers send.
        rate: Deliveries a second.
        files: The receiver's ``ulimit -n``; None leaves it.
        settle: Seconds that the flood gets before the first delivery.
    """
    seen = Seen()
    async with receiver(database_url, DEFAULTS, files=files) as watched:
        port = watched.log.port
        await _deliver(port, 0, time.monotonic(), Seen())  # opens what is opened once
        async with _flooding(port, flood, seen):
            await asyncio.sleep(settle)
            sampling = asyncio.create_task(_sample(watched, seen))
            await _deliver_for(port, flood.seconds - 2 * settle, rate, seen)
            sampling.cancel()
        after = Seen()
        for number in range(20):
            await _deliver(port, 10_000_000 + number, time.monotonic(), after)
        seen.after = after.statuses["200"], after.statuses.total()
        seen.memory = watched.memory_peak
        await asyncio.sleep(1.1)  # what was left out of the log is told within a second of there being a line for it
    seen.events, seen.wrong = watched.log.events, watched.log.wrong
    if watched.stderr:
        seen.wrong.append(f"it wrote to stderr: {watched.stderr.decode(errors='replace')}")
    seen.latencies.sort()
    return seen


@asynccontextmanager
async def _flooding(port: int, flood: Flood, seen: Seen) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "proof.strangers.flood",
        str(port),
        *(f"--{name}={value}" for name, value in asdict(flood).items()),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None  # noqa: S101 - it was asked for
    try:
        yield
        seen.floods = msgspec.json.decode(await process.stdout.read(), type=dict[str, dict[str, int]])
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _deliver_for(port: int, seconds: float, rate: float, seen: Seen) -> None:
    """Send what is due, whatever became of what was sent before."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(1, int(seconds * rate) + 1):
            due = began + number / rate
            await asyncio.sleep(due - time.monotonic())
            group.create_task(_deliver(port, number, due, seen))


async def _deliver(port: int, number: int, due: float, seen: Seen) -> None:
    raw = _delivery(number)
    try:
        wire = await Wire.open(port)
        await wire.send(raw)
        answer = await wire.answer(PATIENCE)
        wire.close()
    except (OSError, TimeoutError, NotAnAnswerError) as error:
        seen.statuses[type(error).__name__] += 1
    else:
        seen.statuses["lost" if answer is None else str(answer.status)] += 1
    seen.latencies.append(time.monotonic() - due)


def _delivery(number: int) -> bytes:
    """Return news about one of a thousand tickets."""
    at = datetime(2026, 1, 2, tzinfo=UTC) + timedelta(seconds=number)
    said = {
        "id": number % 1000 + 1,
        "number": number % 1000 + 1,
        "status": ("active", "pending", "closed")[number % 3],
        "state": "published",
        "mailboxId": 1,
        "updatedAt": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "_embedded": {"threads": msgspec.Raw(b"[" + threads(SIZE - 200) + b"]")},
    }
    return delivery(msgspec.json.encode(said), b"convo.status")


async def _sample(watched: Watched, seen: Seen) -> None:
    """Note, each second, how many lines strangers have made."""
    counts, began = [_strangers_lines(watched)], time.monotonic()
    while True:
        await asyncio.sleep(1)
        counts.append(_strangers_lines(watched))
        before = counts[max(0, len(counts) - 6)]
        most = (counts[-1] - before) / min(5, len(counts) - 1)
        seen.lines = max(seen.lines[0], most), (counts[-1] - counts[0]) / (time.monotonic() - began)


def _strangers_lines(watched: Watched) -> int:
    return sum(count for event, count in watched.log.events.items() if event not in OWN_LINES)
