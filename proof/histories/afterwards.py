"""What can be known afterwards: the history of answers, and the feed of transitions, held against what was read."""

import random
from collections.abc import Mapping, Sequence
from datetime import datetime

from db import statements
from db.history import explain_at
from proof.histories.cache import Look, StagedCache
from proof.histories.oracle import NONE, WrongError

MOMENTS = 100
"""Moments of a history that are looked back at."""
_IN_PYTHON = 5
_PAGE = 3
_OFTEN = 0.3


class Afterwards:
    """Remembers what readers got, and reads the feed as an application does: it stops, dies, and goes on."""

    def __init__(self, cache: StagedCache, seed: int) -> None:
        self._cache = cache
        self._rng = random.Random(seed)
        self._read: dict[tuple[int, datetime], str] = {}
        self._place = 0
        """Where the reader's cursor is."""
        self._had: list[int] = []
        """The transitions that it was given, those it died over twice."""

    async def look(self, look: Look) -> None:
        """Remember what was read, and let the reader of the feed go on, or not."""
        for ticket_id, seen in look.tickets.items():
            self._read[ticket_id, self._cache.clock] = seen.answer
        if self._rng.random() < _OFTEN:
            await self._cache.outside("SELECT freescout_number_transitions($1)", self._rng.randint(1, 5))
        if self._rng.random() < _OFTEN:
            await self._go_on()

    async def _go_on(self) -> None:
        given = await self._cache.outside("SELECT * FROM freescout_transitions($1, $2)", self._place, _PAGE)
        for row in given:
            self._had.append(row["transition_id"])
            if self._rng.random() < _OFTEN / 3:
                return  # it dies, and the cursor has not moved on
            self._place = row["transition_id"]

    async def judge(self, look: Look) -> None:
        """Look back.

        Raises:
            WrongError: The history says something else than was read, or the feed lacks something.
        """
        await self._judge_the_history()
        await self._judge_the_feed(look)

    async def _judge_the_history(self) -> None:
        """Of each moment the history says what was read; where PostgreSQL's clock has jumped, that or none."""
        moments = list(self._read.items())
        sample = self._rng.sample(moments, min(MOMENTS, len(moments)))
        rows = await self._cache.outside(
            "SELECT freescout_ticket_state_at(id, at) AS said FROM unnest($1::bigint[], $2::timestamptz[])"
            " WITH ORDINALITY AS read (id, at, place) ORDER BY place",
            [ticket_id for (ticket_id, _), _ in sample],
            [at for (_, at), _ in sample],
        )
        for place, (((ticket_id, at), answer), row) in enumerate(zip(sample, rows, strict=True)):
            said: str = row["said"]
            if said != answer and not (self._cache.has_jumped and said == NONE):
                raise WrongError(f"ticket {ticket_id} read {answer} at {at:%H:%M:%S.%f}, and the history says {said}")
            if place < _IN_PYTHON and (in_python := await self._read_at(ticket_id, at)) != said:
                raise WrongError(f"of ticket {ticket_id} at {at:%H:%M:%S.%f} SQL says {said}, Python {in_python}")

    async def _read_at(self, ticket_id: int, at: datetime) -> str:
        (row,) = await self._cache.outside(statements.READ_TICKET_AT, ticket_id, at)
        return explain_at(row, at).ticket_state

    async def _judge_the_feed(self, look: Look) -> None:
        await self._cache.outside("SELECT freescout_number_transitions($1)", 1_000_000)
        feed = await self._cache.outside("SELECT * FROM freescout_transitions(0, 1000000)")
        settled: dict[int, str] = {}
        for number, row in enumerate(feed, 1):
            if row["transition_id"] != number:
                raise WrongError(f"the feed has {row['transition_id']} in the place of {number}")
            if row["before"] != settled.get(row["ticket_id"], NONE) or row["before"] == row["after"]:
                raise WrongError(f"transition {number} of ticket {row['ticket_id']} is from {row['before']}")
            settled[row["ticket_id"]] = row["after"]
        self._lead_to_what_is_read(look, settled)
        while self._place < len(feed):
            await self._go_on()
        self._judge_the_reader(self._had, len(feed))

    @staticmethod
    def _lead_to_what_is_read(look: Look, settled: Mapping[int, str]) -> None:
        for ticket_id, seen in look.tickets.items():
            if settled.get(ticket_id, NONE) != seen.answer:
                raise WrongError(
                    f"the feed leaves ticket {ticket_id} {settled.get(ticket_id, NONE)}, and it reads {seen.answer}"
                )

    @staticmethod
    def _judge_the_reader(had: Sequence[int], last: int) -> None:
        """It had each in order, and had again only what it died over."""
        expected = 1
        for number in had:
            if number not in {expected, expected - 1}:
                raise WrongError(f"a reader of the feed was given {number} when {expected} was next")
            expected = number + 1
        if expected != last + 1:
            raise WrongError(f"a reader of the feed came to {expected - 1} of {last}")
