"""FreeScout's API as we use it: what is asked, what an answer means, and which failures may pass.

All of it is knowledge about FreeScout (measured on API & Webhooks module 1.0.82), without I/O of its own: a
`Transport` sends the requests. A list is decoded row by row, so that a strange row spoils nothing but itself.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal, Protocol, TypeVar

import msgspec

from freescout_audit.backoff import backoff
from freescout_audit.conversation import Sighting, UnusableBodyError, decode_conversation
from freescout_audit.errors import FreescoutAuditError
from freescout_audit.events import DESK_RETRY, DESK_STRANGE_ROW
from freescout_audit.logs import emit

T = TypeVar("T")
SortField = Literal["updatedAt", "createdAt", "number"]

RETRIES = 3
LONGEST_WAIT = 60.0
"""Seconds we wait at the most before asking again, whatever Retry-After says."""
FIRST_WAIT = 2.0
"""Seconds we wait at the most after the first failure; twice as long after each further one."""
_IN_BETWEEN = "is a proxy in between?"


class DeskError(FreescoutAuditError):
    """FreeScout's API did not give an answer that counts."""


class DeskUnavailableError(DeskError):
    """It may pass: no answer in time, 429, 5xx, HTML, a connection that broke."""

    def __init__(self, problem: str, next_step: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(problem, next_step)
        self.retry_after = retry_after


class DeskBrokeError(DeskUnavailableError):
    """FreeScout's own error, 500: it may be one conversation that it cannot list."""


class DeskRefusedError(DeskError):
    """It will not pass by itself: a key that is not accepted, a URL that is no FreeScout."""


class DeskResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    """Sends a GET request below the API's base and returns its answer.

    Raises:
        OSError: No answer; TimeoutError is one.
    """

    def __call__(self, path: str, query: Mapping[str, str], /) -> Awaitable[DeskResponse]:
        """Send it."""
        ...


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list."""

    sightings: Sequence[Sighting]
    """The rows that have a usable id, in the list's order."""
    rows: int
    """All rows: a page with fewer than were asked for is the last."""
    total: int
    """``totalElements``: how many the whole list has."""
    desk_clock: datetime
    """The answer's ``Date``."""


class _Rows(msgspec.Struct):
    conversations: list[msgspec.Raw]


class _PageInfo(msgspec.Struct, rename="camel"):
    total_elements: int


class _List(msgspec.Struct):
    embedded: _Rows = msgspec.field(name="_embedded")
    page: _PageInfo


class _Mailbox(msgspec.Struct):
    id: int


class _Mailboxes(msgspec.Struct):
    mailboxes: list[_Mailbox]


class _MailboxList(msgspec.Struct):
    embedded: _Mailboxes = msgspec.field(name="_embedded")


class _Message(msgspec.Struct):
    message: str


_list = msgspec.json.Decoder(_List, strict=False)
_mailbox_list = msgspec.json.Decoder(_MailboxList, strict=False)
_message = msgspec.json.Decoder(_Message)


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

    async def page(
        self,
        *,
        size: int,
        number: int = 1,
        sort: SortField = "updatedAt",
        order: Literal["asc", "desc"] = "asc",
        updated_since: datetime | None = None,
        created_since: datetime | None = None,
        mailboxes: Sequence[int] | None = None,
        retries: int = RETRIES,
    ) -> Page:
        """Return a page of the conversations, whatever their status and state.

        Raises:
            DeskError: No answer that counts.
        """
        query = {"sortField": sort, "sortOrder": order, "pageSize": str(size), "page": str(number)}
        if updated_since is not None:
            query["updatedSince"] = _date(updated_since)
        if created_since is not None:
            query["createdSince"] = _date(created_since)
        if mailboxes is not None:
            query["mailboxId"] = ",".join(map(str, mailboxes))
        return await self._ask("conversations", query, _page, retries=retries)

    async def count(
        self,
        *,
        updated_since: datetime | None = None,
        created_since: datetime | None = None,
        mailboxes: Sequence[int] | None = None,
        retries: int = RETRIES,
    ) -> int:
        """Return how many conversations there are, for the price of one row; errors as `page`."""
        page = await self.page(
            size=1,
            sort="createdAt" if updated_since is None else "updatedAt",
            updated_since=updated_since,
            created_since=created_since,
            mailboxes=mailboxes,
            retries=retries,
        )
        return page.total

    async def conversation(self, ticket_id: int) -> Sighting | None:
        """Return one conversation; None when FreeScout itself says, in its own JSON form, that it is gone.

        Raises:
            DeskError: No answer that counts.
        """

        def read(answer: DeskResponse) -> Sighting | None:
            if answer.status == 404:  # noqa: PLR2004 - HTTP's own number
                return None
            return _conversation(answer, ticket_id)

        # Not sent again: who asks about a ticket has others to ask about meanwhile, and comes back to this one.
        return await self._ask(f"conversations/{ticket_id}", {"embed": "none"}, read, retries=0, may_be_gone=True)

    async def mailboxes(self) -> set[int]:
        """Return the ids of the mailboxes, the first thousand of them; errors as `page`."""
        return await self._ask("mailboxes", {"pageSize": "1000"}, _mailbox_ids)

    async def _ask(
        self,
        path: str,
        query: Mapping[str, str],
        read: Callable[[DeskResponse], T],
        *,
        retries: int = RETRIES,
        may_be_gone: bool = False,
    ) -> T:
        """Send a request until its answer can be read, or is not worth asking for any more."""
        attempt = 0
        while True:
            try:
                return read(await self._ask_once(path, query, may_be_gone=may_be_gone))
            except DeskUnavailableError as error:
                if attempt == retries:
                    raise
                attempt += 1
                wait = error.retry_after
                if wait is None:
                    wait = backoff(attempt, first=FIRST_WAIT, longest=LONGEST_WAIT)
                emit(
                    DESK_RETRY,
                    reason=error.problem,
                    next_step=error.next_step or None,
                    wait_s=round(min(wait, LONGEST_WAIT), 1),
                )
                await self._sleep(min(wait, LONGEST_WAIT))

    async def _ask_once(self, path: str, query: Mapping[str, str], *, may_be_gone: bool) -> DeskResponse:
        async with self._turns:
            self.requests += 1
            try:
                answer = await self._transport(path, query)
            except OSError as error:
                raise no_answer(error) from error
        _judge(answer, may_be_gone=may_be_gone)
        return answer


def _page(answer: DeskResponse) -> Page:
    try:
        listed = _list.decode(answer.body)
    except msgspec.MsgspecError as error:
        raise DeskUnavailableError("FreeScout's list is not what it should be", _IN_BETWEEN) from error
    return Page(
        sightings=[sighting for raw in listed.embedded.conversations if (sighting := _row(raw)) is not None],
        rows=len(listed.embedded.conversations),
        total=listed.page.total_elements,
        desk_clock=_desk_clock(answer),
    )


def _conversation(answer: DeskResponse, ticket_id: int) -> Sighting:
    try:
        sighting = decode_conversation(answer.body)
    except UnusableBodyError as error:
        raise DeskUnavailableError("FreeScout's answer is no conversation", _IN_BETWEEN) from error
    if sighting.ticket_id != ticket_id:
        raise DeskUnavailableError(f"FreeScout answered with ticket {sighting.ticket_id}", "is a cache in between?")
    return sighting


def _mailbox_ids(answer: DeskResponse) -> set[int]:
    try:
        return {mailbox.id for mailbox in _mailbox_list.decode(answer.body).embedded.mailboxes}
    except msgspec.MsgspecError as error:
        raise DeskUnavailableError("FreeScout's mailboxes are not what they should be", _IN_BETWEEN) from error


def _judge(answer: DeskResponse, *, may_be_gone: bool) -> None:
    """Let an answer pass that counts; raise what it means otherwise."""
    status = answer.status
    is_json = answer.headers.get("content-type", "").partition(";")[0].strip() == "application/json"
    if status == 200 and is_json:  # noqa: PLR2004 - HTTP's own numbers, here and below
        return
    if status == 404 and may_be_gone and is_json and _says(answer, "Not Found"):  # noqa: PLR2004
        return
    raise what_it_means(answer)


def no_answer(error: OSError) -> DeskError:
    """Return what it means that no answer came."""
    return DeskUnavailableError(
        f"FreeScout does not answer ({str(error) or type(error).__name__})",
        "is FREESCOUT_URL right, and is the desk up?",
    )


def what_it_means(answer: DeskResponse) -> DeskError:
    """Return what an answer means that is none of those that were hoped for."""
    status = answer.status
    if status in {401, 403}:
        return DeskRefusedError(
            f"FreeScout answers {status}",
            "compare FREESCOUT_API_KEY with Manage » Settings » API & Webhooks; a new APP_KEY changes it",
        )
    if 300 <= status < 400:  # noqa: PLR2004
        return DeskRefusedError(f"FreeScout answers {status}, a redirect", "set FREESCOUT_URL to where it leads")
    if status == 500:  # noqa: PLR2004
        return DeskBrokeError(f"FreeScout answers {status}", "is the desk up?")
    if status == 429 or status > 500:  # noqa: PLR2004
        next_step = "let our address through at what limits requests" if status == 429 else "is the desk up?"  # noqa: PLR2004
        return DeskUnavailableError(f"FreeScout answers {status}", next_step, retry_after=_retry_after(answer))
    if status == 200:  # noqa: PLR2004
        return DeskUnavailableError("FreeScout answers with a page instead of JSON", "is it in maintenance?")
    return DeskRefusedError(
        f"FreeScout answers {status}", "is FREESCOUT_URL right, and is the API & Webhooks module active?"
    )


def _says(answer: DeskResponse, message: str) -> bool:
    try:
        return _message.decode(answer.body).message == message
    except msgspec.MsgspecError:
        return False


def _retry_after(answer: DeskResponse) -> float | None:
    """Return ``Retry-After`` in seconds; None without one, or when it is a date (no proxy we know sends one)."""
    given = answer.headers.get("retry-after", "")
    return float(given) if given.isascii() and given.isdecimal() else None


def _desk_clock(answer: DeskResponse) -> datetime:
    try:
        return parsedate_to_datetime(answer.headers["date"]).astimezone(UTC)
    except (KeyError, ValueError) as error:
        raise DeskRefusedError(
            "FreeScout's answers have no Date header; a proxy takes it away", "let it through"
        ) from error


def _row(raw: msgspec.Raw) -> Sighting | None:
    try:
        sighting = decode_conversation(memoryview(raw))
    except UnusableBodyError:
        emit(DESK_STRANGE_ROW, reason="no usable id")
        return None
    if not sighting.understood:
        emit(DESK_STRANGE_ROW, ticket_id=sighting.ticket_id, reason="its status, state or date is not one we know")
    return sighting


def _date(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
