"""FreeScout's API as we use it: what is asked, what an answer means, and which failures may pass.

All of it is knowledge about FreeScout (measured on API & Webhooks module 1.0.82), without I/O of its own: a
`Transport` sends the requests. A list is decoded row by row, so that a strange row spoils nothing but itself.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Protocol, TypeVar

import msgspec

from freescout_audit.backoff import backoff
from freescout_audit.conversation import Sighting, UnusableBodyError, decode_conversation
from freescout_audit.events import DESK_RETRY, DESK_STRANGE_ROW
from freescout_audit.logs import emit
from freescout_audit.repeats import Repeats
from poller.answer import (
    UNREADABLE,
    DeskBrokeOffError,
    DeskError,
    DeskRefusedError,
    DeskResponse,
    DeskServerError,
    DeskUnavailableError,
    check_its_age,
    desk_clock,
    is_json,
)
from poller.asked import PAST_THE_END, Asked, Order, SortField
from poller.meaning import no_answer, says, unreadable, what_it_means
from poller.page import Page, read_page

__all__ = [
    "RETRIES",
    "DeskError",
    "DeskRefusedError",
    "DeskResponse",
    "DeskServerError",
    "DeskUnavailableError",
    "FreeScout",
    "Page",
    "Transport",
]

T = TypeVar("T")

RETRIES = 3
HANGS_AFTER = 15.0
"""Seconds without an answer from which a desk is said to hang; a page of rows takes one or two."""
_STRANGE_ROW_EVERY = 86_400.0
_IS_IT_UP = "is FREESCOUT_URL right, and is the desk up?"
_MAILBOXES = 1000
"""Mailboxes in one list request."""
LONGEST_WAIT = 60.0
"""Seconds we wait at the most before asking again, whatever Retry-After says."""
FIRST_WAIT = 2.0
"""Seconds we wait at the most after the first failure; twice as long after each further one."""


class Transport(Protocol):
    """Sends a GET request below the API's base and returns its answer.

    Raises:
        OSError: No answer; TimeoutError is one.
    """

    def __call__(self, path: str, query: Mapping[str, str], /) -> Awaitable[DeskResponse]:
        """Send it."""
        ...


class _Mailbox(msgspec.Struct):
    id: int


class _Mailboxes(msgspec.Struct):
    mailboxes: list[_Mailbox]


class _MailboxTotal(msgspec.Struct, rename="camel"):
    total_elements: int = 0


class _MailboxList(msgspec.Struct):
    embedded: _Mailboxes = msgspec.field(name="_embedded")
    page: _MailboxTotal = msgspec.field(default_factory=_MailboxTotal)


_mailbox_list = msgspec.json.Decoder(_MailboxList, strict=False)


class FreeScout:
    """A desk's API.

    Args:
        transport: Sends requests.
        concurrency: How many may be under way at once.
        sleep: Waits some seconds; a test passes one that does not.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        concurrency: int = 4,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._transport = transport
        self._turns = asyncio.Semaphore(concurrency)
        self._sleep = sleep
        self.requests = 0
        """How many requests have been sent."""
        self.answered_at: float | None = None
        """When the last answer came that counts, by the loop's clock; None: never."""
        self._waiting: list[float] = []
        """When each list request that waits for its answer was sent, by the loop's clock."""
        self._repeats = Repeats(_STRANGE_ROW_EVERY)
        self._trouble: DeskError | None = None
        """What the last list request met that is sent again; None since one was answered."""

    @property
    def trouble(self) -> DeskError | None:
        """What keeps list requests from being answered just now, before the one who asked gives them up."""
        waited = asyncio.get_running_loop().time() - min(self._waiting, default=math.inf)
        if waited >= HANGS_AFTER:
            return DeskUnavailableError("FreeScout does not answer", _IS_IT_UP)
        return self._trouble

    async def page(
        self,
        *,
        size: int,
        number: int = 1,
        sort: SortField = "updatedAt",
        order: Order = "asc",
        updated_since: datetime | None = None,
        created_since: datetime | None = None,
        mailboxes: Sequence[int] | None = None,
        retries: int = RETRIES,
        once: bool = False,
    ) -> Page:
        """Return a page of the conversations, whatever their status and state.

        ``once``: what FreeScout itself fails over is not asked for again, as the same rows would fail once more; where
        a web server says so, once.

        Raises:
            DeskServerError: FreeScout itself fails over it.
            DeskError: No answer that counts.
        """
        asked = Asked(
            size=size,
            number=number,
            sort=sort,
            order=order,
            updated_since=updated_since,
            created_since=created_since,
            mailboxes=mailboxes,
        )
        read = partial(read_page, asked, strange=self._strange)
        return await self._ask("conversations", asked.query, read, retries=retries, once=once)

    async def count(
        self,
        *,
        updated_since: datetime | None = None,
        created_since: datetime | None = None,
        mailboxes: Sequence[int] | None = None,
        retries: int = RETRIES,
    ) -> int:
        """Return how many conversations there are, for the price of one row; errors as `page`."""
        ask = partial(
            self.page,
            size=1,
            sort="createdAt" if updated_since is None else "updatedAt",
            updated_since=updated_since,
            created_since=created_since,
            mailboxes=mailboxes,
            retries=retries,
        )
        try:
            page = await ask(once=True)
        except DeskServerError:
            # Its one row may be what makes lists fail: a page without rows counts too.
            page = await ask(number=PAST_THE_END)
        return page.total

    async def clock(self) -> datetime:
        """Return the desk's clock, by an answer that no cache can have; errors as `page`."""
        # New each time, and within PostgreSQL's integer: FreeScout fails over a larger one where that is its database.
        number = random.randrange(10**9, 2**31 - 1)  # noqa: S311 - it is no secret
        return await self._ask("conversations", {"pageSize": "1", "page": "1", "number": str(number)}, desk_clock)

    async def conversation(self, ticket_id: int) -> Sighting | None:
        """Return one conversation; None when FreeScout itself says, in its own JSON form, that it is gone.

        Raises:
            DeskError: No answer that counts.
        """

        def read(answer: DeskResponse) -> Sighting | None:
            if answer.status == 404:  # noqa: PLR2004 - HTTP's own number
                return None
            return _conversation(answer, ticket_id)

        # We do not send it again: the caller asks about other tickets meanwhile, and comes back to this one.
        return await self._ask(f"conversations/{ticket_id}", {"embed": "none"}, read, retries=0, may_be_gone=True)

    async def mailboxes(self) -> set[int]:
        """Return the ids of the mailboxes; errors as `page`."""
        found: set[int] = set()
        number = 0
        while True:
            number += 1
            query = {"pageSize": str(_MAILBOXES), "page": str(number)}
            ids, total = await self._ask("mailboxes", query, _mailbox_ids)
            if ids <= found or len(found | ids) >= total:
                return found | ids
            found |= ids

    async def _ask(
        self,
        path: str,
        query: Mapping[str, str],
        read: Callable[[DeskResponse], T],
        *,
        retries: int = RETRIES,
        may_be_gone: bool = False,
        once: bool = False,
    ) -> T:
        """Send a request until its answer can be read, or is not worth asking for any more."""
        attempt = 0
        while True:
            try:
                answer = read(await self._ask_once(path, query, may_be_gone=may_be_gone))
            except DeskUnavailableError as error:
                most = min(retries, _most_retries(error)) if once else retries
                if attempt >= most or not error.again:
                    raise
                attempt += 1
                self._trouble = error
                wait = max(error.retry_after or 0.0, backoff(attempt, first=FIRST_WAIT, longest=LONGEST_WAIT))
                emit(
                    DESK_RETRY,
                    reason=error.problem,
                    next_step=error.next_step or None,
                    wait_s=round(min(wait, LONGEST_WAIT), 1),
                )
                await self._sleep(min(wait, LONGEST_WAIT))
            else:
                if not may_be_gone:
                    self._trouble = None
                return answer

    async def _ask_once(self, path: str, query: Mapping[str, str], *, may_be_gone: bool) -> DeskResponse:
        async with self._turns:
            self.requests += 1
            sent = asyncio.get_running_loop().time()
            try:
                with self._awaited(None if may_be_gone else sent):
                    answer = await self._transport(path, query)
            except OSError as error:
                raise no_answer(error) from error
        _judge(answer, may_be_gone=may_be_gone)
        check_its_age(answer)
        self.answered_at = asyncio.get_running_loop().time()
        return answer

    def _strange(self, ticket_id: int | None) -> None:
        """Tell of a row that is not understood, once in a day."""
        reason = "no usable id" if ticket_id is None else "its status, state or date is not one we know"
        self._repeats.emit(DESK_STRANGE_ROW, ticket_id, ticket_id=ticket_id, reason=reason)

    @contextmanager
    def _awaited(self, sent: float | None) -> Iterator[None]:
        if sent is None:
            yield
            return
        self._waiting.append(sent)
        try:
            yield
        finally:
            self._waiting.remove(sent)


def _conversation(answer: DeskResponse, ticket_id: int) -> Sighting:
    try:
        sighting = decode_conversation(answer.body)
    except UnusableBodyError as error:
        raise unreadable(answer, "FreeScout's answer is no conversation") from error
    if sighting.ticket_id != ticket_id:
        raise DeskUnavailableError(f"FreeScout answered with ticket {sighting.ticket_id}", "is a cache in between?")
    return sighting


def _mailbox_ids(answer: DeskResponse) -> tuple[set[int], int]:
    """Return the mailboxes of an answer, and how many there are in all."""
    try:
        listed = _mailbox_list.decode(answer.body)
    except UNREADABLE as error:
        raise unreadable(answer, "FreeScout's mailboxes are not what they should be") from error
    return {mailbox.id for mailbox in listed.embedded.mailboxes}, listed.page.total_elements


def _most_retries(error: DeskUnavailableError) -> int:
    """Return how often a request is sent again whose own rows may be what fails."""
    if isinstance(error, DeskBrokeOffError):
        return 1
    return 0 if isinstance(error, DeskServerError) else RETRIES


def _judge(answer: DeskResponse, *, may_be_gone: bool) -> None:
    """Let an answer pass that counts; raise what it means otherwise."""
    if answer.status == 200 and is_json(answer):  # noqa: PLR2004 - HTTP's own numbers, here and below
        return
    if answer.status == 404 and may_be_gone and says(answer) == "Not Found":  # noqa: PLR2004
        return
    raise what_it_means(answer)
