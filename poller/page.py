"""One page of a list of conversations, out of an answer. Decoded row by row: a strange row spoils only itself. Pure."""

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from freescout_audit.conversation import Sighting, UnusableBodyError, decode_conversation
from poller.answer import UNREADABLE, DeskRefusedError, DeskResponse, desk_clock
from poller.asked import Asked
from poller.meaning import unreadable


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list."""

    sightings: Sequence[Sighting]
    """The rows that have a usable id, in the list's order."""
    rows: int
    """All rows."""
    total: int
    """``totalElements``: how many the whole list has."""
    limit: int
    """How many rows the desk says it puts on a page: fewer than were asked for where it caps its pages."""
    holds_all: bool
    """Whether its last row is the last of ``total``."""
    ends: bool
    """Whether the list ends with it: it holds all, and is not full."""
    desk_clock: datetime
    """The answer's ``Date``."""

    @property
    def is_short(self) -> bool:
        """Whether it has fewer rows than ``limit`` although the list goes on."""
        return 0 < self.rows < self.limit and not self.holds_all

    @property
    def none_understood(self) -> bool:
        """Whether it has rows, and no status, state and date of any of them is one we know."""
        return self.rows > 0 and not any(sighting.understood for sighting in self.sightings)


class _Rows(msgspec.Struct):
    conversations: list[msgspec.Raw]


class _PageInfo(msgspec.Struct, rename="camel"):
    total_elements: int
    size: int = 0
    number: int = 0


class _List(msgspec.Struct):
    embedded: _Rows = msgspec.field(name="_embedded")
    page: _PageInfo


_list = msgspec.json.Decoder(_List, strict=False)


def read_page(asked: Asked, answer: DeskResponse, strange: Callable[[int | None], None]) -> Page:
    """Return the page that was asked for; ``strange`` is told of rows that are not understood, by id if they have one.

    Raises:
        DeskRefusedError: It is not the one that was asked for.
        DeskUnavailableError: It is no list.
    """
    try:
        listed = _list.decode(answer.body)
    except UNREADABLE as error:
        raise unreadable(answer, "FreeScout's list is not what it should be") from error
    rows, total = len(listed.embedded.conversations), listed.page.total_elements
    sightings = [sighting for raw in listed.embedded.conversations if (sighting := _row(raw, strange)) is not None]
    if ignored := asked.ignored(sightings, rows=rows, number=listed.page.number or None):
        raise DeskRefusedError(
            f"FreeScout's list ignores {ignored}", "does a proxy drop or change the query string? let it through as is"
        )
    limit = min(asked.size, listed.page.size) if listed.page.size > 0 else asked.size
    holds_all = (asked.number - 1) * limit + rows >= total
    return Page(
        sightings=sightings,
        rows=rows,
        total=total,
        limit=limit,
        holds_all=holds_all,
        ends=holds_all and rows < limit,
        desk_clock=desk_clock(answer),
    )


def _row(raw: msgspec.Raw, strange: Callable[[int | None], None]) -> Sighting | None:
    try:
        sighting = decode_conversation(memoryview(raw))
    except UnusableBodyError:
        strange(None)
        return None
    if not sighting.understood:
        strange(sighting.ticket_id)
    return sighting
