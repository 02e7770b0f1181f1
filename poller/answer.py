"""An answer of FreeScout's API, the errors it may come to, and whether it is of now. Pure."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

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
_LATEST = timedelta(seconds=330)
"""So much later than it was asked for may an answer be dated: `poller.timeout` is 300 s at the most."""
_SHOWN = 60
"""So much of a header is shown at the most."""

_not_before: ContextVar[datetime | None] = ContextVar("_not_before", default=None)


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
    """500: FreeScout itself failed over this request, and may answer others."""


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
def not_before(desk_clock: datetime | None) -> Iterator[None]:
    """Refuse, within the block, an answer that bears a date from before ``desk_clock``: it was given to another.

    ``desk_clock`` is what the desk's clock reads as it is asked; None when that is not known.
    """
    token = _not_before.set(desk_clock)
    try:
        yield
    finally:
        _not_before.reset(token)


def check_its_age(answer: DeskResponse) -> None:
    """Check that an answer was not given before it was asked for: by its ``Age``, and by its ``Date``.

    Raises:
        DeskUnavailableError: It may have been true once.
    """
    age = answer.headers.get("age", "").strip()
    if age.strip("0"):
        raise DeskUnavailableError(
            f"FreeScout's answer is {age[:_SHOWN]} s old: a cache gave it{named(answer)}", _PAST_CACHES, again=False
        )
    asked, date = _not_before.get(), answer.headers.get("date")
    if asked is None or date is None:
        return
    dated = desk_clock(answer)
    before = before_the_question(dated, asked)
    if before > timedelta():
        raise older_than_asked(before, answer)
    if dated > asked + _LATEST and not is_absurd(dated, asked):  # who asked has another word for that
        raise DeskUnavailableError(
            f"FreeScout's answer is dated {(dated - asked).total_seconds():.0f} s after it was asked for: a cache gave"
            f" it{named(answer)} before the desk's clock was set back, or that clock was set forward",
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
