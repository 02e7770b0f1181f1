"""An answer of FreeScout's API, the errors it may come to, and whether it is of now. Pure."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import msgspec

from freescout_audit.desk_clock import before_the_question, is_absurd
from freescout_audit.errors import FreescoutAuditError
from freescout_audit.media_type import is_json_type

UNREADABLE = (msgspec.MsgspecError, RecursionError)
"""What decoding raises for what is not JSON, is no such document, or is nested without end."""
IN_BETWEEN = "is a proxy in between?"
_OF_CACHES = ("x-cache", "cf-cache-status", "via", "x-served-by", "server")
"""Headers by which a cache or a proxy may be known."""
_PAST_CACHES = "let /api/* past every cache before FreeScout"
LATEST = timedelta(seconds=330)
"""So much later than it was asked for may an answer be dated: `poller.timeout` is 300 s at the most."""
_SHOWN = 60
"""So much of a header is shown at the most."""


class _Question(NamedTuple):
    """When something is asked, by our clock, and how far the desk's is ahead of it; None when that is not known."""

    asked_at: datetime
    ahead: timedelta | None


_question: ContextVar[_Question | None] = ContextVar("_question", default=None)


class DeskError(FreescoutAuditError):
    """FreeScout's API did not give an answer that counts."""


class DeskUnavailableError(DeskError):
    """It may pass: no answer in time, 429, 5xx, HTML, a connection that broke."""

    def __init__(
        self, problem: str, next_step: str = "", *, retry_after: float | None = None, again: bool = True
    ) -> None:
        super().__init__(problem, next_step)
        self.retry_after = retry_after
        self.again = again
        """Whether the same request may be answered otherwise in a few seconds."""


class DeskServerError(DeskUnavailableError):
    """FreeScout itself failed over this request, and may answer others."""


class DeskBrokeOffError(DeskServerError):
    """A web server says that PHP broke off (502): over this request, or over all for a moment."""


class DeskRefusedError(DeskError):
    """It will not pass by itself: a key that is not accepted, a URL that is no FreeScout."""


class DeskResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    asked: str = ""
    """The URL that was asked, without its query."""
    path: str = ""
    """What of it follows the desk's address, such as ``/api/conversations``."""


def is_json(answer: DeskResponse) -> bool:
    """Tell whether an answer says that it is JSON, ``application/hal+json`` and the like included."""
    return is_json_type(answer.headers.get("content-type", ""))


@contextmanager
def of_now(asked_at: datetime, ahead: timedelta | None) -> Iterator[None]:
    """Refuse, within the block, an answer whose date says that it was not given since ``asked_at``, our clock.

    ``ahead`` is how far the desk's clock is ahead of ours. Where it is None, only a date that is no clock's is refused.
    """
    token = _question.set(_Question(asked_at, ahead))
    try:
        yield
    finally:
        _question.reset(token)


def check_its_age(answer: DeskResponse) -> None:
    """Check that an answer was not given before it was asked for: by its ``Age``, and by its ``Date``.

    Raises:
        DeskUnavailableError: It may have been true once, or its date is no clock's.
        DeskRefusedError: It has no date.
    """
    age = answer.headers.get("age", "").strip()
    if age.strip("0, "):
        raise DeskUnavailableError(
            f"FreeScout's answer is {age[:_SHOWN]} s old: a cache gave it{named(answer)}", _PAST_CACHES, again=False
        )
    question = _question.get()
    if question is None:
        return
    dated = desk_clock(answer)
    asked = None if question.ahead is None else question.asked_at + question.ahead
    before = timedelta() if asked is None else before_the_question(dated, asked)
    if before > timedelta():
        raise older_than_asked(before, answer)
    check_date(dated, question.asked_at)
    if asked is not None and dated > asked + LATEST:
        raise DeskUnavailableError(
            f"FreeScout's answer is dated {(dated - asked).total_seconds():.0f} s after it was asked for: a cache gave"
            f" it{named(answer)} before the desk's clock was set back, or that was set forward",
            "the next pass reads the desk's clock",
            again=False,
        )


def older_than_asked(before: timedelta, answer: DeskResponse | None = None) -> DeskUnavailableError:
    """Return what it means that an answer bears a date from so long before it was asked for."""
    return DeskUnavailableError(
        f"FreeScout's answer is dated {before.total_seconds():.0f} s before it was asked for: a cache gave it"
        f"{'' if answer is None else named(answer)}, or the desk's clock was set back while it was read",
        _PAST_CACHES,
        again=False,
    )


def later_than_the_desk(by: timedelta) -> DeskUnavailableError:
    """Return what it means that an answer bears a date that is so far ahead of the desk's clock of now."""
    return DeskUnavailableError(
        f"FreeScout's answer is dated {by.total_seconds():.0f} s later than its clock: a cache gave it before the clock"
        " was set back",
        _PAST_CACHES,
        again=False,
    )


def check_date(date: datetime, asked_at: datetime) -> None:
    """Check that an answer's ``Date`` can be a clock's; ``asked_at`` is our clock before the request.

    Raises:
        DeskUnavailableError: It is more than a day from our clock.
    """
    if is_absurd(date, asked_at):
        raise DeskUnavailableError(
            f"FreeScout's Date says {date:%Y-%m-%d %H:%M}, and our clock {asked_at:%Y-%m-%d %H:%M} UTC",
            "set the time server right of the desk, of a proxy in between, or of the database",
            again=False,
        )


def named(answer: DeskResponse) -> str:
    """Return what a cache or proxy calls itself, in brackets; empty when it does not say."""
    names = [name for name in _OF_CACHES if answer.headers.get(name)]
    return f" ({names[0]}: {answer.headers[names[0]][:_SHOWN]})" if names else ""


def desk_clock(answer: DeskResponse) -> datetime:
    """Return an answer's ``Date``.

    Raises:
        DeskRefusedError: It has none.
    """
    try:
        date = parsedate_to_datetime(answer.headers["date"])
        # One that says of its zone that it is unknown ("-0000") is in UTC; Python takes it for our host's.
        return (date.replace(tzinfo=UTC) if date.tzinfo is None else date).astimezone(UTC)
    except (KeyError, ValueError, OverflowError) as error:
        raise DeskRefusedError(
            "FreeScout's answers have no Date header; a proxy takes it away", "let it through"
        ) from error
