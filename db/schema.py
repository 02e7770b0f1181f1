"""The schema: every table that this service keeps, as SQLAlchemy Core sees it.

This is the one place where tables, columns, defaults and indexes stand. `db/sql/` holds the view and the functions, a
file each. The migrations lead to exactly this; tests/test_schema.py compares the two. Every date is a ``timestamptz``.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Identity,
    Index,
    Interval,
    MetaData,
    Table,
    Text,
    and_,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from freescout_audit.endpoints import AUDIT, RBAC

metadata = MetaData()

_moment = DateTime(timezone=True)
_epoch = text("'epoch'::timestamptz")


def _only_row(table: str) -> tuple[Column[bool], CheckConstraint]:
    """Return what keeps a table at one row."""
    column = Column("only_row", Boolean, primary_key=True, server_default=text("true"))
    return column, CheckConstraint("only_row", name=f"{table}_only_row_check")


ticket = Table(
    "freescout_ticket",
    metadata,
    Column("ticket_id", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger),
    Column("mailbox_id", BigInteger),
    Column("status", Text),
    Column("state", Text),
    Column("updated_at", _moment),
    Column("created_at", _moment),
    Column("gone", Boolean, nullable=False, server_default=text("true")),
    Column("observed_at", _moment, nullable=False, server_default=_epoch),
    Column("observed_via", Text, nullable=False, server_default=text("'webhook'")),
    Column("expires_at", _moment, nullable=False, server_default=_epoch),
    Column("touched_at", _moment),
    Column("truth_at", _moment),
    Column("disputed_at", _moment),
    Column("grace_until", _moment),
    Column(
        "doubted_through",
        _moment,
        comment="The latest date, by FreeScout, of a delivery that was not believed: sent once more, it is no better.",
    ),
    Column("truth_until", _moment, comment="When the last truth was written: it was read before."),
    Column(
        "disputed_through",
        _moment,
        comment="Up to which date, by FreeScout, something was said against the row while its dispute is open.",
    ),
    CheckConstraint("status IN ('active', 'pending', 'closed', 'spam')", name="freescout_ticket_status_check"),
    CheckConstraint("state IN ('draft', 'published', 'deleted')", name="freescout_ticket_state_check"),
    CheckConstraint("observed_via IN ('webhook', 'poller')", name="freescout_ticket_observed_via_check"),
    CheckConstraint("(disputed_at IS NULL) = (grace_until IS NULL)", name="freescout_ticket_check"),
    comment="One row a ticket, written under the rule; readers use the view.",
    postgresql_with={"fillfactor": 85},
)
Index("freescout_ticket_updated_at", ticket.c.updated_at, postgresql_where=~ticket.c.gone)
Index("freescout_ticket_created_at", ticket.c.created_at, ticket.c.ticket_id, postgresql_where=~ticket.c.gone)
Index("freescout_ticket_mailbox", ticket.c.mailbox_id, ticket.c.created_at, postgresql_where=~ticket.c.gone)
Index(
    "freescout_ticket_disputed",
    ticket.c.touched_at.desc().nulls_last(),
    postgresql_where=ticket.c.disputed_at.is_not(None),
)

LEASE_DATES = (
    "seen_through",
    "complete_through",
    "lease_until",
    "renewed_by_pass",
    "heartbeat_at",
    "covered_through",
    "set_back_through",
    "set_back_at",
    "begun_by_pass",
)
"""The dates of the lease; none of them is before 2000 or after 2200."""

lease = Table(
    "freescout_lease",
    metadata,
    *_only_row("freescout_lease"),
    Column("seen_through", _moment),
    Column("complete_through", _moment),
    Column("lease_until", _moment),
    Column("renewed_by_pass", _moment),
    Column("clock_offset", Interval, nullable=False, server_default=text("'0'::interval")),
    Column("heartbeat_at", _moment),
    Column("desk_url", Text),
    Column("covered_through", _moment),
    Column("set_back_through", _moment),
    Column("set_back_at", _moment),
    Column(
        "cache_lease",
        Double,
        nullable=False,
        server_default=text("86400"),
        comment="The cache.lease in force, in seconds.",
    ),
    Column(
        "cache_ttl",
        Double,
        nullable=False,
        server_default=text("2592000"),
        comment="The cache.ttl in force, in seconds: no row vouches for itself for longer than the longer of the two.",
    ),
    Column(
        "begun_by_pass",
        _moment,
        comment="Our clock when the latest pass asked first: an earlier read says nothing of who it does not list.",
    ),
    CheckConstraint(
        " AND ".join(f"{name} BETWEEN '2000-01-01Z' AND '2200-01-01Z'" for name in LEASE_DATES),
        name="freescout_lease_dates_check",
    ),
    CheckConstraint(
        "clock_offset BETWEEN '-31 days'::interval AND '31 days'::interval", name="freescout_lease_clock_offset_check"
    ),
    comment="What the passes vouch for, for every ticket at once.",
)

poller = Table(
    "freescout_poller",
    metadata,
    *_only_row("freescout_poller"),
    Column("leader", Text),
    Column("led_since", _moment),
    Column("load_cursor", _moment),
    Column("load_began", _moment),
    Column("passed_at", _moment),
    Column("pass_seconds", Double),
    Column("pass_rows", BigInteger),
    Column("pass_requests", BigInteger),
    Column("complete_offset", Interval),
    Column("desk_state", Text, nullable=False, server_default=text("'unknown'")),
    Column("desk_detail", Text, nullable=False, server_default=text("''")),
    Column("desk_since", _moment),
    Column("silent_since", _moment),
    Column("full_walk_at", _moment),
    Column("leader_session", Text, comment="The process that leads; it renews leads_until while it does."),
    Column("leads_until", _moment, comment="No other process may lead before."),
    Column("stepped_down_at", _moment, comment="When a poller ended that was told to."),
    Column("retired_at", _moment, comment="Since when an operator means push alone; NULL: a poller is expected."),
    Column("desk_next_step", Text, nullable=False, server_default=text("''")),
    Column(
        "trouble",
        Text,
        nullable=False,
        server_default=text("''"),
        comment="What FreeScout does wrong for some tickets while its API answers; empty: nothing.",
    ),
    Column("trouble_since", _moment),
    Column(
        "desk_answered_at", _moment, comment="When FreeScout last gave an answer that counts, as of the last heartbeat."
    ),
    Column("peeked_at", _moment, comment="When it last answered a peek, as of the last heartbeat."),
    CheckConstraint(
        "desk_state IN ('unknown', 'ok', 'refused', 'unavailable')", name="freescout_poller_desk_state_check"
    ),
    comment="What the poller reports; the receiver shows it.",
)

delivery = Table(
    "freescout_delivery",
    metadata,
    Column("delivery_id", BigInteger, Identity(always=True), primary_key=True),
    Column("received_at", _moment, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("ticket_id", BigInteger),
    Column("outcome", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("status", Text),
    Column("state", Text),
    Column("updated_at", _moment),
    Column("body_bytes", BigInteger, nullable=False),
    Column("body_ms", Double, nullable=False),
    Column("signed_with", Text, nullable=False),
    Column("request_id", Text),
    Column(
        "key_fingerprint",
        Text,
        comment="Tells one key from another and says nothing else of it; NULL: written before there was such a name.",
    ),
    Column(
        "digest", Text, comment="The same for what is sent again, bit by bit, to the same endpoint as the same event."
    ),
    Column("replays", BigInteger, nullable=False, server_default=text("0"), comment="How often it was sent again."),
    Column("replayed_at", _moment, comment="When it was last sent again."),
    Column("replayed_request_id", Text),
    comment="The journal: one row a verified delivery, kept journal.keep seconds.",
)
Index("freescout_delivery_ticket", delivery.c.ticket_id, delivery.c.delivery_id)
Index("freescout_delivery_received_at", delivery.c.received_at)
Index("freescout_delivery_digest", delivery.c.digest, unique=True)

gap = Table(
    "freescout_gap",
    metadata,
    Column("gap_id", BigInteger, Identity(always=True), primary_key=True),
    Column("ticket_id", BigInteger, nullable=False),
    Column("cached_status", Text),
    Column("cached_state", Text),
    Column("true_status", Text),
    Column("true_state", Text),
    Column("changed_at", _moment),
    Column("healed_at", _moment, nullable=False),
    Column("verdict", Text, nullable=False, server_default=text("'waiting'")),
    Column("settled_at", _moment),
    Column("late_by", Interval),
    Column("cached_updated_at", _moment, comment="The date, by FreeScout, of what was held before."),
    CheckConstraint(
        "verdict IN ('peeked', 'waiting', 'raced', 'late', 'lost', 'never_sent')", name="freescout_gap_verdict_check"
    ),
    comment="Changes that the poller found before any delivery told of them.",
)
Index("freescout_gap_ticket", gap.c.ticket_id, gap.c.gap_id)
Index("freescout_gap_healed_at", gap.c.healed_at)
Index("freescout_gap_waiting", gap.c.healed_at, postgresql_where=gap.c.verdict == "waiting")
Index("freescout_gap_peeked", gap.c.healed_at, postgresql_where=gap.c.verdict == "peeked")


def _webhook(name: str, comment: str) -> Table:
    return Table(
        name,
        metadata,
        *_only_row(name),
        Column("webhook_id", BigInteger),
        Column("url", Text, nullable=False),
        Column("events", ARRAY(Text), nullable=False),
        Column("began_at", _moment, nullable=False),
        Column("registered_at", _moment),
        Column("removed_at", _moment),
        comment=comment,
    )


webhooks = {
    AUDIT: _webhook(
        "freescout_webhook", "What is registered at the desk; without an id it is not known whether it is."
    ),
    RBAC: _webhook("freescout_webhook_rbac", "The same of RV-4's path."),
}
"""What is registered at the desk, by the endpoint that it delivers to."""

answer = Table(
    "freescout_answer",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("answers", BigInteger, nullable=False),
    Column("first_at", _moment, nullable=False),
    Column("last_at", _moment, nullable=False),
    Column("key_fingerprint", Text, comment="Of what was verified: the key that was last seen to work."),
    comment="What requests were answered: one row a kind, written every ten seconds at the most.",
)

component = Table(
    "freescout_component",
    metadata,
    Column("process", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("next_step", Text, nullable=False),
    Column("since", _moment, nullable=False),
    Column("seen_at", _moment, nullable=False),
    comment="How each receiver finds each part of the service, once a minute.",
)

history = Table(
    "freescout_history",
    metadata,
    Column("ticket_id", BigInteger, primary_key=True, autoincrement=False),
    Column("known_at", _moment, primary_key=True, comment="Since when the row held this, by our clock."),
    Column("entry_id", BigInteger, Identity(always=True), primary_key=True),
    Column("seen_at", _moment, nullable=False, comment="When it was written last: expires_at has stood since then."),
    Column("status", Text),
    Column("state", Text),
    Column("gone", Boolean, nullable=False),
    Column("is_dated", Boolean, nullable=False, comment="Whether FreeScout's date of it was understood."),
    Column("grace_until", _moment),
    Column("expires_at", _moment, nullable=False),
    Column("settled", Text, nullable=False, comment="What the ticket reads once no dispute is open, and in time."),
    Column("before", Text, comment="What was settled before; NULL: this is no transition."),
    Column("reason", Text, comment="Why the settled answer is none: gone, unpublished or unknown."),
    Column("changed_at", _moment, comment="The date of what was settled, by FreeScout."),
    Column("via", Text, nullable=False),
    Column("transition_id", BigInteger, comment="Its place in the feed; NULL: it has none, or none yet."),
    comment="What each ticket's row answered since when, and the transitions of the settled answer.",
    postgresql_with={"fillfactor": 90},
)
Index(
    "freescout_history_transition",
    history.c.transition_id,
    unique=True,
    postgresql_where=history.c.transition_id.is_not(None),
)
Index(
    "freescout_history_unnumbered",
    history.c.entry_id,
    postgresql_where=and_(history.c.before.is_not(None), history.c.transition_id.is_(None)),
)
Index("freescout_history_known_at", history.c.known_at, postgresql_using="brin")

lease_history = Table(
    "freescout_lease_history",
    metadata,
    Column("began_at", _moment, primary_key=True),
    Column("unbroken_since", _moment, nullable=False, comment="Since when it has vouched without a break."),
    Column("renewed_at", _moment, nullable=False),
    Column("until_at", _moment, comment="Until when it vouched for every ticket; NULL: for none."),
    Column("longest", Interval, nullable=False, comment="How far ahead a row's own time to live counted."),
    comment="The lease as it was: a row for each stretch without a break, of an hour at the most.",
)

feed = Table(
    "freescout_feed",
    metadata,
    *_only_row("freescout_feed"),
    Column("last_id", BigInteger, nullable=False, server_default=text("0"), comment="The last transition's number."),
    Column(
        "pruned_through",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="The last number that is not kept any more.",
    ),
    Column("kept_since", _moment, nullable=False, comment="Since when the history is whole."),
    Column("origin", Text, comment="Which server, database and timeline numbered last: a restored one is another."),
    comment="How far the feed of transitions goes.",
)

cursor = Table(
    "freescout_cursor",
    metadata,
    Column("name", Text, primary_key=True),
    Column("after", BigInteger, nullable=False),
    Column("moved_at", _moment, nullable=False),
    comment="How far each reader of the feed has come, by its name.",
)

COUNTED = ("applied", "duplicate", "stale", "disputed", "unusable", "ignored", "refused", "passes", "failed_passes")
"""What a process counts each minute."""

minute = Table(
    "freescout_minute",
    metadata,
    Column("process", Text, primary_key=True),
    Column("ended_at", _moment, primary_key=True),
    Column("push", Text, comment="The worst state that the process found within the minute; NULL: not known."),
    Column("pull", Text),
    Column("desk", Text),
    Column("database", Text),
    *(Column(name, BigInteger, nullable=False, server_default=text("0")) for name in COUNTED),
    Column(
        "lags",
        ARRAY(BigInteger),
        nullable=False,
        server_default=text("'{}'::bigint[]"),
        comment="How many changes took how long until they were known, by the bounds in db/minutes.py.",
    ),
    comment="What each process counted and found, a row a minute, kept 7 days: the page draws a day of it.",
)
Index("freescout_minute_ended_at", minute.c.ended_at)

cache = Table(
    "freescout_ticket_cache",
    MetaData(),
    Column("ticket_id", BigInteger),
    Column("status", Text),
    Column("updated_at", _moment),
    Column("ttl_expires", _moment),
)
"""The view that everybody reads, with the columns that our own queries use."""

revision = Table("freescout_schema", MetaData(), Column("version_num", Text))
"""Alembic's own table: the revision that the database is at."""

now = func.freescout_now(type_=_moment)
"""The database's wall clock, our one clock; a simulation replaces the function."""
