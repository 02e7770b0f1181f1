"""The saved searches: what an on-call asks the log, and which lines answer it.

Each is defined here once. `ops.search_forms` writes it in other languages, and docs/log-searches.md shows all of them.
"""

from collections.abc import Mapping

import msgspec

from freescout_audit import events
from freescout_audit.events import LogEvent


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """What a line's field has to be: one of ``values``, a number of at least ``at_least``, or just there."""

    name: str
    values: tuple[str, ...] = ()
    at_least: int | None = None
    """A digit and zeros, such as 30: what a regular expression can compare with."""

    def fits(self, value: object) -> bool:
        """Tell whether a value is right; None when the line has none."""
        if self.at_least is not None:
            return isinstance(value, int | float) and value >= self.at_least
        return value in self.values if self.values else value is not None


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of line: one of these events, with all of these fields, named in the order in which a line has them."""

    events: tuple[str, ...]
    fields: tuple[Field, ...] = ()

    def fits(self, event: str, fields: Mapping[str, object]) -> bool:
        """Tell whether a line is of this kind."""
        return event in self.events and all(field.fits(fields.get(field.name)) for field in self.fields)


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """A saved search: it finds the lines of any of its kinds; without kinds, all about the ticket that is named."""

    name: str
    question: str
    answer: str
    """How its lines are read."""
    kinds: tuple[Kind, ...] = ()

    @property
    def needs_ticket(self) -> bool:
        """Whether it is about one ticket."""
        return not self.kinds

    def finds(self, event: str, fields: Mapping[str, object]) -> bool:
        """Tell whether a line is one of its answers, the ticket aside."""
        return not self.kinds or any(kind.fits(event, fields) for kind in self.kinds)


def _any(*which: LogEvent, **fields: str | tuple[str, ...]) -> Kind:
    """Return a kind: these events, where each field is one of the values; the empty text: where it is there."""
    return Kind(
        events=tuple(event.name for event in which),
        fields=tuple(
            Field(name=name, values=values if isinstance(values, tuple) else (values,) if values else ())
            for name, values in fields.items()
        ),
    )


_VOUCHED_BY = ("database", "lease", "poller")
"""The components without which answers are not vouched for, or not had."""
LATE = 30
"""Seconds. FreeScout holds some events back for 15 to 20."""

SEARCHES = (
    Search(
        name="sending",
        question="Is FreeScout sending?",
        answer="Each line is a delivery that an accepted key signed, so the last line is the last sign of life."
        " `key_fingerprint` says which key: count with `--by key_fingerprint`. `delivery.not_saved` came and"
        " could not be saved. No line: nothing comes, or it is refused (`refused`). Without"
        " `delivery.ignored`, which `doctor --url` can cause as well.",
        kinds=(
            _any(
                events.DELIVERY_APPLIED,
                events.DELIVERY_DUPLICATE,
                events.DELIVERY_STALE,
                events.DELIVERY_DISPUTED,
                events.DELIVERY_NOT_UNDERSTOOD,
                events.DELIVERY_UNUSABLE,
                events.DELIVERY_NOT_SAVED,
            ),
        ),
    ),
    Search(
        name="refused",
        question="Who was refused, since when?",
        answer="The first line is since when. A `next_step` on `delivery.unverified` means that it looked like"
        " FreeScout's; compare the key. `status` and `reason` say why, `left_out` how many more there were."
        " The log has no addresses: the line of Heroku's router with the same `request_id` has them (`fwd`).",
        kinds=(
            _any(
                events.DELIVERY_UNVERIFIED,
                events.DELIVERY_REFUSED,
                events.DELIVERY_EMPTY,
                events.DELIVERY_MISDIRECTED,
                events.DELIVERY_ABORTED,
                events.CONNECTION_CLOSED,
            ),
        ),
    ),
    Search(
        name="ticket",
        question="What happened to ticket 4711?",
        answer="Its deliveries, gaps and questions in their order. `ticket.missing` names the first of many only;"
        " `freescout-audit ticket 4711` has the whole story from the database.",
    ),
    Search(
        name="lost",
        question="Which changes were lost?",
        answer="Each line is a change whose delivery never came; FreeScout's retries are over. The cache has been"
        " right since a pass or a peek found it (`gap.found`, which for a peek comes 200 s later)."
        " `changed_at` is when it was changed at the desk.",
        kinds=(_any(events.GAP_LOST),),
    ),
    Search(
        name="untrusted",
        question="When was the cache not to be trusted?",
        answer="From `lease.expired` to `lease.restored` tickets without a recent delivery read `none`. From a"
        " component's `state=failed` to its `before=failed` readiness was red; while only the poller is gone,"
        " its last pass vouches until `lease.expired`.",
        kinds=(
            _any(events.LEASE_EXPIRED, events.LEASE_RESTORED, events.DATABASE_CLOCK_WENT_BACK),
            _any(events.RECEIVER_STATE, component=_VOUCHED_BY, state="failed"),
            _any(events.RECEIVER_STATE, component=_VOUCHED_BY, before="failed"),
        ),
    ),
    Search(
        name="changed",
        question="What changed before it broke?",
        answer="Starts with their version, releases, who polls, keys, clocks, settings. Read the last lines before"
        " the first of the trouble. Who set which variable the log does not know: `heroku releases` does.",
        kinds=(
            _any(
                events.RECEIVER_STARTED,
                events.RECEIVER_STOPPING,
                events.DATABASE_MIGRATED,
                events.DATABASE_NEWER,
                events.DATABASE_POOLER,
                events.DATABASE_CLOCK_WENT_BACK,
                events.POLLER_LEADS,
                events.POLLER_WAITS,
                events.POLLER_STEPS_DOWN,
                events.POLLER_RETIRED,
                events.POLLER_EXPECTED,
                events.POLLER_CLOCK_JUMPED,
                events.DESK_CAPS_PAGES,
                events.DESK_CLOCK_WENT_BACK,
                events.VAULT_READ,
                events.VAULT_VARIABLE_IGNORED,
                events.SETTINGS_UNWISE,
                events.PROCESS_FAILED,
            ),
        ),
    ),
    Search(
        name="late",
        question="How late are deliveries?",
        answer=f"Deliveries that told something new {LATE} s or more after the change (`lag_s`), and those that came"
        " long after a pass or a peek had healed it (`late_by_s`, from then on). No line: none is later than"
        " FreeScout's own 15 to 20 s, or peeks heal first. `freescout-audit status` has p50 and p95 of 24"
        " hours.",
        kinds=(
            Kind(events=(events.DELIVERY_APPLIED.name,), fields=(Field(name="lag_s", at_least=LATE),)),
            _any(events.GAP_LATE),
        ),
    ),
    Search(
        name="passes",
        question="Which passes failed, and why?",
        answer="`reason` says why and `next_step` what to do. A `poller.fault` is ours: please report it. A pass"
        " that failed renews no lease; the next one tries again.",
        kinds=(
            _any(events.PASS_FAILED, events.FULL_WALK_FAILED, events.POLLER_AT_FAULT),
            _any(events.POLLER_FAULT, job=("pass", "full walk")),
        ),
    ),
    Search(
        name="keys",
        question="Did a key change?",
        answer="`vault.read` names keys that are new to us; each process says so at its start too. A"
        " `delivery.unverified` that looks like FreeScout's: its webhook key is another one. `FreeScout"
        " answers 401`: its API key is. Both at once: APP_KEY changed.",
        kinds=(
            _any(events.VAULT_READ),
            _any(events.DELIVERY_UNVERIFIED, next_step=""),
            _any(events.PASS_FAILED, reason="FreeScout answers 401"),
        ),
    ),
    Search(
        name="asked",
        question="What did we ask the desk?",
        answer="Each pass with its `rows` and `requests`, each question about a ticket, and what was asked again. A"
        " peek that finds nothing writes no line.",
        kinds=(
            _any(
                events.LOAD_PROGRESS,
                events.PASS_COMPLETED,
                events.PASS_FAILED,
                events.FULL_WALK_COMPLETED,
                events.FULL_WALK_FAILED,
                events.TICKET_MISSING,
                events.QUESTION_ANSWERED,
                events.QUESTION_FAILED,
                events.PEEK_FOUND,
                events.PEEK_FAILED,
                events.DESK_RETRY,
            ),
        ),
    ),
)
BY_NAME: Mapping[str, Search] = {search.name: search for search in SEARCHES}
