"""Reading a page of which some row makes the desk fail: it is halved down to that row, and the rest is read."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import NamedTuple

import msgspec

from poller.answer import DeskBrokeOffError, DeskServerError
from poller.asked import PAST_THE_END
from poller.page import Page

MOST_HOLES = 8
"""More rows of one page that make lists fail are the desk's trouble, not theirs."""
Ask = Callable[..., Awaitable[Page]]
"""Asks for a page of a list: ``size``, ``number``, and ``once``, as `FreeScout.page`."""


class Around(NamedTuple):
    """A page without the rows that make it fail.

    Its parts come one after the other, and rows of one date in any order: it may lack a row, and show another twice.
    """

    page: Page
    holes: int
    """How many rows make it fail."""
    before: int
    """The position of its last row, less the rows that it has."""
    stood: bool
    """Whether the list had as many rows all the time."""


async def around(ask: Ask, *, size: int, number: int, since: datetime | None) -> Around:
    """Read what can be read of page ``number`` with ``size`` rows of a list; that page has just failed.

    ``ask`` asks as often as it is worth.

    A page that shows nothing is asked for first: if the desk fails over that one too, it fails over everything. Then
    halves are, down to single rows; of two halves of what fails the second is not asked for when the first is well.

    Raises:
        DeskServerError: It fails over everything, or over more rows than a desk in working order has.
        DeskError: It does not answer.
    """
    empty = await ask(size=1, number=PAST_THE_END)
    read: list[tuple[int, Page]] = []
    """Positions, from 0, and the pages that begin there."""
    holes: list[int] = []

    async def part(first: int, rows: int, *, fails: bool = False) -> bool:
        """Read so many rows; return whether all could be."""
        if first >= empty.total:
            return True
        rows = min(rows, 1 << (empty.total - first - 1).bit_length())  # the list ends there
        if rows == 1 or not fails:
            try:
                page = await ask(size=rows, number=first // rows + 1, once=True)
            except DeskServerError as error:
                if rows == 1:
                    holes.append(first)
                    if len(holes) > MOST_HOLES:
                        date = "the beginning" if since is None else since.strftime("%Y-%m-%dT%H:%M:%SZ")
                        said = f": {error.problem}" if isinstance(error, DeskBrokeOffError) else " answers 500"
                        raise DeskServerError(f"the page from {date} of {size} rows{said}", error.next_step) from error
                    return False
            else:
                if page.ends or page.rows == rows:
                    read.append((first, page))
                    return True
        well = await part(first, rows // 2)
        return await part(first + rows // 2, rows // 2, fails=well) and well

    # Halves of a power of two begin where a page of their size does.
    first, end = (number - 1) * size, number * size
    rows = 1 << (max(size - 1, 1).bit_length() - 1)
    begin = start = first // rows * rows
    while start < end:
        await part(start, rows)
        start += rows
    read.sort(key=lambda each: each[0])
    sightings = [sighting for _, page in read for sighting in page.sightings]
    shown = sum(page.rows for _, page in read)
    last = max((at + page.rows for at, page in read), default=begin)
    over = start >= empty.total
    page = msgspec.structs.replace(empty, sightings=sightings, rows=shown, limit=size, holds_all=over, ends=over)
    return Around(page, len(holes), last - shown, all(page.total == empty.total for _, page in read))
