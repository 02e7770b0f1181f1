"""What readers may be told: the truth at the desk over time, and the answers held against it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from freescout_audit.rule import Terms
from proof.histories.cache import Look, Seen
from simulator import Conversation

NONE = "none"
AT_ONCE = timedelta(seconds=2)
"""Dates have whole seconds, and so has what is known of the desk's clock: what lies so close cannot be told apart."""
LONG_PAST = timedelta(hours=12)
"""News dated so long before it came is no retry, wherever the desk's clock may have jumped meanwhile."""


class WrongError(Exception):
    """A promise was broken; the message says which, for which ticket and when."""


@dataclass(slots=True)
class _Ticket:
    """What was true of one ticket: since when which answer, in order; and how far the answers given have come."""

    truths: list[tuple[datetime, str]]
    reached: int = 0
    dispute: tuple[datetime, Seen] | None = None
    """When the open dispute was first seen, and how."""


@dataclass
class Oracle:
    """Knows every truth that ever was at one desk, and holds every look at the cache against it."""

    terms: Terms
    passed: datetime | None = None
    """The *s* of the last complete pass."""
    beaten: datetime | None = None
    """The poller's heartbeat at the last look."""
    set_back: datetime | None = None
    """When the desk's clock was set back, or its dates began to repeat, the last time."""
    set_forward: datetime | None = None
    """When the desk's clock was set forward, the last time."""
    set_back_before: datetime | None = None
    """When the desk's clock was set back the last time before any pass was complete."""
    dated_late_until: datetime | None = None
    """Until when what happened bore a date that is an hour late; None: it never did."""
    late_shown: datetime | None = None
    """When a pass was complete that was shown such a date: what is read later is known to be younger."""
    _ours_jumped: bool = False
    """PostgreSQL's clock has jumped."""
    _unread: tuple[timedelta, timedelta] = (timedelta(), timedelta())
    """How far the desk's clock was ahead of what the last pass had read, at this look and the one before."""
    _tickets: dict[int, _Ticket] = field(default_factory=dict)

    def note(self, conversations: Iterable[Conversation], now: datetime) -> None:
        """Note what is true from now on."""
        living = set()
        for row in conversations:
            living.add(row.id)
            self.note_one(row, now)
        for ticket_id in self._tickets.keys() - living:
            self._note(ticket_id, NONE, now)

    def note_one(self, row: Conversation, now: datetime) -> None:
        """Note what is true of one ticket from now on."""
        self._note(row.id, row.status if row.state == "published" else NONE, now)

    def _note(self, ticket_id: int, answer: str, now: datetime) -> None:
        ticket = self._tickets.setdefault(ticket_id, _Ticket([(datetime.min.replace(tzinfo=now.tzinfo), NONE)]))
        if ticket.truths[-1][1] != answer:
            ticket.truths.append((now, answer))

    def truths_of(self, ticket_id: int) -> str:
        """Return what was true of a ticket, and since when, for people."""
        ticket = self._tickets.get(ticket_id)
        return (
            "never there"
            if ticket is None
            else ", ".join(f"{answer} from {since:%H:%M:%S.%f}" for since, answer in ticket.truths[1:])
        )

    def true_now(self) -> dict[int, str]:
        """Return what is true of every ticket there ever was."""
        return {ticket_id: ticket.truths[-1][1] for ticket_id, ticket in self._tickets.items()}

    def note_our_jump(self) -> None:
        """Note that PostgreSQL's clock jumps.

        The heartbeat is older than it was, or from the future, and a pass that was stamped ahead vouches no more.
        """
        self._ours_jumped, self.beaten = True, None

    def judge(self, look: Look, now: datetime, *, truly_ahead: timedelta) -> None:
        """Hold what readers get against what was true.

        ``truly_ahead`` is how far the desk's clock is ahead of ours, whatever the last pass has read.

        Raises:
            WrongError: A promise was broken.
        """
        went_back = self.passed is not None and (look.passed is None or look.passed < self.passed)
        if self.passed is not None and went_back and not self._ours_jumped:
            raise WrongError(
                f"the pass of {self.passed:%H:%M:%S.%f} vouches no more: an earlier one has overwritten it"
            )
        if self.passed is None:
            self.set_back_before = self.set_back
        self.passed = look.passed
        unread = max(truly_ahead - look.ahead, timedelta())
        self._unread = unread, self._unread[0]
        alive_since = self.beaten is not None and now - self.beaten < self.terms.lease
        for ticket_id, seen in look.tickets.items():
            ticket = self._tickets.get(ticket_id)
            if ticket is None:
                raise WrongError(f"ticket {ticket_id} never was, and is held")
            self._is_asked_about_in_time(ticket_id, ticket, seen, now, alive_since=alive_since)
            if seen.answer == NONE:
                continue
            self._was_true_since_the_pass(ticket_id, ticket, seen)
            self._was_true_since_it_was_read(ticket_id, ticket, seen)
            self._is_vouched_for(ticket_id, seen, now, truly_ahead)
            self._does_not_go_back(ticket_id, ticket, seen)
        self.beaten = look.beaten

    def _was_true_since_the_pass(self, ticket_id: int, ticket: _Ticket, seen: Seen) -> None:
        """No undisputed answer was already false when the last complete pass began."""
        passed = self.passed
        if passed is None or seen.disputed:
            return
        if _was_true_after(ticket, seen.answer, passed) or self._was_dated_late(ticket, seen):
            return
        raise WrongError(
            f"ticket {ticket_id} reads {seen.answer},"
            f" which was false when the last complete pass began ({passed:%H:%M:%S.%f})"
        )

    def _was_dated_late(self, ticket: _Ticket, seen: Seen, *, in_the_hour: bool = False) -> bool:
        """Tell whether nothing showed that it was wrong: a delivery of what bears a date too late, and no pass since.

        So is the date of what happened in the first pass of a repeated hour in some zones, until the ticket is read
        when a pass has been shown such a date, and of what happened before the desk's clock was set back, if no
        complete pass had read that clock before.

        docs/proof.md says so under "Not covered". ``in_the_hour``: only a repeated hour counts.
        """
        claimed = seen.claimed_at
        if claimed is None or (self.passed is not None and self.passed >= claimed):
            return False
        is_known = self.late_shown is not None and seen.truth_at is not None and seen.truth_at > self.late_shown
        late = (None if is_known else self.dated_late_until), None if in_the_hour else self.set_back_before
        ends = [end for end in late if end is not None]
        return any(answer == seen.answer and since <= max(ends) for since, answer in ticket.truths) if ends else False

    def _was_true_since_it_was_read(self, ticket_id: int, ticket: _Ticket, seen: Seen) -> None:
        """No undisputed answer was already false when FreeScout was last asked for the ticket."""
        read = seen.truth_at
        if seen.disputed or read is None:
            return
        claimed = seen.claimed_at is not None and seen.claimed_at >= read
        true = _was_true_after(ticket, seen.answer, read - AT_ONCE if claimed else read)
        if not true and not self._was_dated_late(ticket, seen):
            raise WrongError(
                f"ticket {ticket_id} reads {seen.answer}, which was false when it was read ({read:%H:%M:%S.%f})"
            )

    def _is_vouched_for(self, ticket_id: int, seen: Seen, now: datetime, truly_ahead: timedelta) -> None:
        """No answer outlives the pass, the read and the delivery that vouched for it; old news vouches as they do."""
        claimed, dated, believed = seen.claimed_at, seen.updated_at, self.terms.ttl
        if claimed is not None and dated is not None and claimed + truly_ahead - dated > LONG_PAST:
            believed = self.terms.lease
        vouched = [
            self.passed and self.passed + self.terms.lease,
            seen.truth_at and seen.truth_at + self.terms.lease,
            claimed and claimed + believed,
        ]
        if not any(until is not None and until > now for until in vouched):
            raise WrongError(f"ticket {ticket_id} reads {seen.answer}, and nothing vouches for it any more")

    def _is_asked_about_in_time(
        self, ticket_id: int, ticket: _Ticket, seen: Seen, now: datetime, *, alive_since: bool
    ) -> None:
        """No disputed answer stands for longer than the grace, and only FreeScout settles one while it can be asked."""
        before = ticket.dispute
        if not seen.disputed:
            if before is not None and before[1].truth_at == seen.truth_at:
                if alive_since:
                    raise WrongError(f"ticket {ticket_id} is disputed no longer, and FreeScout was not asked")
                self._was_settled_by_news(ticket_id, ticket, before[1], seen)
            ticket.dispute = None
            return
        if before is None or (before[1].truth_at, before[1].updated_at) != (seen.truth_at, seen.updated_at):
            # It may have been settled and opened again since the last look.
            ticket.dispute = (now, seen)
        elif seen.answer != NONE and now - before[0] > self.terms.dispute_grace:
            raise WrongError(
                f"ticket {ticket_id} reads {seen.answer}, and has been disputed since {before[0]:%H:%M:%S.%f}"
            )

    def _was_settled_by_news(self, ticket_id: int, ticket: _Ticket, disputed: Seen, seen: Seen) -> None:
        """Without a poller, only news from after all that was said against a ticket settles its dispute.

        It is dated after each delivery that disputed the ticket and bears a date to be believed, and tells of what
        happened after we heard of the others. But while no pass has read that the desk's clock was set forward, what
        has happened since looks younger.
        """
        began = disputed.disputed_at
        if began is None:
            return
        said = {each for look in (disputed, seen) for each in look.said if each[0] >= began}
        dates = [date for _, date in said if date is not None]
        if dates and (seen.updated_at is None or seen.updated_at <= max(dates)):
            raise WrongError(
                f"ticket {ticket_id} is disputed no longer by what is dated {seen.updated_at},"
                f" and what is dated {max(dates)} was said against it"
            )
        # What no delivery has opened, a read has: of a list that lacks the ticket, or that overlapped with another.
        heard = {came for came, date in said if date is None} | ({began} - {came for came, _ in said})
        if seen.answer == NONE or not heard:
            return
        last = max(heard)
        if self.set_forward is not None and self.set_forward < last:
            last = max(last - max(self._unread), self.set_forward)
        if _was_true_after(ticket, seen.answer, last - AT_ONCE) or self._was_dated_late(ticket, seen, in_the_hour=True):
            return
        raise WrongError(f"ticket {ticket_id} is disputed no longer, and reads {seen.answer}, which it was before")

    def _does_not_go_back(self, ticket_id: int, ticket: _Ticket, seen: Seen) -> None:
        """Undisputed answers for one ticket come in the order in which they were true.

        But until a pass has read the desk's clock after it was set back, what is from before passes for news.
        """
        if seen.disputed:
            return
        for place in range(ticket.reached, len(ticket.truths)):
            if ticket.truths[place][1] == seen.answer:
                ticket.reached = place
                return
        if self._was_dated_late(ticket, seen):
            return
        set_back = self.set_back
        if (
            set_back is not None
            and (self.passed is None or self.passed < set_back)
            and any(answer == seen.answer and since <= set_back for since, answer in ticket.truths)
        ):
            return
        raise WrongError(f"ticket {ticket_id} reads {seen.answer} once more, after what came later had been read")


def _was_true_after(ticket: _Ticket, answer: str, moment: datetime) -> bool:
    """Tell whether an answer was true at a moment or at any time since."""
    ends = [since for since, _ in ticket.truths[1:]]
    return any(
        true == answer and (end is None or end >= moment)
        for (_, true), end in zip(ticket.truths, [*ends, None], strict=True)
    )
