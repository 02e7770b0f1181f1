"""Everything that can go wrong, on one plain object that may be changed while the desk runs."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Literal


class ApiFault(StrEnum):
    """How the API misbehaves while ``Faults.api`` is set."""

    SERVER_ERROR = "500"  # FreeScout's own error page, HTML whatever the client accepts
    UNAVAILABLE = "503"  # a proxy's error page, HTML
    MAINTENANCE = "maintenance"  # `artisan down`: JSON or HTML as accepted
    TOO_MANY_REQUESTS = "429"  # a proxy's answer, HTML, with Retry-After
    NOT_FOUND_HTML = "404-html"  # a proxy or a wrong path: an HTML page for every request
    NOT_FOUND_JSON = "404-json"  # FreeScout's own JSON form for every request, lists included
    UNAUTHORIZED = "401"
    UNTRUSTED_HOST = "403"  # it was asked by a name that is neither APP_URL's nor in APP_TRUSTED_HOSTS
    HANG = "hang"  # the connection stays open, no answer ever comes
    BROKEN_BODY = "broken"  # the true answer, cut off half-way through its body


@dataclass(slots=True)
class Faults:
    """What goes wrong now. The defaults are a desk in good health.

    Deliveries (each loss is for ever, as when the worker is killed: no retry):
        drop_next: So many of the next deliveries are lost.
        drop_every: Every nth delivery is lost; 0 for none.
        drop_chance: Each delivery is lost with this probability.
        duplicate_chance: Each delivery is sent twice in a row with this probability.
        reorder_chance: With this probability the worker takes any waiting delivery instead of the first.
        delay: Seconds that every delivery waits in addition to the worker's own pace.
        kill_worker_next: So many of the next deliveries are sent while the worker is killed: the receiver gets them
            but FreeScout forgets them, answered or not.
        failure_log_limit: A failed delivery with a larger body (bytes) cannot be saved for a retry and is lost;
            None for no limit.
        unsigned: PHP lacks its hash extension: the signature is an empty string.

    The module:
        module_active: False makes webhooks and API vanish together: what happens meanwhile is never delivered.

    API:
        api: How every request fails, or None.
        api_left: How many more requests fail like that; None until ``api`` is reset.
        retry_after: Seconds in the ``Retry-After`` of a 429; None leaves the header out.
        slow: Seconds before each answer.
        seconds_per_row: Seconds before a list's answer for each of its rows (measured: 0.001).
        memory_limit_rows: A list with at least so many rows exhausts PHP's memory: 500, HTML. None for no limit.
        unlistable: Conversations that make every list with them fail.
        unlistable_answer: How: 500 in JSON, or what a web server says when PHP broke off, 502.
        unreadable: Conversations that make a read of them alone answer 500, JSON.
        page_cap: A list has so many rows a page at the most, whatever was asked for; None for no cap.
        page_cap_told: Whether ``page.size`` says so.
        dropped: Parameters of the query string that a proxy drops on the way; ``*`` stands for all of them.
        cache: A proxy in front answers with what the desk answered before, for so many seconds; 0 for none. An answer
            younger than 3 s it does not give again: with dates of whole seconds nobody could tell.
        cache_tells: By what such an answer may be known: its ``Age`` (and a new ``Date``), or its old ``Date`` alone.
        strange_statuses: Conversation id to a status text that FreeScout does not have, sent for that row in lists,
            single reads and deliveries.

    Time:
        clock_offset: Seconds by which the desk's clock is ahead (negative: behind). Its stamps and its ``Date``
            header follow; change it while the desk runs for a jump.
        date: What the ``Date`` header of the API's answers says; None for the desk's clock.
    """

    drop_next: int = 0
    drop_every: int = 0
    drop_chance: float = 0.0
    duplicate_chance: float = 0.0
    reorder_chance: float = 0.0
    delay: float = 0.0
    kill_worker_next: int = 0
    failure_log_limit: int | None = None
    unsigned: bool = False
    module_active: bool = True
    api: ApiFault | None = None
    api_left: int | None = None
    retry_after: int | None = 5
    slow: float = 0.0
    seconds_per_row: float = 0.0
    memory_limit_rows: int | None = 10_000
    unlistable: set[int] = field(default_factory=set)
    unlistable_answer: HTTPStatus = HTTPStatus.INTERNAL_SERVER_ERROR
    unreadable: set[int] = field(default_factory=set)
    page_cap: int | None = None
    page_cap_told: bool = True
    dropped: frozenset[str] = frozenset()
    cache: float = 0.0
    cache_tells: Literal["age", "date"] = "age"
    strange_statuses: dict[int, str] = field(default_factory=dict)
    clock_offset: float = 0.0
    date: datetime | None = None

    def take_api_fault(self) -> ApiFault | None:
        """Return how the request that just came in fails, and count it."""
        if self.api is None or self.api_left is None:
            return self.api
        if self.api_left <= 0:
            self.api = self.api_left = None
            return None
        self.api_left -= 1
        return self.api
