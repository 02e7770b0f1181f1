"""Reads the feed while everything else is killed, and says what it was given wrongly."""

from collections.abc import Sequence

from db.database import Database
from db.transitions import number_transitions
from freescout_audit.asking import Transition
from freescout_audit.errors import DatabaseUnavailableError

_PAGE = 50
_SHOWN = 5


class FeedReader:
    """Goes on from the last transition that it was given, as an application does."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._place = 0
        self._settled: dict[int, str] = {}
        self.transitions = 0
        self.violations: list[str] = []

    async def read(self) -> bool:
        """Read what is new, a page at the most; False when the database is away, or there was nothing."""
        try:
            async with self._database.connection(2.0) as connection:
                rows = await connection.driver.fetch("SELECT * FROM freescout_transitions($1, $2)", self._place, _PAGE)
        except DatabaseUnavailableError:
            return False
        for row in rows:
            self._take(Transition(**row))
        return bool(rows)

    def _take(self, given: Transition) -> None:
        before = self._settled.get(given.ticket_id, "none")
        if given.transition_id != self._place + 1:
            self._complain(f"the feed gave transition {given.transition_id} after {self._place}")
        if given.before != before or given.after == before:
            said = f"{given.before} → {given.after}"
            self._complain(f"transition {given.transition_id} of ticket {given.ticket_id} is {said} after {before}")
        self._place, self._settled[given.ticket_id] = given.transition_id, given.after
        self.transitions += 1

    async def differences(self, true: Sequence[tuple[int, str]]) -> list[str]:
        """Read to the end; say what went wrong, and which tickets the feed leaves otherwise than they are."""
        await number_transitions(self._database)
        while await self.read():
            pass
        wrong = [
            f"the feed leaves ticket {ticket_id} {told}, and it is {answer}"
            for ticket_id, answer in true
            if (told := self._settled.get(ticket_id, "none")) != answer
        ]
        return [*self.violations, *wrong[:_SHOWN]]

    def _complain(self, problem: str) -> None:
        if len(self.violations) < _SHOWN:
            self.violations.append(problem)
