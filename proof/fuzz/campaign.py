"""A run of the fuzzer: sends hostile input to a live receiver and checks what must hold afterwards.

The receiver is the real process on a real PostgreSQL, and is spoken to over raw sockets. Everything that is sent comes
from the seed; a run that finds something writes the very bytes to ``.local`` and ends with 1.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import asyncpg

from proof.fuzz.bodies import Sample, load_samples
from proof.fuzz.checks import database_problems, in_flight, label_problems
from proof.fuzz.http import request
from proof.fuzz.inputs import OPS_TOKEN, Input, Inputs
from proof.fuzz.receiver import Watched, receiver
from proof.fuzz.wire import NotAnAnswerError, Wire, WireAnswer

CONNECTIONS = 32
CROWD = 400
"""Connections that are open at once, each with half a head, while others are served."""
PATIENCE = 30.0
"""Seconds until an input that has to be answered and is not counts as found."""
MOMENT = 0.25
"""Seconds until we stop waiting for the answer to an input that need not be answered."""
MEMORY_GROWTH = 256 * 2**20
"""Bytes by which the receiver may grow; it may hold a few of the largest bodies at once."""
FILES_GROWTH = 20
"""Files it may have open at the end beyond those at the start: its database connections."""

_UNAUTHORIZED = b'{"error": "unauthorized"}'
_APPLIED = (b'{"outcome": "applied"}', b'{"outcome":"applied"}')
_CROWD_BATCH = 10**8
"""Numbers from here on are for the deliveries among the crowd."""


class Found(Exception):  # noqa: N818 - what a fuzzer finds is not an error of its own
    """The receiver did what it must not do."""

    def __init__(self, why: str, given: Input | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.given = given


@dataclass(slots=True)
class Tally:
    """What became of one class of inputs."""

    sent: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    silent: int = 0
    worst: float = 0.0


@dataclass(slots=True)
class Report:
    """What a run has seen."""

    seed: int
    seconds: float = 0.0
    tallies: dict[str, Tally] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    offending: bytes | None = None
    memory: tuple[int, int, int] = (0, 0, 0)
    """Resident bytes at the start, at the peak, at the end."""
    files: tuple[int | None, int | None] = (None, None)
    log_lines: int = 0

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return sum(tally.sent for tally in self.tallies.values())


class Fuzz:
    """Sends batches over many connections at once, and judges every answer."""

    def __init__(self, inputs: Inputs, port: int, requests: int) -> None:
        self.inputs = inputs
        self.tallies: dict[str, Tally] = {}
        self.sent = 0
        self.signed = 0
        self.journalled = 0
        self.valid: dict[int, Sample] = {}
        self._port = port
        self._requests = requests
        self._numbers = itertools.count()

    async def run(self, *, connections: int, crowd: int) -> None:
        """Send everything.

        Raises:
            Found: At the first answer that is not allowed.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(connections):
                    group.create_task(self._send_batches())
                group.create_task(self._gather_a_crowd(crowd))
        except* Found as group_of_found:
            raise next(_leaves(group_of_found)) from None

    async def _send_batches(self) -> None:
        wire: Wire | None = None
        for number in self._numbers:
            if self.sent >= self._requests:
                break
            wire = await self.send(self.inputs.batch(number), wire)
        if wire is not None:
            wire.close()

    async def send(self, batch: Sequence[Input], wire: Wire | None = None) -> Wire | None:
        """Send a batch, judge its answers, and return the connection if it is of further use."""
        stays = [given for given in batch if given.ends == "stays"]
        wire = await self._open() if wire is None or wire.ended else wire
        began = time.perf_counter()
        await wire.send(b"".join(given.raw for given in stays))
        for given in stays:
            self._note_sent(given)
            answer = await self._answer(wire, given)
            if answer is None:
                raise Found("the connection ended before the answer", given)
            self._judge(given, answer, began)
            began = answer.at  # the next one has been first in line since then
            if answer.closes:
                raise Found("the answer ends a connection that should stay", given)
        if len(stays) == len(batch):
            return wire
        await self._send_last(wire, batch[-1])
        return None

    async def _send_last(self, wire: Wire, given: Input) -> None:
        self._note_sent(given)
        began = time.perf_counter()
        await wire.send(given.raw, pieces=given.pieces, pause=given.pause)
        if given.ends == "drops":
            self._tally(given).silent += 1
            wire.drop()
            return
        if given.ends == "leaves":
            wire.say_no_more()
        answers = 0
        while (answer := await self._last_answer(wire, given)) is not None:
            answers += 1
            self._judge(given, answer, began)
            if answer.closes and given.ends == "closes":
                break
        if answers == 0:
            self._tally(given).silent += 1
            if given.must_be_answered:
                raise Found("the connection ended without an answer", given)
        wire.close()

    async def _last_answer(self, wire: Wire, given: Input) -> WireAnswer | None:
        """Return the next answer to an input after which no other comes; None when the connection has ended."""
        if given.ends == "waits":
            with suppress(TimeoutError, NotAnAnswerError):
                return await wire.answer(MOMENT)
            wire.say_no_more()
        return await self._answer(wire, given)

    async def _answer(self, wire: Wire, given: Input) -> WireAnswer | None:
        try:
            return await wire.answer(PATIENCE)
        except TimeoutError:
            raise Found(f"no answer, and no end of the connection, within {PATIENCE:g} s", given) from None
        except NotAnAnswerError as error:
            raise Found(f"what came is no HTTP answer: {error}", given) from None

    def _judge(self, given: Input, answer: WireAnswer, began: float) -> None:
        tally = self._tally(given)
        tally.answers[answer.status] += 1
        tally.worst = max(tally.worst, answer.at - began)
        if answer.status not in given.allowed:
            raise Found(
                f"{given.kind}: answered {answer.status} {answer.body[:200]!r}, allowed are {sorted(given.allowed)}",
                given,
            )
        if answer.status == 401 and answer.body != _UNAUTHORIZED and given.kind != "pages":
            raise Found(f"a 401 says more than it should: {answer.body[:200]!r}", given)
        if b'"outcome"' in answer.body or (given.deliveries and given.ends == "stays"):
            self.journalled += 1
        if given.ticket_id is not None:
            if answer.body not in _APPLIED:
                raise Found(f"a valid delivery was answered {answer.body[:200]!r}", given)
            self.valid[given.ticket_id] = self.inputs.sample_of(given.ticket_id)

    async def _gather_a_crowd(self, size: int) -> None:
        """Hold many connections with half a request each, and see that deliveries get through all the same."""
        half = Input(
            kind="one of a crowd",
            raw=request([], b"never sent")[:40],
            allowed=frozenset({400}),
            ends="drops",
        )
        wires = await asyncio.gather(*(self._open() for _ in range(size)))
        for wire in wires:
            self._note_sent(half)
            await wire.send(half.raw)
        await self.send([self.inputs.valid(_CROWD_BATCH + place) for place in range(20)])
        for wire in wires:
            if wire.ended:
                raise Found("the receiver ended a connection that had not done anything wrong yet", half)
            self._tally(half).silent += 1
            wire.drop()

    async def page(self, path: bytes) -> WireAnswer:
        """Fetch one of the receiver's own pages as an operator.

        Raises:
            Found: It does not answer.
        """
        raw = request([(b"Authorization", b"Bearer " + OPS_TOKEN.encode())], None, method=b"GET", path=path)
        given = Input(kind="the operator's look", raw=raw, allowed=frozenset({200}))
        wire = await self._open()
        await wire.send(raw)
        answer = await self._answer(wire, given)
        wire.close()
        if answer is None or answer.status != 200:
            raise Found(f"{path.decode()} is not answered 200", given)
        return answer

    async def _open(self) -> Wire:
        try:
            return await Wire.open(self._port)
        except OSError as error:
            raise Found(f"the receiver takes no connection: {error}") from None

    def _note_sent(self, given: Input) -> None:
        self.sent += 1
        self.signed += given.deliveries
        self._tally(given).sent += 1

    def _tally(self, given: Input) -> Tally:
        return self.tallies.setdefault(given.kind, Tally())


def _leaves(group: BaseExceptionGroup[Found]) -> Iterator[Found]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def fuzz(
    database_url: str,
    *,
    requests: int,
    seed: int = 1,
    connections: int = CONNECTIONS,
    crowd: int = CROWD,
) -> Report:
    """Send so many requests to a receiver on this migrated, empty database, and report."""
    report = Report(seed=seed)
    inputs = Inputs(seed, load_samples())
    began = time.perf_counter()
    async with receiver(database_url) as watched:
        run = Fuzz(inputs, watched.log.port, requests)
        try:
            await run.send([inputs.valid(_CROWD_BATCH + 1000)])
            watched.memory_start = watched.memory()
            files = watched.files()
            await run.run(connections=connections, crowd=crowd)
            await _look_at_the_end(run, watched, report, files)
        except Found as found:
            report.problems.append(found.why)
            report.offending = None if found.given is None else found.given.raw
        report.memory = (watched.memory_start, watched.memory_peak, watched.memory())
        report.tallies = run.tallies
    report.seconds = time.perf_counter() - began
    report.log_lines = watched.log.events.total()
    report.problems += watched.log.wrong
    if watched.stderr:
        report.problems.append(f"it wrote to stderr: {watched.stderr.decode(errors='replace')}")
    if watched.process.returncode != 0:
        report.problems.append(f"it ended with {watched.process.returncode}")
    connection = await asyncpg.connect(database_url)
    report.problems += await database_problems(connection, answered=run.journalled, sent=run.signed, valid=run.valid)
    await connection.close()
    return report


async def _look_at_the_end(run: Fuzz, watched: Watched, report: Report, files: int | None) -> None:
    """See that it still works, and that nothing has been left open or has grown.

    Raises:
        Found: It does not work.
    """
    await run.page(b"/healthz")
    await run.send([run.inputs.valid(_CROWD_BATCH + 1001)])
    for _ in range(100):  # connections that were dropped are noticed soon, not at once
        exposition = (await run.page(b"/metrics")).body.decode()
        report.files = files, watched.files()
        leaked = (report.files[1] or 0) - (files or 0) > FILES_GROWTH
        if not leaked and in_flight(exposition) == 0:
            break
        await asyncio.sleep(0.1)
    else:
        report.problems.append(f"left open: {report.files[1]} files, {in_flight(exposition)} requests in flight")
    report.problems += label_problems(exposition)
    grown = watched.memory_peak - watched.memory_start
    if grown > MEMORY_GROWTH:
        report.problems.append(f"the receiver grew by {grown / 2**20:.0f} MiB")
