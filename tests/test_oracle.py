"""The judge of the histories: what breaks a promise is told, and what keeps it passes."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from freescout_audit.rule import Terms
from proof.histories.cache import Look, Seen
from proof.histories.oracle import Oracle, WrongError
from simulator import Desk, ManualClock

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
TICKET = 1
TERMS = Terms()


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.fixture
def oracle() -> Oracle:
    """A desk whose one ticket was active at noon, pending 10 s later, closed after 20 and spam after 600."""
    clock = ManualClock(NOON)
    desk, oracle = Desk(clock=clock), Oracle(TERMS)
    desk.populate(1)
    for seconds, status in ((0, "active"), (10, "pending"), (20, "closed"), (600, "spam")):
        clock.advance_to(after(seconds))
        desk.set_status(TICKET, status)
        oracle.note(desk.truth(), clock.now())
    return oracle


def seen(answer: str, *, claimed: float | None = None, read: float | None = 0, disputed: float | None = None) -> Seen:
    """What a reader gets; the times are seconds after noon."""
    return Seen(
        answer=answer,
        disputed_at=None if disputed is None else after(disputed),
        expires=None,
        updated_at=NOON,
        claimed_at=None if claimed is None else after(claimed),
        truth_at=None if read is None else after(read),
    )


def judge(
    oracle: Oracle, now: float, ticket: Seen | None, *, passed: float | None = 0, beaten: float = 0, ahead: float = 0
) -> None:
    """Judge a look; by ``ahead`` the desk's clock is ahead of ours, and no pass has read it."""
    oracle.judge(
        Look(
            tickets={} if ticket is None else {TICKET: ticket},
            passed=None if passed is None else after(passed),
            beaten=after(beaten),
            ahead=timedelta(),
        ),
        after(now),
        truly_ahead=timedelta(seconds=ahead),
    )


def test_true_answers_in_their_order_pass(oracle: Oracle) -> None:
    for now, answer in ((5, "active"), (15, "pending"), (25, "pending"), (30, "closed"), (31, "none")):
        judge(oracle, now, seen(answer))


def test_an_answer_may_be_left_out(oracle: Oracle) -> None:
    judge(oracle, 5, seen("active"))
    judge(oracle, 25, seen("closed"))


def test_what_was_false_when_the_last_pass_began_is_wrong(oracle: Oracle) -> None:
    judge(oracle, 40, seen("closed"), passed=30)

    with pytest.raises(WrongError, match="false when the last complete pass began"):
        judge(oracle, 40, seen("pending"), passed=30)


def test_what_was_false_when_it_was_read_is_wrong(oracle: Oracle) -> None:
    judge(oracle, 40, seen("closed", read=30))

    with pytest.raises(WrongError, match="false when it was read"):
        judge(oracle, 40, seen("pending", read=30))


def test_what_a_claim_said_after_a_read_may_be_two_seconds_older(oracle: Oracle) -> None:
    judge(oracle, 40, seen("pending", read=21, claimed=21))

    with pytest.raises(WrongError, match="false when it was read"):
        judge(oracle, 40, seen("pending", read=21, claimed=20))
    with pytest.raises(WrongError, match="false when it was read"):
        judge(oracle, 40, seen("pending", read=23, claimed=23))


def test_a_disputed_answer_may_be_false_for_its_grace_and_no_longer(oracle: Oracle) -> None:
    disputed = seen("pending", read=30, disputed=40)

    judge(oracle, 40, disputed, passed=30)
    judge(oracle, 45, disputed, passed=30)
    with pytest.raises(WrongError, match="has been disputed since"):
        judge(oracle, 46, disputed, passed=30)


def test_an_answer_that_goes_back_is_wrong(oracle: Oracle) -> None:
    judge(oracle, 30, seen("closed"))

    with pytest.raises(WrongError, match="once more"):
        judge(oracle, 31, seen("pending"))


def test_after_the_clock_was_set_back_an_answer_may_go_back_until_a_pass_has_read_it(oracle: Oracle) -> None:
    oracle.set_back = after(15)
    judge(oracle, 30, seen("closed"), passed=14)

    judge(oracle, 31, seen("pending"), passed=14)
    with pytest.raises(WrongError, match="once more"):
        judge(oracle, 32, seen("pending"), passed=16)


def test_only_an_answer_from_before_the_clock_was_set_back_may_come_again(oracle: Oracle) -> None:
    oracle.set_back = after(15)
    judge(oracle, 610, seen("spam"))

    with pytest.raises(WrongError, match="once more"):
        judge(oracle, 611, seen("closed"))


def test_an_answer_that_nothing_vouches_for_is_wrong(oracle: Oracle) -> None:
    lease, ttl = TERMS.lease.total_seconds(), TERMS.ttl.total_seconds()
    judge(oracle, 600 + lease - 1, seen("spam", read=None), passed=600)
    judge(oracle, 600 + ttl - 1, seen("spam", read=None, claimed=600), passed=600)

    with pytest.raises(WrongError, match="nothing vouches"):
        judge(oracle, 600 + lease, seen("spam", read=None), passed=600)
    with pytest.raises(WrongError, match="nothing vouches"):
        judge(oracle, 600 + ttl, seen("spam", read=None, claimed=600), passed=600)


def test_old_news_vouches_for_no_longer_than_a_pass_does(oracle: Oracle) -> None:
    lease, day = TERMS.lease.total_seconds(), 86400
    told = seen("spam", read=None, claimed=day)
    judge(oracle, day + lease - 1, told, passed=None)
    judge(oracle, day + lease, replace(told, updated_at=after(day - 7200)), passed=None)

    with pytest.raises(WrongError, match="nothing vouches"):
        judge(oracle, day + lease, told, passed=None)


def test_nobody_but_freescout_settles_a_dispute_while_the_poller_is_alive(oracle: Oracle) -> None:
    judge(oracle, 30, seen("closed", disputed=30), beaten=30)

    with pytest.raises(WrongError, match="FreeScout was not asked"):
        judge(oracle, 32, seen("closed"), beaten=30)


def test_a_read_settles_a_dispute(oracle: Oracle) -> None:
    judge(oracle, 30, seen("closed", disputed=30), beaten=30)
    judge(oracle, 32, seen("closed", read=31), beaten=30)


def test_without_a_poller_what_happened_after_a_dispute_began_settles_it(oracle: Oracle) -> None:
    dead = -TERMS.lease.total_seconds()
    judge(oracle, 100, seen("closed", disputed=100, claimed=100), beaten=dead)

    judge(oracle, 601, seen("spam", claimed=601), beaten=dead)


def test_without_a_poller_what_happened_before_a_dispute_began_does_not_settle_it(oracle: Oracle) -> None:
    dead = -TERMS.lease.total_seconds()
    judge(oracle, 100, seen("pending", disputed=100, claimed=100), beaten=dead)

    with pytest.raises(WrongError, match="which it was before"):
        judge(oracle, 200, seen("pending", claimed=200), beaten=dead)


def settled_by(answer: str, dated: float, came: float, *doubts: tuple[float, float | None]) -> Seen:
    """What a reader gets after news; of each delivery that disputed the ticket before: when it came, and its date."""
    return replace(
        seen(answer, claimed=came),
        updated_at=after(dated),
        doubted_at=[after(heard) for heard, _ in doubts],
        doubts=[None if said is None else after(said) for _, said in doubts],
    )


def test_without_a_poller_the_second_of_a_pair_settles_what_the_first_disputed(oracle: Oracle) -> None:
    """Both tell of what happened before they came; the second is dated later."""
    dead = -TERMS.lease.total_seconds()
    judge(oracle, 100, seen("active", disputed=100, claimed=100), beaten=dead)

    judge(oracle, 101, settled_by("pending", 10, 101, (100, 0)), beaten=dead)


def test_without_a_poller_a_replay_bounds_what_it_disputes_once_more_by_its_date(oracle: Oracle) -> None:
    """The journal keeps when the last one came: the next replaces it, and disputes nothing."""
    dead = -TERMS.lease.total_seconds()
    disputed = seen("active", disputed=100, claimed=100)
    replayed = replace(disputed, doubted_at=[after(90), after(100)], doubts=[after(0), after(0)])
    judge(oracle, 100, replayed, beaten=dead)

    judge(oracle, 101, settled_by("pending", 10, 101, (90, 0)), beaten=dead)


@pytest.mark.parametrize("why", ["dated_late_until", "set_back_before"])
def test_without_a_poller_what_an_hour_dates_late_settles_a_dispute_and_what_a_clock_set_back_does_not(
    oracle: Oracle, why: str
) -> None:
    """docs/proof.md has the first under "Not covered"."""
    dead = -TERMS.lease.total_seconds()
    judge(oracle, 100, seen("pending", disputed=100, claimed=100), passed=None, beaten=dead)
    setattr(oracle, why, after(50))

    if why == "dated_late_until":
        judge(oracle, 200, seen("pending", claimed=200), passed=None, beaten=dead)
    else:
        with pytest.raises(WrongError, match="which it was before"):
            judge(oracle, 200, seen("pending", claimed=200), passed=None, beaten=dead)


def test_without_a_poller_what_is_dated_before_something_said_against_the_ticket_settles_nothing(
    oracle: Oracle,
) -> None:
    dead = -TERMS.lease.total_seconds()
    judge(oracle, 100, seen("active", disputed=100, claimed=100), beaten=dead)

    with pytest.raises(WrongError, match="was said against it"):
        judge(oracle, 103, settled_by("closed", 20, 103, (100, 0), (102, 20)), beaten=dead)


def test_without_a_poller_what_happened_before_we_heard_of_a_deletion_does_not_settle_it(oracle: Oracle) -> None:
    """A dispute was open already; the deletion is what counts."""
    dead = -TERMS.lease.total_seconds()
    judge(oracle, 100, seen("active", disputed=100, claimed=100), beaten=dead)

    with pytest.raises(WrongError, match="which it was before"):
        judge(oracle, 103, settled_by("pending", 10, 103, (100, 0), (102, None)), beaten=dead)


@pytest.mark.parametrize(
    ("forward", "ahead", "settles"),
    [
        pytest.param(15, 90, True, id="so far that what happened before looks younger"),
        pytest.param(15, 70, False, id="not so far"),
        pytest.param(25, 90, False, id="after it had happened"),
        pytest.param(150, 90, False, id="after the dispute began"),
    ],
)
def test_a_clock_set_forward_that_no_pass_has_read_makes_the_past_look_younger(
    oracle: Oracle, forward: float, ahead: float, *, settles: bool
) -> None:
    dead = -TERMS.lease.total_seconds()
    judge(oracle, 100, seen("pending", disputed=100, claimed=100), beaten=dead)
    oracle.set_forward = after(forward)

    settled = seen("pending", claimed=200)
    if settles:
        judge(oracle, 200, settled, beaten=dead, ahead=ahead)
    else:
        with pytest.raises(WrongError, match="which it was before"):
            judge(oracle, 200, settled, beaten=dead, ahead=ahead)


def test_an_earlier_pass_overwrites_the_lease_of_no_later_one(oracle: Oracle) -> None:
    judge(oracle, 30, None, passed=20)

    with pytest.raises(WrongError, match="an earlier one has overwritten it"):
        judge(oracle, 31, None, passed=19)


def test_a_ticket_that_never_was_is_wrong(oracle: Oracle) -> None:
    look = Look(tickets={2: seen("active")}, passed=None, beaten=NOON, ahead=timedelta())

    with pytest.raises(WrongError, match="never was"):
        oracle.judge(look, after(1), truly_ahead=timedelta())


@pytest.mark.parametrize("gone", [Desk.delete_forever, Desk.delete_to_folder])
def test_who_is_gone_reads_none_after_the_next_pass(gone: Callable[[Desk, int], object]) -> None:
    clock = ManualClock(NOON)
    desk, oracle = Desk(clock=clock), Oracle(TERMS)
    desk.populate(1)
    desk.set_status(TICKET, "active")
    oracle.note(desk.truth(), clock.now())
    clock.advance(10)
    gone(desk, TICKET)
    oracle.note(desk.truth(), clock.now())

    judge(oracle, 20, seen("active"))
    judge(oracle, 21, seen("none"), passed=15)
    with pytest.raises(WrongError, match="false when the last complete pass began"):
        judge(oracle, 22, replace(seen("active"), truth_at=None), passed=15)
