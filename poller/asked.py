"""What a list request asks for, and whether an answer is one to that: a proxy may drop or change the query string."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Literal

import msgspec

from freescout_audit.conversation import Sighting

SortField = Literal["updatedAt", "createdAt", "number"]
Order = Literal["asc", "desc"]

PAST_THE_END = 1_000_000_000
"""A page that no list has: it shows no row, and says how many there are all the same."""
REPEATED = timedelta(hours=1)
"""In the hour that daylight saving repeats a row may be dated so much before the date that was asked for."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request for one page of a list; pages are counted from 1."""

    size: int
    number: int = 1
    sort: SortField = "updatedAt"
    order: Order = "asc"
    updated_since: datetime | None = None
    created_since: datetime | None = None
    mailboxes: Sequence[int] | None = None

    @property
    def query(self) -> Mapping[str, str]:
        """The query string's parameters."""
        query = {
            "sortField": self.sort,
            "sortOrder": self.order,
            "pageSize": str(self.size),
            "page": str(self.number),
        }
        if self.updated_since is not None:
            query["updatedSince"] = _date(self.updated_since)
        if self.created_since is not None:
            query["createdSince"] = _date(self.created_since)
        if self.mailboxes is not None:
            query["mailboxId"] = ",".join(map(str, self.mailboxes))
        return query

    def ignored(self, sightings: Sequence[Sighting], *, rows: int, number: int | None) -> str | None:
        """Return what an answer of so many rows does not do that was asked for; None when nothing shows.

        ``number`` is the page that the answer says it is.
        """
        if rows > self.size:
            return f"pageSize: it has {rows} rows, and {self.size} were asked for"
        if number is not None and number != self.number:
            return f"page: it is page {number}, and {self.number} was asked for"
        for since, name, dates in (
            (self.updated_since, "updatedSince", [row.updated_at for row in sightings]),
            (self.created_since, "createdSince", [row.created_at for row in sightings]),
        ):
            oldest = min((date for date in dates if date is not None), default=None)
            if since is not None and oldest is not None and oldest < since.replace(microsecond=0) - REPEATED:
                return f"{name}: a row is dated {_date(oldest)}, and {_date(since)} was asked for"
        if not self._is_sorted(sightings):
            return f"sortField or sortOrder: its rows are not in the order of {self.sort}, {self.order}"
        if self.mailboxes is not None:
            others = {row.mailbox_id for row in sightings} - {None, *self.mailboxes}
            if others:
                return f"mailboxId: a row is of mailbox {min(filter(None, others))}, which was not asked for"
        return None

    def _is_sorted(self, sightings: Sequence[Sighting]) -> bool:
        values: Iterable[datetime | int | None]
        if self.sort == "number":
            values = [row.number for row in sightings]
        else:
            values = [row.updated_at if self.sort == "updatedAt" else row.created_at for row in sightings]
        known = [value for value in values if value is not None]
        if self.order == "desc":
            known.reverse()
        return all(before <= after for before, after in pairwise(known))  # type: ignore[operator] # all of one type


def _date(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
