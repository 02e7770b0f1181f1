"""``GET /conversations``: filters, order, paging over a table that moves under it.

Every answer is computed from the table as it is at that moment, so offset paging loses rows exactly as FreeScout's
does. Counting and cutting out a page come from the indexes and cost about a millisecond at a million rows, as long as
the order is by a date or number and nothing but mailboxes and one of the dates is filtered; other filters, and sorting
by one date while filtering by the other, look at rows.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from heapq import merge
from itertools import groupby

from simulator.clock import stored_seconds
from simulator.conversation import Conversation
from simulator.index import ID_BITS, SortedKeys, id_of, key_of
from simulator.store import Store

DEFAULT_PAGE_SIZE = 50
_FEW = 2000
_STATUSES = frozenset({"active", "pending", "closed", "spam"})
_STATES = frozenset({"draft", "published", "deleted"})
_SORT_FIELDS = frozenset({"createdAt", "updatedAt", "number", "mailboxId", "subject", "waitingSince"})


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a list request asks for, understood as FreeScout does; see ``parse_query``.

    Attributes:
        mailboxes: Only these; None for all. One that does not exist holds nothing.
        updated_since: Unix second, inclusive; None for all.
        created_since: The same for the date of creation.
        statuses: Only these; None for all.
        state: One state, or None.
        number: One number, or None.
        sort_field: One of FreeScout's six.
        descending: The direction.
        size: Rows a page, at least 1.
        page: From 1.
        threads: Whether rows carry their threads.
    """

    mailboxes: tuple[int, ...] | None = None
    updated_since: int | None = None
    created_since: int | None = None
    statuses: frozenset[str] | None = None
    state: str | None = None
    number: int | None = None
    sort_field: str = "createdAt"
    descending: bool = True
    size: int = DEFAULT_PAGE_SIZE
    page: int = 1
    threads: bool = False

    def filters_other_than(self, field: str) -> bool:
        """Tell whether rows are left out that an index by ``field`` holds."""
        return (
            (self.created_since is not None and field != "createdAt")
            or (self.updated_since is not None and field != "updatedAt")
            or (self.mailboxes is not None and field == "number")
        )

    def matches(self, row: Conversation) -> bool:
        """Tell whether a row is in the list."""
        return (
            (self.mailboxes is None or row.mailbox_id in self.mailboxes)
            and (self.updated_since is None or row.updated >= self.updated_since)
            and (self.created_since is None or row.created >= self.created_since)
            and (self.statuses is None or row.status in self.statuses)
            and (self.state is None or row.state == self.state)
            and (self.number is None or row.number == self.number)
        )


@dataclass(frozen=True, slots=True)
class Listed:
    """One page: its rows, and how many there are in all."""

    rows: Sequence[Conversation]
    total: int


def parse_query(query: Mapping[str, str], zone: tzinfo) -> ListQuery:
    """Understand the query of a list request.

    Raises:
        ValueError: FreeScout answers 500: a malformed date, a ``pageSize`` that is negative or no number.
    """
    size = int(query.get("pageSize") or DEFAULT_PAGE_SIZE)
    if size < 0:
        raise ValueError(f"pageSize {size}")
    mailboxes = query.get("mailboxId")
    number = query.get("number")
    sort_field = query.get("sortField", "")
    return ListQuery(
        mailboxes=tuple(sorted({_as_php_int(part) for part in mailboxes.split(",")})) if mailboxes else None,
        updated_since=_since(query.get("updatedSince"), zone),
        created_since=_since(query.get("createdSince"), zone),
        statuses=frozenset(query.get("status", "").split(",")) & _STATUSES or None,
        state=query.get("state") if query.get("state") in _STATES else None,
        number=_as_php_int(number) if number else None,
        sort_field=sort_field if sort_field in _SORT_FIELDS else "createdAt",
        descending=query.get("sortOrder", "").lower() != "asc",
        size=size or DEFAULT_PAGE_SIZE,
        page=max(1, _as_php_int(query.get("page", "1"))),
        threads="threads" in query.get("embed", "").split(","),
    )


def list_conversations(desk: Store, query: ListQuery) -> Listed:
    """Return the page that a query asks for."""
    start = (query.page - 1) * query.size
    narrow = _narrowest(desk, query)
    if not _is_counted(query):
        rows = [row for row in narrow.rows(desk) if query.matches(row)]
        return Listed(_sorted_page(desk, rows, query, start), len(rows))
    total, indexes = narrow.total, _indexes(desk, query)
    if start >= total:
        return Listed((), total)
    if len(indexes) == 1 and not query.filters_other_than(query.sort_field):
        return Listed(_cut(desk, indexes[0], query, start), total)
    if indexes and total > _FEW:
        return Listed(_walked_page(desk, indexes, query, start), total)
    return Listed(_sorted_page(desk, list(narrow.rows(desk)), query, start), total)


# Which rows: the smallest stretch of an index that holds them all.


@dataclass(frozen=True, slots=True)
class _Range:
    indexes: Sequence[SortedKeys]
    firsts: Sequence[int]

    @property
    def total(self) -> int:
        return sum(len(index) - first for index, first in zip(self.indexes, self.firsts, strict=True))

    def rows(self, desk: Store) -> Iterator[Conversation]:
        for index, first in zip(self.indexes, self.firsts, strict=True):
            for key in index.slice(first, len(index)):
                yield desk.conversations[id_of(key)]


def _narrowest(desk: Store, query: ListQuery) -> _Range:
    ranges = []
    for by_all, by_mailbox, since in (
        (desk.by_created, desk.by_created_in, query.created_since),
        (desk.by_updated, desk.by_updated_in, query.updated_since),
    ):
        indexes = _in_scope(by_all, by_mailbox, query)
        ranges.append(_Range(indexes, [_first_since(index, since) for index in indexes]))
    return min(ranges, key=lambda found: found.total)


def _is_counted(query: ListQuery) -> bool:
    # The stretch holds nothing else, so its length is the answer.
    looks_inside = query.statuses is not None or query.state is not None or query.number is not None
    return not looks_inside and (query.updated_since is None or query.created_since is None)


def _in_scope(by_all: SortedKeys, by_mailbox: Mapping[int, SortedKeys], query: ListQuery) -> Sequence[SortedKeys]:
    if query.mailboxes is None:
        return [by_all]
    return [by_mailbox[mailbox] for mailbox in query.mailboxes if mailbox in by_mailbox]


def _indexes(desk: Store, query: ListQuery) -> Sequence[SortedKeys]:
    # Those that are in the order asked for; none when FreeScout would have to sort.
    match query.sort_field:
        case "createdAt":
            return _in_scope(desk.by_created, desk.by_created_in, query)
        case "updatedAt":
            return _in_scope(desk.by_updated, desk.by_updated_in, query)
        case "number":
            return [desk.by_number]
        case _:
            return []


def _first_since(index: SortedKeys, since: int | None) -> int:
    return 0 if since is None else index.position(key_of(since, 0))


# Which of them are on the page, and in which order.


def _cut(desk: Store, index: SortedKeys, query: ListQuery, start: int) -> list[Conversation]:
    since = query.updated_since if query.sort_field == "updatedAt" else query.created_since
    lowest, end, stop = _first_since(index, since), len(index), start + query.size
    if query.descending:
        first, last = max(end - stop, lowest), end - start
    else:
        first, last = lowest + start, min(lowest + stop, end)
    keys = index.slice(first, last)
    if desk.random_ties:
        keys = list(_any_order_among_equals(desk, index, keys))
    if query.descending:
        keys.reverse()
    return [desk.conversations[id_of(key)] for key in keys]


def _any_order_among_equals(desk: Store, index: SortedKeys, keys: list[int]) -> Iterator[int]:
    # A page may begin or end among equals: then any of them, wherever they lie, may be the ones on it.
    edges = {keys[0] >> ID_BITS, keys[-1] >> ID_BITS}
    for value, group in groupby(keys, key=lambda key: key >> ID_BITS):
        equals = list(group)
        wanted = len(equals)
        if value in edges:
            equals = index.slice(index.position(key_of(value, 0)), index.position(key_of(value + 1, 0)))
        yield from equals if len(equals) == 1 else desk.rng.sample(equals, wanted)


def _walked_page(desk: Store, indexes: Sequence[SortedKeys], query: ListQuery, start: int) -> list[Conversation]:
    since = {"updatedAt": query.updated_since, "createdAt": query.created_since}.get(query.sort_field)
    walks = [index.walk(_first_since(index, since), descending=query.descending) for index in indexes]
    page: list[Conversation] = []
    passed = 0
    for _, keys in groupby(merge(*walks, reverse=query.descending), key=lambda key: key >> ID_BITS):
        equals = [row for row in (desk.conversations[id_of(key)] for key in keys) if query.matches(row)]
        first, last = max(start - passed, 0), min(start + query.size - passed, len(equals))
        if first < last:
            page += desk.rng.sample(equals, last - first) if desk.random_ties else equals[first:last]
        passed += len(equals)
        if passed >= start + query.size:
            break
    return page


def _sorted_page(desk: Store, rows: list[Conversation], query: ListQuery, start: int) -> list[Conversation]:
    if desk.random_ties:
        desk.rng.shuffle(rows)
    else:
        rows.sort(key=lambda row: row.id, reverse=query.descending)
    rows.sort(key=_SORT_KEYS[query.sort_field], reverse=query.descending)
    return rows[start : start + query.size]


_SORT_KEYS: Mapping[str, Callable[[Conversation], int | str]] = {
    "createdAt": lambda row: row.created,
    "updatedAt": lambda row: row.updated,
    "number": lambda row: row.number,
    "mailboxId": lambda row: row.mailbox_id,
    "subject": lambda row: row.subject,
    "waitingSince": lambda row: row.last_reply or 0,
}


# How FreeScout reads a parameter.


def _since(text: str | None, zone: tzinfo) -> int | None:
    # The fraction is cut off, and the database compares wall times: in the repeated hour a bound may be an hour off.
    if not text:
        return None
    moment = datetime.fromisoformat(text)
    return stored_seconds(moment if moment.tzinfo else moment.replace(tzinfo=zone), zone)


def _as_php_int(text: str) -> int:
    digits = re.match(r"\s*([+-]?\d+)", text)
    return int(digits[1]) if digits else 0
