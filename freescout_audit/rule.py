"""The rule: which sighting of a ticket is believed.

A *claim* (a webhook delivery) may be lost, late, repeated or out of order; a *truth* (an API read) is right as of the
moment *s* when it was asked. Both are applied to one row, here and nowhere else, by functions of values to values:
`db.store` reads a row, calls them, and writes what they return if the row is still the same.

All times are aware UTC. ``now`` and *s* are the database's wall clock; ``updated_at``, ``disputed_through``,
``seen_through`` and ``complete_through`` are the desk's. See docs/rule.md for the reasons behind each case.
"""

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from freescout_audit.conversation import Sighting
from freescout_audit.row import Claim, Content, Lease, Path, Row, Terms, Truth
from freescout_audit.trust import ABSURD, AHEAD, disputed_through, expiry, is_ahead, of_our_past, poller_is_alive

__all__ = [
    "ABSURD",
    "AHEAD",
    "FUTURE_TOLERANCE",
    "Claim",
    "Content",
    "Lease",
    "Row",
    "Terms",
    "Truth",
    "Verdict",
    "expiry",
    "is_ahead",
    "is_discovery",
    "judge_absence",
    "judge_claim",
    "judge_stamps",
    "judge_truth",
    "poller_is_alive",
]

FUTURE_TOLERANCE = timedelta(seconds=60)
"""How far ahead of the desk's clock a claim may be dated before we stop believing it."""
RETRIED_FOR = timedelta(hours=2)
"""No retry of FreeScout's comes later: older news is a recording, or tells of a ticket that has been at rest."""

ClaimOutcome = Literal["applied", "duplicate", "stale", "disputed"]
TruthOutcome = Literal["written", "confirmed", "contested", "dropped"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the rule made of one sighting: the row as it now stands (None: still nothing) and why."""

    outcome: ClaimOutcome | TruthOutcome
    row: Row | None
    reason: str


def judge_claim(row: Row | None, claim: Claim, *, lease: Lease, terms: Terms, now: datetime) -> Verdict:
    """Apply a delivery to a row, first case that fits.

    Args:
        row: What the cache holds, None for nothing.
        claim: What the delivery says.
        lease: The lease row as it stands.
        terms: How long answers are vouched for.
        now: The database's clock, read with the row.

    Returns:
        ``applied``: believed. ``duplicate``: nothing new, nothing moves. ``stale``: a pass has seen further; neither
        believed nor asked about. ``disputed``: somebody has to ask FreeScout, and until then we stop vouching.
    """
    held, row = row, of_our_past(row, lease, now)
    said = claim.sighting
    alive = poller_is_alive(lease, now, terms)
    heard = now + lease.clock_offset
    future = said.updated_at is not None and said.updated_at > heard + FUTURE_TOLERANCE

    def dispute(reason: str, *, dated: bool = True) -> Verdict:
        """Dispute the row up to the claim's own date, or, if that tells nothing, up to now."""
        through = None if future else said.updated_at
        if not dated or through is None:
            through = heard if through is None else max(heard, through)
        doubting = _doubting(row or _nothing(said.ticket_id, now, via="webhook"), said, now)
        disputed = _dispute(doubting, doubting, lease=lease, now=now, terms=terms, through=through)
        return Verdict(outcome="disputed", row=msgspec.structs.replace(disputed, touched_at=now), reason=reason)

    if claim.says_gone:  # case 1
        if row is not None and row.gone and not _only_told_of(row):
            return Verdict(outcome="duplicate", row=held, reason="already_gone")
        return dispute("said_to_be_gone", dated=False)
    if said.updated_at is None or not said.understood:  # case 1
        return dispute("not_understood", dated=False)
    if row is not None and row.gone and (alive or not _only_told_of(row)):
        return dispute("about_a_tombstone")

    same = row is not None and row.content == (said.status, said.state)
    # case 2
    if row is not None and same and row.updated_at is not None and said.updated_at <= row.updated_at:
        return Verdict(outcome="duplicate", row=held, reason="known")

    if future:  # case 3
        return dispute("from_the_future")

    horizon = _horizon(row, lease, alive=alive)  # case 4
    if horizon is not None and said.updated_at <= horizon:
        if not same and (alive or _may_be_news(row, said, lease, now)):
            return dispute("old_news")
        doubting = None if held is None else _doubting(held, said, now)
        return Verdict(outcome="stale", row=doubting, reason="old_news")

    # case 5
    newer = row is not None and (row.gone or (row.updated_at is not None and said.updated_at > row.updated_at))
    doubted = None if row is None else row.doubted_through
    if newer and doubted is not None and said.updated_at <= doubted:
        if same:
            return Verdict(outcome="stale", row=held, reason="doubted")
        return dispute("doubted")
    # case 6
    if not alive and row is not None and held is not None and held.disputed_at is not None:
        # What was said against the row may have happened after anything dated no later than this.
        through = disputed_through(row, lease)
        if said.updated_at <= max(through, lease.seen_through or through):
            return dispute("older_than_the_dispute")
    if row is None or newer:
        expires_at = now + (terms.lease if alive or said.updated_at < heard - RETRIED_FOR else terms.ttl)
        return Verdict(
            outcome="applied", row=_believed(row, said, now, alive=alive, expires_at=expires_at), reason="news"
        )
    if row.updated_at is None or said.updated_at == row.updated_at:  # case 7
        return dispute("same_second")
    if alive:  # case 8
        return dispute("older")
    return Verdict(outcome="stale", row=held, reason="older")


def judge_truth(row: Row | None, truth: Truth, *, lease: Lease, terms: Terms, now: datetime) -> Verdict:
    """Apply an API read to a row.

    Returns:
        ``written``: the row is what FreeScout says. ``confirmed``: a claim came while we asked, and it agrees.
        ``contested``: a claim came while we asked, or another read was under way, and it differs, or a whole pass was,
        and it found no such ticket, or the row bears stamps from our own future; the row is disputed. ``dropped``: a
        truth asked later is already there, or this one was asked while our clock was wrong.
    """
    if is_ahead(truth.asked_at, now):
        return Verdict(outcome="dropped", row=row, reason="asked_in_our_future")
    before, row = row, of_our_past(row, lease, now)
    if row is not before:
        return Verdict(outcome="contested", row=row, reason="stamped_in_our_future")
    if row is not None and row.truth_at is not None and truth.asked_at <= row.truth_at:
        return Verdict(outcome="dropped", row=row, reason="truth_is_newer")
    if truth.sighting is not None and (row is None or row.gone) and _a_pass_may_lack_it(truth, lease, now):
        nothing = row or _nothing(truth.ticket_id, now, via="poller")
        return Verdict(
            outcome="contested",
            row=_dispute(nothing, nothing, lease=lease, now=now, terms=terms),
            reason="a_later_pass_may_lack_it",
        )
    if row is not None and row.truth_until is not None and truth.asked_at <= row.truth_until and _differs(row, truth):
        # Of two reads that overlap, the one that was asked later may have been answered earlier.
        return Verdict(
            outcome="contested", row=_dispute(row, row, lease=lease, now=now, terms=terms), reason="reads_overlap"
        )
    if row is None or row.touched_at is None or row.touched_at < truth.asked_at:
        written = _true(row, truth, terms, now)
        if row is not None and row.disputed_at is None and not written.gone and written.content == row.content:
            written = _no_sooner(written, row, alive=poller_is_alive(lease, now, terms))
        return Verdict(outcome="written", row=written, reason="read")

    said = truth.sighting
    not_older = said is not None and _at_or_after(said.updated_at, row.updated_at)
    equal = said is not None and not row.gone and row.content == (said.status, said.state)
    if row.disputed_at is None and equal and not_older:
        return Verdict(outcome="confirmed", row=_true(row, truth, terms, now), reason="agrees")
    newer = said is not None and not _at_or_after(row.updated_at, said.updated_at)
    held = _true(row, truth, terms, now) if newer else row
    return Verdict(
        outcome="contested", row=_dispute(held, row, lease=lease, now=now, terms=terms), reason="claim_came_in_between"
    )


def judge_absence(row: Row | None, asked_at: datetime, *, lease: Lease, terms: Terms, now: datetime) -> Verdict:
    """Apply a list, asked at ``asked_at``, that should have held a ticket and did not.

    Returns:
        ``disputed``: FreeScout has to be asked about it by its id; only its 404 makes a tombstone. ``dropped``: the
        row is gone already, or something later than the list has spoken of it.
    """
    row = of_our_past(row, lease, now)
    if row is None or row.gone:
        return Verdict(outcome="dropped", row=row, reason="already_gone")
    if any(heard is not None and heard >= asked_at for heard in (row.touched_at, row.truth_at)):
        return Verdict(outcome="dropped", row=row, reason="heard_of_since")
    # A question that was asked before the list may still find the ticket alive: it must not settle this.
    missed = msgspec.structs.replace(_dispute(row, row, lease=lease, now=now, terms=terms), truth_at=asked_at)
    return Verdict(outcome="disputed", row=missed, reason="missing_from_the_list")


def judge_stamps(row: Row | None, *, lease: Lease, now: datetime) -> Verdict:
    """Look at a row's stamps alone.

    Returns:
        ``disputed``: some lie in our own future, so nothing is known of when it was seen; FreeScout has to be asked.
        ``dropped``: none does.
    """
    judged = of_our_past(row, lease, now)
    if judged is row:
        return Verdict(outcome="dropped", row=row, reason="stamped_in_our_past")
    return Verdict(outcome="disputed", row=judged, reason="stamped_in_our_future")


def is_discovery(before: Row | None, verdict: Verdict) -> bool:
    """Tell whether a truth changed what we held before any claim had said a word against it.

    A dispute that a claim opened is the push path at work; one that we opened ourselves (a ticket missing from a list)
    is not.
    """
    after = verdict.row
    if before is None or before.gone or after is None:
        return False
    if before.disputed_at is not None and before.touched_at is not None and before.touched_at >= before.disputed_at:
        return False
    return after.gone or after.content != before.content


def _a_pass_may_lack_it(truth: Truth, lease: Lease, now: datetime) -> bool:
    """Tell whether a pass has begun since a truth was asked: it counts, and may count without the ticket."""
    passed, begun = lease.renewed_by_pass, lease.begun_by_pass
    if passed is not None and not is_ahead(passed, now) and truth.asked_at <= passed:
        return True
    return begun is not None and truth.asked_at < begun <= now


def _horizon(row: Row | None, lease: Lease, *, alive: bool) -> datetime | None:
    """Return the desk's date up to which a pass, or a later read of this very ticket, has seen further than a claim."""
    seen = [lease.seen_through] if alive else [lease.complete_through, lease.covered_through]
    if row is not None and row.truth_at is not None:
        seen.append(row.truth_at + lease.clock_offset)
        if lease.set_back_at is not None and row.truth_at >= lease.set_back_at:
            seen.append(lease.set_back_through)
    return max((date for date in seen if date is not None), default=None)


def _may_be_news(row: Row | None, said: Sighting, lease: Lease, now: datetime) -> bool:
    """Tell whether a claim may be younger than a read that its date is too old for, of a row that still answers.

    Dates have whole seconds, and the desk's clock may be a little behind what we take it for.
    """
    if row is None or not _at_or_after(said.updated_at, row.updated_at):
        return False
    until = expiry(row, lease, now)
    return until is not None and until > now


def _at_or_after(date: datetime | None, other: datetime | None) -> bool:
    """Compare two dates of the desk; one we do not know is before every one we know."""
    return other is None or (date is not None and date >= other)


def _believed(row: Row | None, said: Sighting, now: datetime, *, alive: bool, expires_at: datetime) -> Row:
    """Return the row after a claim that is news; only a living poller keeps an open dispute open."""
    told = _telling(row, said, observed_at=now, via="webhook", expires_at=expires_at)
    told = msgspec.structs.replace(told, touched_at=now)
    return told if alive else _settled(told)


def _only_told_of(row: Row) -> bool:
    """Tell whether a tombstone stands for a ticket that we were only told of: no 404 made it."""
    return row.gone and row.truth_at is None and row.disputed_at is not None


def _differs(row: Row, truth: Truth) -> bool:
    """Tell whether a truth says something else than the row does."""
    said = truth.sighting
    if said is None or row.gone:
        return (said is None) != row.gone
    return row.content != (said.status, said.state)


def _true(row: Row | None, truth: Truth, terms: Terms, now: datetime) -> Row:
    """Return the row as FreeScout's answer has it, its dispute settled; a 404 leaves a tombstone."""
    expires_at = truth.asked_at + terms.lease
    if truth.sighting is not None:
        told = _telling(row, truth.sighting, observed_at=truth.asked_at, via="poller", expires_at=expires_at)
    else:
        told = msgspec.structs.replace(
            row or _nothing(truth.ticket_id, truth.asked_at, via="poller"),
            gone=True,
            observed_at=truth.asked_at,
            observed_via="poller",
            expires_at=expires_at,
        )
    return msgspec.structs.replace(
        _settled(told),
        truth_at=truth.asked_at,
        truth_until=now,
        doubted_through=_overruled(row, told),
    )


def _overruled(row: Row | None, told: Row) -> datetime | None:
    """Return ``doubted_through`` after a truth: a claim that was believed, and bears a later date, is not again."""
    dates = [] if row is None else [row.doubted_through]
    if row is not None and not _at_or_after(told.updated_at, row.updated_at):
        dates.append(row.updated_at)
    return max((date for date in dates if date is not None), default=None)


def _no_sooner(written: Row, row: Row, *, alive: bool) -> Row:
    """Return the row, vouched for as long as before when no poller is alive: a read that agrees takes nothing away."""
    if alive or row.gone or row.expires_at <= written.expires_at:
        return written
    return msgspec.structs.replace(written, expires_at=row.expires_at)


def _telling(row: Row | None, said: Sighting, *, observed_at: datetime, via: Path, expires_at: datetime) -> Row:
    """Return the row with what was said as its value; what the sighting leaves out stays as it was."""
    row = row or _nothing(said.ticket_id, observed_at, via=via)
    return msgspec.structs.replace(
        row,
        status=said.status,
        state=said.state,
        updated_at=said.updated_at,
        number=said.number or row.number,
        mailbox_id=said.mailbox_id or row.mailbox_id,
        created_at=said.created_at or row.created_at,
        gone=False,
        observed_at=observed_at,
        observed_via=via,
        expires_at=expires_at,
    )


def _doubting(row: Row, said: Sighting, now: datetime) -> Row:
    """Return the row, which remembers that a claim was not believed, if it might be taken for news another time.

    A date that is absurd is not remembered: until it had come, nothing would be believed.
    """
    date, known = said.updated_at, (row.updated_at, row.doubted_through)
    if date is None or date > now + ABSURD or any(each is not None and date <= each for each in known):
        return row
    return msgspec.structs.replace(row, doubted_through=date)


def _dispute(
    row: Row, before: Row, *, lease: Lease, now: datetime, terms: Terms, through: datetime | None = None
) -> Row:
    """Return the row with its dispute open: the one of ``before`` if there was one, so that its end never moves.

    ``through`` is the date of what is said against it, by the desk's clock; None: it has none, and counts as of now.
    """
    through = now + lease.clock_offset if through is None else through
    began, grace_until = now, now + terms.dispute_grace
    if before.disputed_at is not None:
        began, grace_until = before.disputed_at, before.grace_until or before.disputed_at
        through = max(through, disputed_through(before, lease))
    return msgspec.structs.replace(row, disputed_at=began, grace_until=grace_until, disputed_through=through)


def _settled(row: Row) -> Row:
    """Return the row with no dispute open."""
    return msgspec.structs.replace(row, disputed_at=None, grace_until=None, disputed_through=None)


def _nothing(ticket_id: int, now: datetime, *, via: Path) -> Row:
    """Return the tombstone of a ticket we hold nothing about; it vouches for nothing."""
    return Row(ticket_id=ticket_id, gone=True, observed_at=now, observed_via=via, expires_at=now)
