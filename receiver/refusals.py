"""What is refused: counted each time, and logged through a bucket, so that no sender can fill the log.

Every refusal goes through `Refusals.note`, whoever refuses.
"""

import time
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field

from db import answers
from freescout_audit.endpoints import ENDPOINTS, name_at
from freescout_audit.events import (
    CONNECTION_CLOSED,
    DELIVERY_ABORTED,
    DELIVERY_EMPTY,
    DELIVERY_MISDIRECTED,
    DELIVERY_REFUSED,
    DELIVERY_UNVERIFIED,
    LogEvent,
)
from freescout_audit.logs import emit
from receiver.metrics import Metrics

AT_ONCE = 3
"""Lines of one kind that are logged at once."""
EVERY = 10.0
"""Seconds from one line of a kind to the next after that."""
ALL_AT_ONCE = 10
"""Lines of all kinds together that are logged at once."""
ALL_EVERY = 0.2
"""Seconds from one line of any kind to the next after that."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason to refuse: its name in the metrics, its line in the log, and the status that is answered.

    ``status`` is None when there is nobody to answer: the connection is closed.
    """

    kind: str
    event: LogEvent
    status: int | None
    next_step: str | None = None


UNVERIFIED = Refusal("unverified", DELIVERY_UNVERIFIED, 401)
LIKE_FREESCOUTS = {
    endpoint: Refusal(
        name_at(endpoint, answers.LIKE_FREESCOUTS),
        DELIVERY_UNVERIFIED,
        401,
        "compare the webhook key with FreeScout's Manage » Settings » API & Webhooks",
    )
    for endpoint in ENDPOINTS
}
"""By endpoint: each may have a key of its own."""
EMPTY = Refusal("empty", DELIVERY_EMPTY, 401)
NO_TOKEN = Refusal("no_token", DELIVERY_REFUSED, 401)
MISDIRECTED = Refusal("misdirected", DELIVERY_MISDIRECTED, 404)
NO_SUCH_PATH = Refusal("no_such_path", DELIVERY_REFUSED, 404)
WRONG_METHOD = Refusal("wrong_method", DELIVERY_REFUSED, 405)
TOO_SLOW = Refusal("too_slow", DELIVERY_REFUSED, 408)
TOO_LARGE = Refusal("too_large", DELIVERY_REFUSED, 413)
ENCODED = Refusal("encoded", DELIVERY_REFUSED, 415)
SWITCHED_OFF = Refusal("switched_off", DELIVERY_REFUSED, 503)
NO_KEY = Refusal("no_key", DELIVERY_REFUSED, 503)
GAVE_WAY = Refusal("gave_way", DELIVERY_REFUSED, 503)
ABORTED = Refusal("aborted", DELIVERY_ABORTED, 400)
NOT_HTTP = Refusal("not_http", DELIVERY_REFUSED, 400)
HEAD_TOO_SLOW = Refusal("head_too_slow", CONNECTION_CLOSED, None)
HEAD_TOO_LARGE = Refusal("head_too_large", CONNECTION_CLOSED, None)
TOO_MANY = Refusal("too_many_connections", CONNECTION_CLOSED, None)
NO_FILES = Refusal("no_files", CONNECTION_CLOSED, None)

KINDS = tuple(value.kind for value in (*globals().values(), *LIKE_FREESCOUTS.values()) if isinstance(value, Refusal))


class Refusals:
    """Counts refusals and logs them.

    ``remember`` is told the kind of each; ``clock`` gives seconds that only go forward.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        remember: Callable[[str], None] = lambda _kind: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._remember = remember
        self._clock = clock
        self._all = Bucket(ALL_AT_ONCE, ALL_EVERY)
        self._kinds: dict[str, _Kind] = {}

    def note(self, refusal: Refusal, **fields: object) -> None:
        """Count a refusal, and log it now, later or as one of those ``left_out``."""
        self._metrics.refused(refusal.kind, refusal.status)
        self._remember(refusal.kind)
        kind = self._kinds.get(refusal.kind)
        if kind is None:
            kind = self._kinds[refusal.kind] = _Kind(refusal)
        kind.untold += 1
        kind.last = (copy_context(), fields)
        self._log(kind)

    def tell(self) -> None:
        """Log what has been left out so far, as far as there may be a line; called about once a second."""
        for kind in self._kinds.values():
            if kind.untold:
                self._log(kind)

    def _log(self, kind: "_Kind") -> None:
        now = self._clock()
        if kind.last is None or not (kind.bucket.has_one(now) and self._all.has_one(now)):
            return
        kind.bucket.take()
        self._all.take()
        (context, fields), left_out = kind.last, kind.untold - 1
        kind.last, kind.untold = None, 0
        context.run(
            emit,
            kind.refusal.event,
            status=kind.refusal.status,
            **fields,
            next_step=kind.refusal.next_step,
            left_out=left_out or None,
        )


class Bucket:
    """Tokens: so many at once, and another one each so many seconds. ``now`` are seconds that only go forward."""

    def __init__(self, size: int, every: float) -> None:
        self._size = size
        self._every = every
        self._tokens = float(size)
        self._filled_at = 0.0

    def has_one(self, now: float) -> bool:
        """Whether there is a token now."""
        self._tokens = min(self._size, self._tokens + (now - self._filled_at) / self._every)
        self._filled_at = now
        return self._tokens >= 1

    def take(self) -> None:
        """Take one."""
        self._tokens -= 1


@dataclass(slots=True)
class _Kind:
    """What has not been logged yet of one kind, and the last of it, which a line will show."""

    refusal: Refusal
    bucket: Bucket = field(default_factory=lambda: Bucket(AT_ONCE, EVERY))
    untold: int = 0
    last: tuple[Context, dict[str, object]] | None = None
