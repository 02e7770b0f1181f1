"""The catalogue of log events: every line this service writes has one of these names.

Operators search for them and build alarms on them, so a name never changes its meaning. docs/logs.md lists them for
people, and a test fails when the two differ.
"""

from dataclasses import dataclass, replace
from typing import Literal

Level = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One kind of log line: its dotted name, its level, what it means and what to do about it."""

    name: str
    level: Level
    meaning: str

    def at(self, level: Level) -> "LogEvent":
        """Return the same event for a line that matters more, or less, than it usually does."""
        return replace(self, level=level)


DELIVERY_APPLIED = LogEvent("delivery.applied", "info", "A delivery was news and the cache now holds it.")
DELIVERY_DUPLICATE = LogEvent("delivery.duplicate", "info", "A delivery said what the cache knew; nothing moved.")
DELIVERY_STALE = LogEvent("delivery.stale", "info", "A delivery was older than what a pass or the cache has seen.")
DELIVERY_DISPUTED = LogEvent(
    "delivery.disputed", "warning", "A delivery contradicts the cache; the ticket reads none until FreeScout is asked."
)
DELIVERY_NOT_UNDERSTOOD = LogEvent(
    "delivery.not_understood",
    "error",
    "A conversation has a status, state or date we do not know; the ticket is disputed. Check FreeScout's version.",
)
DELIVERY_IGNORED = LogEvent("delivery.ignored", "info", "A verified delivery that carries no conversation.")
DELIVERY_UNUSABLE = LogEvent(
    "delivery.unusable", "error", "A verified body that is not JSON or has no usable id; answered 400."
)
DELIVERY_UNVERIFIED = LogEvent(
    "delivery.unverified",
    "warning",
    "No accepted key signed the body; answered 401. Compare the key with Manage » Settings » API & Webhooks.",
)
DELIVERY_REFUSED = LogEvent(
    "delivery.refused", "warning", "A request was refused before its body was believed; `status` says how."
)
DELIVERY_EMPTY = LogEvent(
    "delivery.empty",
    "warning",
    "An empty body, which no accepted key signed: FreeScout's module before 1.0.58, or a redirect on the way, lost it.",
)
DELIVERY_MISDIRECTED = LogEvent(
    "delivery.misdirected",
    "warning",
    "A request came to a path that is nearly ours, `reason` says how; answered 404. Correct the webhook's URL.",
)
CONNECTION_CLOSED = LogEvent(
    "connection.closed",
    "warning",
    "A connection was closed unanswered: its head was late or too large, or there were too many; `reason` says which.",
)
DELIVERY_ABORTED = LogEvent("delivery.aborted", "warning", "The sender went away before its body was complete.")
DELIVERY_NOT_SAVED = LogEvent(
    "delivery.not_saved", "error", "The database did not commit in time; answered 503, FreeScout sends it again."
)
RECEIVER_STARTED = LogEvent("receiver.started", "info", "The receiver listens.")
RECEIVER_STOPPING = LogEvent("receiver.stopping", "info", "The receiver finishes what is in flight and ends.")
RECEIVER_STATE = LogEvent(
    "receiver.state", "info", "Readiness changed: `component` is `state` now and was `before`; `detail` says why."
)
RECEIVER_FAULT = LogEvent(
    "receiver.fault", "error", "A request or a job ended in an unexpected error; please report it."
)
JOURNAL_PRUNED = LogEvent("journal.pruned", "info", "Deliveries older than `journal.keep` were deleted.")
DATABASE_EMBEDDED = LogEvent("database.embedded", "info", "What the embedded PostgreSQL is doing; laptops only.")
DATABASE_MIGRATED = LogEvent("database.migrated", "info", "The schema is at the newest revision.")
DATABASE_NEWER = LogEvent(
    "database.newer", "warning", "The schema is newer than this release, which leaves it as it is and runs on it."
)
DATABASE_POOLER = LogEvent(
    "database.pooler",
    "warning",
    "A pooler stands before PostgreSQL. In transaction mode LISTEN does not work: connect directly.",
)
DATABASE_CLOCK_WENT_BACK = LogEvent(
    "database.clock_went_back",
    "error",
    "The database's clock had been ahead: what it stamped vouches for nothing and is asked for anew. Check its server.",
)
POLLER_LEADS = LogEvent("poller.leads", "info", "This process polls now.")
POLLER_WAITS = LogEvent("poller.waits", "info", "Another process polls; this one takes over when it ends.")
POLLER_WAITS_IN_VAIN = LogEvent(
    "poller.waits_in_vain",
    "error",
    "Another process may poll and has no heartbeat: nothing is read. Look at its log, and end it.",
)
POLLER_RETIRED = LogEvent(
    "poller.retired", "warning", "An operator said that push alone is meant: that no poller runs is no failure."
)
POLLER_EXPECTED = LogEvent("poller.expected", "info", "An operator said that a poller is expected again.")
POLLER_STEPS_DOWN = LogEvent("poller.steps_down", "info", "This process polls no longer; another may.")
POLLER_FAULT = LogEvent(
    "poller.fault", "error", "A job ended in an unexpected error and is tried again; please report it."
)
POLLER_CLOCK_JUMPED = LogEvent(
    "poller.clock_jumped",
    "warning",
    "The clock of the poller's host was set by `seconds`: every job runs at once, and another poller may lead.",
)
POLLER_AT_FAULT = LogEvent(
    "poller.at_fault", "error", "This process cannot poll as it should, `reason` says why: another poller may lead."
)
LOAD_PROGRESS = LogEvent("load.progress", "info", "The first load goes on: `done` of `total` conversations.")
PASS_STARTED = LogEvent("pass.started", "debug", "A pass begins to read what changed since the last complete one.")
PASS_COMPLETED = LogEvent(
    "pass.completed", "info", "A pass is complete and vouches for everything: the lease is renewed."
)
PASS_OVERTAKEN = LogEvent(
    "pass.overtaken",
    "info",
    "A pass is complete and vouches for nothing: another poller has begun one meanwhile, which is to renew the lease.",
)
PASS_FAILED = LogEvent(
    "pass.failed", "error", "A pass could not be completed; the lease is not renewed, the next pass tries again."
)
FULL_WALK_COMPLETED = LogEvent("full_walk.completed", "info", "Every conversation was read once more, as every night.")
FULL_WALK_FAILED = LogEvent(
    "full_walk.failed", "warning", "The nightly reading ended early; it is tried again within the hour."
)
TICKET_MISSING = LogEvent(
    "ticket.missing", "info", "The desk's list lacks tickets that we hold; FreeScout is asked about each."
)
QUESTION_ANSWERED = LogEvent("question.answered", "info", "FreeScout was asked about disputed tickets.")
QUESTION_FAILED = LogEvent(
    "question.failed", "warning", "FreeScout did not answer questions; they are asked again, later."
)
GAP_FOUND = LogEvent(
    "gap.found",
    "info",
    "A pass, or a peek 200 s before, found a change that no delivery had told of, and healed it; it may yet come.",
)
GAP_LATE = LogEvent("gap.late", "warning", "The delivery of a change came long after a pass had found it.")
GAP_LOST = LogEvent("gap.lost", "warning", "The delivery of a change was lost; FreeScout's retries are over.")
GAP_NEVER_SENT = LogEvent(
    "gap.never_sent",
    "info",
    "FreeScout sends no delivery for a change of this kind: an undone reply, a deleted mailbox.",
)
PEEK_FOUND = LogEvent("peek.found", "info", "A peek found `rows` changes before their deliveries or a pass did.")
PEEK_FAILED = LogEvent(
    "peek.failed", "info", "FreeScout did not answer a peek; the next waits longer. Said once until one is answered."
)
LEASE_EXPIRED = LogEvent(
    "lease.expired", "error", "No pass was complete for `cache.lease`: what only it vouched for reads none."
)
LEASE_RESTORED = LogEvent("lease.restored", "info", "The lease is valid again.")
DESK_RETRY = LogEvent("desk.retry", "info", "A request to FreeScout failed in a way that may pass, and is sent again.")
DESK_STATE = LogEvent("desk.state", "warning", "FreeScout's API answers otherwise than before; `state` says how.")
DESK_STRANGE_ROW = LogEvent(
    "desk.strange_row", "error", "A listed conversation is not understood; it reads none. Check FreeScout's version."
)
DESK_CAPS_PAGES = LogEvent(
    "desk.caps_pages",
    "info",
    "The desk gives fewer rows a page than were asked for (`given` of `asked`); lists are read in pages of that size.",
)
DESK_UNLISTABLE = LogEvent(
    "desk.unlistable",
    "error",
    "A conversation makes every list with it answer 500. Only its own answer counts for it; without one it reads none."
    " See storage/logs at the desk.",
)
DESK_CLOCK_WENT_BACK = LogEvent(
    "desk.clock_went_back",
    "warning",
    "The desk's clock reads earlier than before; the pass reads from as much earlier.",
)
HEARTBEAT_FAILED = LogEvent(
    "heartbeat.failed",
    "warning",
    "The service behind OPS_HEARTBEAT_URL was not told of a pass: it may call although passes are complete.",
)
DESK_SILENT = LogEvent(
    "desk.silent",
    "error",
    "Neither push nor pull works: FreeScout's API does not answer, and no delivery has come since. `detail` and"
    " `next_step` say what it answers.",
)
DESK_HEARD = LogEvent("desk.heard", "info", "One of the two silent paths is heard again.")
VAULT_READ = LogEvent(
    "vault.read", "info", "The vault gave keys that are new or changed; `names` says which, never a value."
)
VAULT_FAILED = LogEvent(
    "vault.failed",
    "error",
    "The vault cannot be read or lacks a key: `meanwhile` says which keys hold, `next_step` what to do.",
)
VAULT_RESTORED = LogEvent("vault.restored", "info", "The vault is read again, and holds what it should.")
VAULT_VARIABLE_IGNORED = LogEvent(
    "vault.variable_ignored",
    "warning",
    "The vault wins over an environment variable that says otherwise: unset `variable`.",
)
SETTINGS_UNWISE = LogEvent("settings.unwise", "warning", "A setting is allowed but will probably disappoint.")
PROCESS_FAILED = LogEvent("process.failed", "error", "The process cannot run; `next_step` says what to do.")
LOG_DROPPED = LogEvent(
    "log.dropped",
    "warning",
    "`count` lines were lost: stdout did not take them at once (its reader was slow or gone, or the disk full).",
)
LIBRARY_MESSAGE = LogEvent("library.message", "warning", "A library we use complained; its arguments are left out.")

CATALOGUE: tuple[LogEvent, ...] = tuple(value for value in list(globals().values()) if isinstance(value, LogEvent))
