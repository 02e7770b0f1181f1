"""What must be true of the receiver and its database when all has been sent."""

import re
from collections.abc import Mapping
from itertools import chain

import asyncpg

from db.answers import NO_REFUSALS
from db.counts import REASONS
from db.verdict import LIGHTS
from freescout_audit import __version__
from freescout_audit.delivery import KNOWN_EVENTS
from freescout_audit.endpoints import ENDPOINTS
from proof.fuzz.bodies import CANARY, FORGED, FORGED_END, UPDATED_AT, Sample
from receiver.metrics import POLLER_STATES
from receiver.refusals import KINDS

_SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? ")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_STATUSES = frozenset({"200", "400", "401", "404", "405", "408", "413", "415", "503", "closed"})
_OUTCOMES = frozenset({"applied", "duplicate", "stale", "disputed", "ignored", "unusable"})
_LABELS = {
    "version": {__version__},
    "endpoint": frozenset(ENDPOINTS),
    "event": KNOWN_EVENTS | {"other"},
    "outcome": _OUTCOMES,
    "kind": frozenset({*KINDS, *NO_REFUSALS}),
    "component": frozenset(chain(*LIGHTS.values())),
    "state": frozenset(POLLER_STATES),
    "reason": frozenset(REASONS),
    "verdict": frozenset({"peeked", "waiting", "raced", "late", "lost", "never_sent"}),
}

_STRANGE_ENTRIES = """
SELECT count(*) FROM freescout_delivery
WHERE endpoint <> 'audit' OR event !~ '^[\\x21-\\x7e]{0,64}$' OR request_id !~ '^[\\x20-\\x7e]{1,64}$'
   OR signed_with <> 'current' OR ticket_id NOT BETWEEN 1 AND 9223372036854775807
   OR outcome NOT IN ('applied', 'duplicate', 'stale', 'disputed', 'ignored', 'unusable')
   OR (ticket_id IS NULL) <> (outcome IN ('ignored', 'unusable'))
"""
_APPLIED = """
SELECT t.ticket_id, t.status, t.state
FROM unnest($1::bigint[]) AS id
JOIN freescout_ticket t ON t.ticket_id = id
JOIN freescout_delivery d ON d.ticket_id = id
WHERE d.outcome = 'applied' AND t.disputed_at IS NULL AND NOT t.gone AND t.updated_at = $2::text::timestamptz
"""
_CANARIES = """
SELECT (SELECT count(*) FROM freescout_delivery d WHERE strpos(d::text, $1) > 0)
     + (SELECT count(*) FROM freescout_ticket t WHERE strpos(t::text, $1) > 0)
"""


def label_problems(exposition: str) -> list[str]:
    """Return what is wrong with the labels of the metrics: a sender may not invent one."""
    problems = []
    for line in exposition.splitlines():
        series = _SERIES.match(line)
        if line.startswith("#") or series is None:
            continue
        for name, value in _LABEL.findall(series[2] or ""):
            known = _STATUSES if name == "status" else _LABELS.get(name)
            if name != "le" and (known is None or value not in known):
                problems.append(f"the metric {series[1]} has the label {name}={value[:80]!r}")
    return problems


def in_flight(exposition: str) -> int:
    """Return how many requests the receiver believes it is answering."""
    found = re.search(r"^freescout_audit_requests_in_flight\{.*\} (\S+)$", exposition, re.MULTILINE)
    return 0 if found is None else int(float(found[1]))


async def database_problems(
    connection: asyncpg.Connection, *, answered: int, sent: int, valid: Mapping[int, Sample]
) -> list[str]:
    """Return what the database holds that it should not, or lacks.

    Args:
        connection: A connection to it.
        answered: How many deliveries were answered in a way that promises a row in the journal.
        sent: How many validly signed deliveries were sent at all, answered or not.
        valid: The tickets whose one valid delivery was answered 200, and what it was made of.
    """
    problems = []
    entries = await connection.fetchval("SELECT count(*) + coalesce(sum(replays), 0) FROM freescout_delivery")
    if not answered <= entries <= sent:
        problems.append(f"{answered} deliveries were answered and {sent} sent, but the journal has {entries}")
    forged = await connection.fetchval(
        "SELECT (SELECT count(*) FROM freescout_delivery WHERE ticket_id BETWEEN $1 AND $2)"
        " + (SELECT count(*) FROM freescout_ticket WHERE ticket_id BETWEEN $1 AND $2)",
        FORGED,
        FORGED_END,
    )
    if forged:
        problems.append(f"{forged} rows are about tickets of which only unsigned bodies spoke")
    if strange := await connection.fetchval(_STRANGE_ENTRIES):
        problems.append(f"{strange} entries of the journal could not come from a valid delivery")
    if seen := await connection.fetchval(_CANARIES, CANARY):
        problems.append(f"{seen} rows hold a piece of a body")
    applied = await connection.fetch(_APPLIED, list(valid), UPDATED_AT.decode())
    held = {row["ticket_id"]: (row["status"], row["state"]) for row in applied}
    wrong = [ticket for ticket, sample in valid.items() if held.get(ticket) != (sample.status, sample.state)]
    if wrong:
        problems.append(f"{len(wrong)} valid deliveries were answered 200 and are not in the database: {wrong[:5]}")
    return problems
