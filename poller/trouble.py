"""What FreeScout does wrong for some tickets while its API answers: kept where readiness and `doctor` find it."""

from collections.abc import Collection
from contextlib import suppress

from db import lease
from db.database import Database
from freescout_audit.errors import DatabaseUnavailableError

_NAMED = 5
"""Tickets that are named at the most."""


class Troubles:
    """Reports what passes and questions meet, when it changes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._of_passes = ""
        self._of_tickets: dict[int, str] = {}
        self._reported: str | None = None

    async def note_pass(self, detail: str) -> None:
        """Note what the last pass met; empty: nothing."""
        self._of_passes = detail
        await self._report()

    async def note_ticket(self, ticket_id: int, problem: str) -> None:
        """Note what FreeScout answered instead of a ticket that was asked about; empty: it answered."""
        if problem:
            self._of_tickets[ticket_id] = problem
        elif self._of_tickets.pop(ticket_id, None) is None:
            return
        await self._report()

    async def keep(self, ticket_ids: Collection[int]) -> None:
        """Keep only these tickets; one that no question is about is no trouble."""
        gone = self._of_tickets.keys() - set(ticket_ids)
        for ticket_id in gone:
            del self._of_tickets[ticket_id]
        if gone:
            await self._report()

    async def _report(self) -> None:
        named = [f"ticket {each}: {self._of_tickets[each]}" for each in sorted(self._of_tickets)[:_NAMED]]
        more = len(self._of_tickets) - len(named)
        parts = [self._of_passes, *named, f"and {more} more" if more else ""]
        detail = "; ".join(part for part in parts if part)
        if detail == self._reported:
            return
        with suppress(DatabaseUnavailableError):  # the next change, or the next pass, reports it
            await lease.report_trouble(self._database, detail)
            self._reported = detail
