"""The rule, case by case, and what must hold over any history."""

from datetime import datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freescout_audit.conversation import State, Status
from freescout_audit.rule import (
    Claim,
    Lease,
    Row,
    Terms,
    Truth,
    Verdict,
    expiry,
    judge_absence,
    judge_claim,
    judge_stamps,
    judge_truth,
    poller_is_alive,
)
from support.examples import at, claim, lease, not_found, row, sighting, truth

TERMS = Terms()
DAY = 86_400.0
ALONE = lease()
"""No poller has ever been."""


def judge(held: Row | None, said: Claim, *, now: float = 100, standing: Lease = ALONE, terms: Terms = TERMS) -> Verdict:
    return judge_claim(held, said, lease=standing, terms=terms, now=at(now))


def read(held: Row | None, found: Truth, *, now: float = 100, standing: Lease = ALONE) -> Verdict:
    return judge_truth(held, found, lease=standing, terms=TERMS, now=at(now))


def alive(*, seen: float | None = None, complete: float | None = None, until: float | None = None) -> Lease:
    """A lease with a poller that was alive just now."""
    return lease(alive_at=99, seen=seen, complete=complete, until=until)


class TestClaims:
    def test_the_first_claim_about_a_ticket_is_believed_for_the_ttl(self) -> None:
        verdict = judge(None, claim("closed", 10))

        assert verdict.outcome == "applied"
        assert verdict.row is not None
        assert verdict.row.content == ("closed", "published")
        assert verdict.row.expires_at == at(100) + TERMS.ttl
        assert verdict.row.touched_at == at(100)
        assert not verdict.row.gone

    def test_with_a_living_poller_a_claim_is_believed_for_the_lease(self) -> None:
        verdict = judge(None, claim("closed", 10), standing=alive())

        assert verdict.row is not None
        assert verdict.row.expires_at == at(100) + TERMS.lease

    def test_a_heartbeat_as_old_as_the_lease_is_no_living_poller(self) -> None:
        verdict = judge(None, claim("closed", 10), standing=lease(alive_at=100 - 900))

        assert verdict.row is not None
        assert verdict.row.expires_at == at(100) + TERMS.ttl

    def test_a_newer_claim_replaces_the_row(self) -> None:
        verdict = judge(row("active", 0), claim("closed", 1))

        assert verdict.outcome == "applied"
        assert verdict.row is not None
        assert verdict.row.content == ("closed", "published")
        assert verdict.row.updated_at == at(1)

    def test_a_newer_claim_of_the_same_content_moves_date_and_ttl(self) -> None:
        verdict = judge(row("active", 0, expires=200), claim("active", 1))

        assert verdict.outcome == "applied"
        assert verdict.row is not None
        assert verdict.row.expires_at == at(100) + TERMS.ttl

    @pytest.mark.parametrize("updated", [0, -1])
    def test_a_replay_moves_nothing(self, updated: float) -> None:
        held = row("active", 0, expires=200)

        verdict = judge(held, claim("active", updated))

        assert verdict.outcome == "duplicate"
        assert verdict.row is held

    def test_a_claim_of_the_same_second_with_other_content_is_disputed(self) -> None:
        """An agent's reply by mail sends the new status with the old updatedAt."""
        verdict = judge(row("active", 0), claim("closed", 0))

        assert verdict.outcome == "disputed"
        assert verdict.row is not None
        assert verdict.row.content == ("active", "published")
        assert (verdict.row.disputed_at, verdict.row.grace_until) == (at(100), at(105))
        assert verdict.row.touched_at == at(100)

    def test_a_changed_state_is_other_content(self) -> None:
        assert judge(row("active", 0), claim("active", 0, state="deleted")).outcome == "disputed"

    def test_an_older_claim_is_stale_without_a_poller_and_a_question_with_one(self) -> None:
        """The old snapshot of an agent's reply arrives 15 s late."""
        assert judge(row("closed", 5), claim("pending", 3)).outcome == "stale"
        assert judge(row("closed", 5), claim("pending", 3), standing=alive()).outcome == "disputed"

    @pytest.mark.parametrize(("updated", "outcome"), [(100 + 60, "applied"), (100 + 61, "disputed")])
    def test_a_claim_from_more_than_a_minute_ahead_is_disputed(self, updated: float, outcome: str) -> None:
        assert judge(row("active", 0), claim("closed", updated)).outcome == outcome

    def test_the_future_is_the_desks(self) -> None:
        ahead = Lease(clock_offset=timedelta(seconds=500))

        assert judge(row("active", 0), claim("closed", 100 + 560), standing=ahead).outcome == "applied"
        assert judge(row("active", 0), claim("closed", 100 + 561), standing=ahead).outcome == "disputed"

    def test_what_a_pass_has_seen_is_old_news_while_the_poller_lives(self) -> None:
        standing = alive(seen=50, complete=20)

        assert judge(row("active", 0), claim("closed", 50), standing=standing).outcome == "disputed"
        assert judge(None, claim("closed", 50), standing=standing).outcome == "disputed"
        assert judge(row("active", 0), claim("active", 50), standing=standing).outcome == "stale"
        assert judge(row("active", 0), claim("closed", 51), standing=standing).outcome == "applied"

    def test_what_a_complete_pass_has_seen_is_stale_when_the_poller_is_gone(self) -> None:
        standing = lease(seen=50, complete=20)

        assert judge(row("active", 0, expires=99), claim("closed", 20), standing=standing).outcome == "stale"
        assert judge(None, claim("closed", 20), standing=standing) == Verdict(
            outcome="stale", row=None, reason="old_news"
        )
        assert judge(row("active", 0), claim("closed", 21), standing=standing).outcome == "applied"

    def test_what_a_read_of_the_ticket_itself_has_seen_is_old_news(self) -> None:
        """Its date is older by the desk's clock, which was set back; by date alone the claim would be newer."""
        held = row("active", 10, truth_at=80)

        assert judge(held, claim("closed", 80), standing=alive()).outcome == "disputed"
        assert judge(row("active", 10, truth_at=80, expires=99), claim("closed", 80)).outcome == "stale"
        assert judge(held, claim("closed", 81)).outcome == "applied"

    def test_without_a_poller_what_still_answers_is_disputed_by_what_may_have_come_after_the_read(self) -> None:
        """A change in the second of the read, or at a desk whose clock is a little behind, is dated before it."""
        held = row("active", 10, truth_at=80)

        assert judge(held, claim("closed", 80)).outcome == "disputed"
        assert judge(held, claim("closed", 10)).outcome == "disputed"
        assert judge(held, claim("closed", 9)).outcome == "stale"
        assert judge(row("active", 10, truth_at=80, expires=100), claim("closed", 80)).outcome == "stale"
        vouched = lease(until=101)
        assert judge(row("active", 10, truth_at=80, expires=100), claim("closed", 80), standing=vouched).outcome == (
            "disputed"
        )

    def test_a_read_has_seen_as_far_as_the_desks_clock_was_then(self) -> None:
        behind = msgspec.structs.replace(lease(), clock_offset=timedelta(seconds=-30))

        assert (
            judge(row("active", 10, truth_at=80, expires=99), claim("closed", 50), standing=behind).outcome == "stale"
        )
        assert judge(row("active", 10, truth_at=80), claim("closed", 51), standing=behind).outcome == "applied"

    def test_what_the_last_complete_pass_covered_is_stale_though_the_clock_was_set_back_before_it(self) -> None:
        """Dates up to ``covered_through`` had been given before; the clock read only ``complete_through`` then."""
        covered = msgspec.structs.replace(lease(complete=-500), covered_through=at(40))

        assert judge(row("active", -600, expires=99), claim("closed", 40), standing=covered).outcome == "stale"
        assert judge(row("active", -600), claim("closed", 41), standing=covered).outcome == "applied"

    def test_a_read_from_after_the_clock_was_set_back_has_seen_all_that_was_dated_before(self) -> None:
        """By the clock as it is now the claim is dated after the read; its date was given before."""
        standing = msgspec.structs.replace(
            lease(), clock_offset=timedelta(seconds=-500), set_back_at=at(60), set_back_through=at(62)
        )

        after, before = row("active", 0, truth_at=60, expires=99), row("active", 0, truth_at=59, expires=99)

        assert judge(after, claim("closed", 62), standing=standing, now=700).outcome == "stale"
        assert judge(after, claim("closed", 63), standing=standing, now=700).outcome == "applied"
        assert judge(before, claim("closed", 62), standing=standing, now=700).outcome == "applied"

    def test_news_settles_a_dispute_only_when_nobody_can_ask(self) -> None:
        held = row("active", 0, disputed=50)

        alone, asked = judge(held, claim("closed", 60)), judge(held, claim("closed", 60), standing=alive())

        assert alone.outcome == asked.outcome == "applied"
        assert alone.row is not None
        assert asked.row is not None
        assert (alone.row.disputed_at, alone.row.grace_until) == (None, None)
        assert (asked.row.disputed_at, asked.row.grace_until) == (at(50), at(55))
        assert asked.row.touched_at == at(100)

    def test_a_dispute_that_an_older_release_opened_counts_as_of_the_last_that_was_heard(self) -> None:
        held = row("active", 0, disputed=50)

        assert held.disputed_through is None
        assert judge(held, claim("closed", 50)).outcome == "disputed"
        assert judge(held, claim("closed", 51)).outcome == "applied"
        assert judge(row("active", 0, disputed=50, touched=55), claim("closed", 55)).outcome == "disputed"

    @pytest.mark.parametrize(
        ("first", "then"),
        [
            pytest.param(claim("pending", 0), claim("pending", 20), id="a reply by mail"),
            pytest.param(claim("closed", 0), claim("closed", 1), id="a reply through the API, a second later"),
        ],
    )
    def test_without_a_poller_the_second_of_a_pair_settles_what_the_first_disputed(
        self, first: Claim, then: Claim
    ) -> None:
        """The new status with the old date, then the right one: it is dated before we heard of the first."""
        disputed = judge(row("active", 0), first, now=30).row
        assert disputed is not None
        assert (disputed.disputed_at, disputed.disputed_through) == (at(30), at(0))

        settled = judge(disputed, then, now=31)

        assert settled.outcome == "applied"
        assert settled.row is not None
        assert settled.row.content == (then.sighting.status, "published")
        assert (settled.row.disputed_at, settled.row.grace_until, settled.row.disputed_through) == (None, None, None)
        assert settled.row.expires_at == at(31) + TERMS.ttl

    def test_the_pair_of_a_reply_is_settled_also_after_a_pass_that_has_seen_the_first_date(self) -> None:
        standing = lease(seen=10, complete=10, until=900)

        disputed = judge(row("active", 0, truth_at=10), claim("pending", 0), standing=standing, now=30).row
        settled = judge(disputed, claim("pending", 20), standing=standing, now=31)

        assert disputed is not None
        assert disputed.disputed_through == at(0)
        assert settled.outcome == "applied"
        assert settled.row is not None
        assert settled.row.disputed_at is None

    @pytest.mark.parametrize(
        ("said", "through"),
        [
            pytest.param(claim("closed", 0), 0, id="the same second: its own date"),
            pytest.param(claim("closed", 0, says_gone=True), 100, id="a deletion for ever: now"),
            pytest.param(claim(None, 0), 100, id="not understood: now"),
            pytest.param(claim("closed", None), 100, id="without a date: now"),
            pytest.param(claim("closed", 168), 100, id="from the future: now"),
            pytest.param(claim("closed", 130, says_gone=True), 130, id="a deletion by a clock that is ahead: its date"),
        ],
    )
    def test_a_dispute_is_bound_by_a_date_that_could_be_believed_or_by_when_we_heard(
        self, said: Claim, through: float
    ) -> None:
        ahead = msgspec.structs.replace(ALONE, clock_offset=timedelta(seconds=7))

        disputed = judge(row("active", 0), said)
        on_a_desk_ahead = judge(row("active", 0), said, standing=ahead)

        assert disputed.outcome == "disputed"
        assert disputed.row is not None
        assert disputed.row.disputed_through == at(through)
        assert on_a_desk_ahead.row is not None
        assert on_a_desk_ahead.row.disputed_through == at(107 if through == 100 else through)

    def test_the_latest_of_all_that_was_said_while_a_dispute_is_open_is_its_bound(self) -> None:
        """The dispute of a reply by mail; the ticket is deleted for ever; then comes what was sent before that."""
        mail = judge(row("active", 0), claim("pending", 0), now=30).row
        gone = judge(mail, claim("pending", 20, says_gone=True), now=40).row
        late = judge(gone, claim("closed", 40), now=41)
        reopened = judge(late.row, claim("active", 42), now=43)

        assert gone is not None
        assert gone.disputed_through == at(40)
        assert (gone.disputed_at, gone.grace_until) == (at(30), at(35))
        assert (late.outcome, late.reason) == ("disputed", "older_than_the_dispute")
        assert reopened.outcome == "applied"

    def test_what_is_said_later_with_an_earlier_date_does_not_lower_the_bound(self) -> None:
        gone = judge(row("active", 0), claim(says_gone=True), now=40).row
        again = judge(gone, claim("closed", 0), now=41).row

        assert again is not None
        assert again.disputed_through == at(40)

    def test_while_the_poller_lives_the_bound_moves_and_the_dispute_stays_open(self) -> None:
        held = judge(row("active", 0), claim("closed", 0), standing=alive()).row
        held = judge(held, claim("spam", 90), standing=alive()).row
        held = judge(held, claim("pending", 90), standing=alive()).row
        assert held is not None
        assert (held.disputed_at, held.disputed_through, held.content) == (at(100), at(90), ("spam", "published"))

        gone = lease(alive_at=99)

        assert judge(held, claim("active", 90), standing=gone, now=2000).outcome == "disputed"
        assert judge(held, claim("active", 1999), standing=gone, now=2000).outcome == "applied"

    def test_what_opened_a_dispute_is_no_better_when_it_comes_again_after_the_news_that_settled_it(self) -> None:
        """The bound and ``doubted_through`` are the same date, and the news is dated later."""
        opened = judge(row("active", 0), claim("closed", 50), standing=alive(seen=50)).row
        settled = judge(opened, claim("spam", 1500), now=2000).row
        assert settled is not None
        assert settled.doubted_through == at(50)

        assert judge(settled, claim("closed", 50), now=2001).outcome == "stale"

    def test_old_recordings_buy_the_lease_and_not_the_ttl(self) -> None:
        """Three of 2024, sent one after the other, bought a day each."""
        now, old = 100_000.0, 100_000 - 2 * 3600

        for held in (None, row("active", 0)):
            recording = judge(held, claim("closed", old - 1), now=now)
            retry = judge(held, claim("closed", old), now=now)

            assert recording.outcome == retry.outcome == "applied"
            assert recording.row is not None
            assert retry.row is not None
            assert recording.row.expires_at == at(now) + TERMS.lease
            assert retry.row.expires_at == at(now) + TERMS.ttl

    def test_how_old_news_is_the_desks_clock_tells(self) -> None:
        behind = msgspec.structs.replace(ALONE, clock_offset=timedelta(hours=-3))

        verdict = judge(None, claim("closed", 100 - 3 * 3600), standing=behind)

        assert verdict.row is not None
        assert verdict.row.expires_at == at(100) + TERMS.ttl

    def test_what_was_seen_before_the_clock_was_set_back_settles_no_dispute(self) -> None:
        """By the clock as it is now it is dated after the dispute began."""
        standing = msgspec.structs.replace(lease(seen=60), clock_offset=timedelta(seconds=-40))

        assert judge(row("active", 0, disputed=50), claim("closed", 60), standing=standing).outcome == "disputed"
        assert judge(row("active", 0, disputed=50), claim("closed", 61), standing=standing).outcome == "applied"

    @pytest.mark.parametrize(
        ("said", "standing", "first", "again"),
        [
            (claim("closed", 170), alive(), "disputed", "disputed"),
            (claim("active", 170), alive(), "disputed", "stale"),
            (claim("closed", 50), alive(seen=50), "disputed", "disputed"),
            (claim("active", 50), alive(seen=50), "stale", "stale"),
        ],
        ids=["the future", "the future, agreeing", "old news", "old news, agreeing"],
    )
    def test_what_was_not_believed_is_not_believed_when_it_comes_again_and_the_poller_is_gone(
        self, said: Claim, standing: Lease, first: str, again: str
    ) -> None:
        doubted = judge(row("active", 0), said, standing=standing)
        later = lease(alive_at=99, seen=50)

        replayed = judge(doubted.row, said, now=2000, standing=later)

        assert (doubted.outcome, replayed.outcome) == (first, again)
        assert replayed.row is not None
        assert doubted.row is not None
        assert replayed.row.content == ("active", "published")
        assert replayed.row.expires_at == doubted.row.expires_at

    def test_what_is_older_than_the_row_by_now_is_stale_whether_it_was_doubted_or_not(self) -> None:
        """Push alone: somebody says it is gone, then a reply from before, the change after it, and the reply again."""
        held = judge(row("active", 0), claim(says_gone=True)).row
        held = judge(held, claim("pending", 99)).row
        assert held is not None
        assert held.doubted_through == at(99)
        held = judge(held, claim("closed", 103), now=104).row

        late = judge(held, claim("pending", 99), now=115)

        assert late.outcome == "stale"
        assert late.row is held

    def test_a_date_that_is_absurd_is_not_remembered(self) -> None:
        """A desk that began with its clock a year ahead: until then nothing would be believed."""
        doubted = judge(row("active", 0), claim("closed", 100 + 366 * 86400), standing=alive())

        assert doubted.outcome == "disputed"
        assert doubted.row is not None
        assert doubted.row.doubted_through is None

    def test_news_from_after_what_was_not_believed_is_news(self) -> None:
        doubted = judge(row("active", 0), claim("closed", 50), standing=alive(seen=50))

        assert judge(doubted.row, claim("spam", 1500), now=2000).outcome == "applied"

    def test_what_was_not_believed_is_no_better_when_a_read_has_settled_it(self) -> None:
        """The desk's clock was ahead, and has been set right: the date comes, and the delivery once more."""
        doubted = judge(row("active", 0), claim("closed", 170), standing=alive())
        settled = read(doubted.row, truth("spam", 90, asked=110), now=111, standing=alive())

        assert settled.row is not None
        assert settled.row.disputed_at is None
        assert judge(settled.row, claim("closed", 170), now=180, standing=alive()).outcome == "disputed"

    def test_a_second_dispute_does_not_move_the_first_ones_end(self) -> None:
        verdict = judge(row("active", 0, disputed=50), claim("closed", 0))

        assert verdict.row is not None
        assert (verdict.row.disputed_at, verdict.row.grace_until) == (at(50), at(55))
        assert verdict.row.touched_at == at(100)

    def test_an_unsigned_word_of_deletion_is_a_question(self) -> None:
        verdict = judge(row("active", 0), claim("active", 0, says_gone=True))

        assert verdict.outcome == "disputed"
        assert verdict.row is not None
        assert not verdict.row.gone

    def test_a_deletion_of_what_is_gone_is_known(self) -> None:
        assert judge(row(gone=True), claim(says_gone=True)).outcome == "duplicate"

    @pytest.mark.parametrize("standing", [ALONE, alive()], ids=["alone", "polled"])
    @pytest.mark.parametrize("disputed", [None, 60.0], ids=["settled", "disputed"])
    def test_a_tombstone_that_a_404_made_is_never_revived_by_a_claim(
        self, standing: Lease, disputed: float | None
    ) -> None:
        held = row("active", 0, gone=True, truth_at=50, disputed=disputed)

        verdict = judge(held, claim("active", 90), standing=standing)

        assert (verdict.outcome, verdict.reason) == ("disputed", "about_a_tombstone")
        assert verdict.row is not None
        assert verdict.row.gone

    def test_news_revives_a_ticket_that_we_were_only_told_is_gone_when_nobody_can_ask(self) -> None:
        """The deletion was of another ticket, or its name was forged: nobody signs it."""
        told = judge(None, claim("closed", 20, says_gone=True), now=60).row
        assert told is not None
        assert (told.gone, told.disputed_through) == (True, at(60))

        before, after, asked = (
            judge(told, claim("active", 60)),
            judge(told, claim("active", 61)),
            judge(told, claim("active", 61), standing=alive()),
        )

        assert (before.outcome, before.reason) == ("disputed", "older_than_the_dispute")
        assert (asked.outcome, asked.reason) == ("disputed", "about_a_tombstone")
        assert after.outcome == "applied"
        assert after.row is not None
        assert (after.row.gone, after.row.content, after.row.disputed_at) == (False, ("active", "published"), None)

    def test_what_was_not_believed_once_revives_no_ticket_either(self) -> None:
        """Unknown, and dated after the desk's clock: when its time has come it is no better."""
        told = judge(None, claim("closed", 170), now=100).row

        assert judge(told, claim("closed", 170), now=180).outcome == "disputed"
        assert judge(told, claim("closed", 171), now=180).outcome == "applied"

    def test_each_word_of_deletion_counts_while_we_have_only_been_told(self) -> None:
        told = judge(None, claim(says_gone=True), now=60).row
        again = judge(told, claim(says_gone=True), now=70).row

        assert again is not None
        assert (again.disputed_at, again.disputed_through) == (at(60), at(70))

    def test_a_disputed_ticket_we_hold_nothing_about_becomes_a_disputed_tombstone(self) -> None:
        verdict = judge(None, claim(says_gone=True))

        assert verdict.row is not None
        assert verdict.row.gone
        assert verdict.row.disputed_at == at(100)
        assert expiry(verdict.row, ALONE, at(100)) is None

    @pytest.mark.parametrize(
        "strange",
        [claim(None, 90), claim("active", 90, state=None), claim("active", None)],
        ids=["status", "state", "date"],
    )
    def test_what_we_do_not_understand_is_a_question_and_never_active(self, strange: Claim) -> None:
        verdict = judge(row("closed", 0), strange)

        assert verdict.outcome == "disputed"
        assert verdict.row is not None
        assert verdict.row.content == ("closed", "published")


class TestAbsences:
    def test_a_question_asked_before_the_list_does_not_settle_what_the_list_lacked(self) -> None:
        """The question found the ticket alive, and then it was deleted for ever."""
        missed = judge_absence(row("active", disputed=10, touched=10), at(30), lease=ALONE, terms=TERMS, now=at(31)).row

        verdict = read(missed, truth("active", asked=20), now=40)

        assert verdict.outcome == "dropped"
        assert verdict.row is not None
        assert verdict.row.disputed_at == at(10)
        assert verdict.row.disputed_through == at(31)
        assert read(missed, not_found(asked=32), now=40).outcome == "written"


class TestTruths:
    @pytest.mark.parametrize("later", [truth("closed", 10, asked=75), not_found(asked=75)], ids=["other", "gone"])
    def test_of_two_reads_that_overlap_and_differ_nobody_knows_which_is_true(self, later: Truth) -> None:
        """The one that was asked later may have been answered earlier."""
        first = read(row("active", 0), truth("spam", 10, asked=70), now=80).row

        verdict = read(first, later, now=81)

        assert (verdict.outcome, verdict.reason) == ("contested", "reads_overlap")
        assert verdict.row is not None
        assert verdict.row.content == ("spam", "published")
        assert (verdict.row.disputed_at, verdict.row.disputed_through) == (at(81), at(81))
        assert read(verdict.row, truth("closed", 10, asked=82), now=83).outcome == "written"

    def test_a_claim_that_a_read_overruled_with_an_older_date_is_not_believed_when_it_comes_again(self) -> None:
        """The desk's clock was set back before it was first measured: nothing else tells of it."""
        held = read(row("active", 50), truth("closed", 10, asked=70), now=71).row

        assert held is not None
        assert held.doubted_through == at(50)
        behind = msgspec.structs.replace(lease(), clock_offset=timedelta(seconds=-60))
        assert judge(held, claim("active", 50), standing=behind, now=72).outcome == "disputed"
        assert judge(held, claim("active", 51), standing=behind, now=72).outcome == "applied"

    @pytest.mark.parametrize(("status", "asked"), [("spam", 75), ("closed", 81)], ids=["agree", "follow"])
    def test_two_reads_that_agree_or_follow_each_other_are_both_written(self, status: Status, asked: float) -> None:
        first = read(row("active", 0), truth("spam", 10, asked=70), now=80).row

        verdict = read(first, truth(status, 10, asked=asked), now=90)

        assert verdict.outcome == "written"
        assert verdict.row is not None
        assert verdict.row.content == (status, "published")

    def test_a_truth_is_written_whatever_its_date_says(self) -> None:
        """In the repeated hour of autumn a newer truth carries an older date."""
        verdict = read(row("active", 50, touched=60, disputed=60), truth("closed", 10, asked=70))

        assert verdict.outcome == "written"
        assert verdict.row is not None
        assert verdict.row.content == ("closed", "published")
        assert (verdict.row.truth_at, verdict.row.disputed_at, verdict.row.grace_until) == (at(70), None, None)
        assert verdict.row.disputed_through is None
        assert verdict.row.expires_at == at(70) + TERMS.lease
        assert verdict.row.observed_via == "poller"

    def test_without_a_poller_a_read_that_agrees_takes_no_trust_away(self) -> None:
        told = row("active", 0, touched=0, expires=86_400)

        agrees = read(told, truth("active", 0, asked=70)).row
        differs = read(told, truth("closed", 5, asked=70)).row
        polled = read(told, truth("active", 0, asked=70), standing=alive()).row

        assert agrees is not None
        assert differs is not None
        assert polled is not None
        assert (agrees.expires_at, differs.expires_at, polled.expires_at) == (at(86_400), at(970), at(970))

    def test_truths_are_written_in_the_order_they_were_asked(self) -> None:
        held = row("closed", 50, truth_at=70, touched=None)

        for asked in (70, 69):
            verdict = read(held, truth("active", 60, asked=asked))
            assert verdict.outcome == "dropped"
            assert verdict.row is held

    def test_a_truth_about_nothing_is_written(self) -> None:
        verdict = read(None, truth("closed", 0, asked=70))

        assert verdict.outcome == "written"
        assert verdict.row is not None
        assert not verdict.row.gone

    def test_a_truth_about_nothing_is_a_question_when_a_later_pass_is_complete_and_lacked_it(self) -> None:
        """It was deleted between the two; the later pass has counted, and vouches for what is in the cache."""
        later = msgspec.structs.replace(ALONE, renewed_by_pass=at(70))

        verdict = read(None, truth("closed", 0, asked=70), standing=later)
        assert verdict.outcome == "contested"
        assert verdict.row is not None
        assert (verdict.row.gone, verdict.row.disputed_at) == (True, at(100))

        assert read(None, truth("closed", 0, asked=71), standing=later).outcome == "written"

    @pytest.mark.parametrize("held", ["nothing", "a tombstone"])
    def test_a_truth_about_nobody_alive_is_a_question_when_a_pass_has_begun_since(self, held: str) -> None:
        """It may have counted already, without the ticket, and vouch for it when it ends."""
        begun = msgspec.structs.replace(ALONE, begun_by_pass=at(71))
        row = None if held == "nothing" else read(None, not_found(asked=60), now=65).row

        verdict = read(row, truth("closed", 0, asked=70), standing=begun)
        assert verdict.outcome == "contested"
        assert verdict.row is not None
        assert (verdict.row.gone, verdict.row.disputed_at) == (True, at(100))

        # What the pass reads itself is asked when it begins, or later.
        assert read(row, truth("closed", 0, asked=71), standing=begun).outcome == "written"
        # A pass that has yet to begin is a clock that was wrong.
        ahead = msgspec.structs.replace(ALONE, begun_by_pass=at(10_000))
        assert read(row, truth("closed", 0, asked=70), standing=ahead).outcome == "written"

    def test_a_404_leaves_a_tombstone_and_a_200_revives_it(self) -> None:
        dead = read(row("active", 0), not_found(asked=70)).row
        assert dead is not None
        assert dead.gone

        living = read(dead, truth("closed", 0, asked=101)).row
        assert living is not None
        assert not living.gone

    def test_a_claim_that_came_while_we_asked_and_agrees_is_confirmed(self) -> None:
        verdict = read(row("closed", 50, touched=70), truth("closed", 50, asked=70))

        assert verdict.outcome == "confirmed"
        assert verdict.row is not None
        assert (verdict.row.truth_at, verdict.row.disputed_at) == (at(70), None)

    def test_a_claim_that_came_while_we_asked_is_not_overwritten(self) -> None:
        verdict = read(row("closed", 80, touched=81), truth("active", 10, asked=70))

        assert verdict.outcome == "contested"
        assert verdict.row is not None
        assert verdict.row.content == ("closed", "published")
        assert (verdict.row.disputed_at, verdict.row.truth_at) == (at(100), None)

    def test_a_newer_truth_is_written_but_what_was_claimed_meanwhile_stays_a_question(self) -> None:
        verdict = read(row("closed", 60, touched=81), truth("active", 65, asked=70))

        assert verdict.outcome == "contested"
        assert verdict.row is not None
        assert verdict.row.content == ("active", "published")
        assert (verdict.row.disputed_at, verdict.row.truth_at) == (at(100), at(70))

    def test_an_equal_truth_does_not_settle_a_dispute_that_began_after_it(self) -> None:
        verdict = read(row("closed", 50, touched=81, disputed=81), truth("closed", 50, asked=70))

        assert verdict.outcome == "contested"
        assert verdict.row is not None
        assert verdict.row.disputed_at == at(81)

    def test_a_404_asked_before_a_claim_leaves_a_question(self) -> None:
        verdict = read(row("closed", 80, touched=81), not_found(asked=70))

        assert verdict.outcome == "contested"
        assert verdict.row is not None
        assert not verdict.row.gone
        assert verdict.row.disputed_at == at(100)

    def test_a_truth_we_do_not_understand_vouches_for_nothing(self) -> None:
        verdict = read(row("closed", 0), truth(None, 50, asked=70))

        assert verdict.outcome == "written"
        assert verdict.row is not None
        assert not verdict.row.gone
        assert expiry(verdict.row, lease(until=10_000), at(100)) is None


class TestExpiry:
    def test_the_later_of_lease_and_ttl_counts(self) -> None:
        assert expiry(row(expires=10), lease(until=20), at(0)) == at(20)
        assert expiry(row(expires=30), lease(until=20), at(0)) == at(30)

    def test_a_dispute_ends_it_with_its_grace_and_never_later(self) -> None:
        assert expiry(row(expires=10, disputed=7), lease(until=20), at(7)) == at(12)
        assert expiry(row(expires=10, disputed=7), ALONE, at(7)) == at(10)

    @pytest.mark.parametrize("state", ["draft", "deleted"])
    def test_only_what_is_published_is_vouched_for(self, state: State) -> None:
        assert expiry(row(state=state), lease(until=20), at(0)) is None


class TestStampsFromOurFuture:
    """They were written while our clock was wrong: nothing is known of when."""

    STAMPS = ("observed_at", "touched_at", "truth_at", "truth_until", "disputed_at")

    def ahead(self, stamp: str, *, gone: bool = False) -> Row:
        held = row("active", 0, truth_at=0, gone=gone)
        grace = {"grace_until": at(DAY), "disputed_through": at(0)} if stamp == "disputed_at" else {}
        return msgspec.structs.replace(held, expires_at=at(DAY), **{stamp: at(DAY)}, **grace)

    @pytest.mark.parametrize("stamp", STAMPS)
    def test_a_row_with_one_is_asked_about_and_vouches_for_nothing(self, stamp: str) -> None:
        verdict = judge_stamps(self.ahead(stamp), lease=ALONE, now=at(100))

        assert verdict.outcome == "disputed"
        assert verdict.row is not None
        assert verdict.row.disputed_at == verdict.row.grace_until == at(100)
        assert expiry(verdict.row, lease(until=900), at(100)) == at(100)
        assert judge_stamps(verdict.row, lease=ALONE, now=at(100)).outcome == "dropped"

    @pytest.mark.parametrize("stamp", STAMPS)
    def test_a_read_does_not_settle_it_and_the_next_one_does(self, stamp: str) -> None:
        contested = read(self.ahead(stamp), truth("closed", 50, asked=70))
        assert contested.outcome == "contested"
        assert contested.row is not None
        assert contested.row.disputed_at == at(100)

        written = read(contested.row, truth("closed", 50, asked=101), now=102)
        assert written.outcome == "written"
        assert written.row is not None
        assert (written.row.content, written.row.disputed_at) == (("closed", "published"), None)

    @pytest.mark.parametrize("stamp", STAMPS)
    def test_without_a_poller_the_next_news_settles_it(self, stamp: str) -> None:
        verdict = judge(self.ahead(stamp), claim("closed", 50))

        assert (verdict.outcome, verdict.reason) == ("applied", "news")
        assert verdict.row is not None
        assert verdict.row.disputed_at is None
        assert expiry(verdict.row, ALONE, at(100)) == at(100) + TERMS.ttl

    def test_while_the_poller_lives_it_stays_a_question(self) -> None:
        verdict = judge(self.ahead("touched_at"), claim("closed", 50), standing=alive())

        assert verdict.outcome == "applied"
        assert verdict.row is not None
        assert verdict.row.disputed_at == at(100)

    def test_what_is_no_news_changes_nothing(self) -> None:
        """A failover to a clock that is some seconds behind costs no more than those."""
        held = self.ahead("observed_at")

        assert judge(held, claim("active", 0)).row == held
        assert judge(held, claim("closed", -5)).row == held

    def test_no_claim_revives_what_a_404_buried_meanwhile(self) -> None:
        held = self.ahead("truth_at", gone=True)

        verdict = judge(judge_stamps(held, lease=ALONE, now=at(100)).row, claim("closed", 50))

        assert verdict.outcome == "disputed"
        assert verdict.row is not None
        assert verdict.row.gone

    def test_a_list_that_lacks_such_a_ticket_leaves_it_asked_about(self) -> None:
        verdict = judge_absence(self.ahead("truth_at"), at(50), lease=ALONE, terms=TERMS, now=at(100))

        assert verdict.row is not None
        assert verdict.row.disputed_at == at(100)

    def test_a_read_that_was_asked_in_our_future_is_dropped(self) -> None:
        assert read(row("active", 0, touched=90), truth("closed", 50, asked=150)).outcome == "dropped"
        assert read(row("active", 0, touched=90), truth("closed", 50, asked=100.5)).outcome == "written"

    def test_a_pass_of_our_future_has_counted_nothing(self) -> None:
        passed = msgspec.structs.replace(lease(), renewed_by_pass=at(DAY))

        assert read(None, truth("closed", 50, asked=70), standing=passed).outcome == "written"

    def test_a_heartbeat_of_our_future_is_no_living_poller(self) -> None:
        assert not poller_is_alive(lease(alive_at=DAY), at(100), TERMS)
        assert poller_is_alive(lease(alive_at=101), at(100), TERMS)

    def test_a_doubt_that_was_absurd_is_forgotten(self) -> None:
        held = msgspec.structs.replace(self.ahead("touched_at"), doubted_through=at(2 * DAY))

        judged = judge_stamps(held, lease=ALONE, now=at(100)).row

        assert judged is not None
        assert judged.doubted_through is None


STATUSES: tuple[Status, ...] = ("active", "pending", "closed", "spam")
SECONDS = st.integers(-20, 200)
SIGHTINGS = st.builds(
    sighting,
    st.sampled_from((*STATUSES, None)),
    st.one_of(st.none(), SECONDS),
    state=st.sampled_from(("published", "deleted", None)),
)
CLAIMS = st.builds(Claim, sighting=SIGHTINGS, says_gone=st.booleans())
TRUTHS = st.builds(
    Truth, ticket_id=st.just(7), sighting=st.one_of(st.none(), SIGHTINGS), asked_at=st.builds(at, SECONDS)
)
LEASES = st.builds(
    lease,
    alive_at=st.one_of(st.none(), st.integers(-2000, 100)),
    seen=st.one_of(st.none(), SECONDS),
    complete=st.one_of(st.none(), SECONDS),
    until=st.one_of(st.none(), st.integers(-100, 1000)),
)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Claim | Truth, datetime, Lease]]:
    """Anything that could come, at times that only go forward."""
    moments = sorted(draw(st.lists(st.integers(0, 2000), min_size=1, max_size=12)))
    return [(draw(st.one_of(CLAIMS, TRUTHS)), at(moment), draw(LEASES)) for moment in moments]


def step(held: Row | None, came: Claim | Truth, now: datetime, standing: Lease) -> Verdict:
    if isinstance(came, Claim):
        return judge_claim(held, came, lease=standing, terms=TERMS, now=now)
    return judge_truth(held, came, lease=standing, terms=TERMS, now=now)


class TestOverAnyHistory:
    @given(histories())
    def test_a_row_is_always_one_the_database_takes(self, history: list[tuple[Claim | Truth, datetime, Lease]]) -> None:
        held: Row | None = None
        for came, now, standing in history:
            held = step(held, came, now, standing).row
            if held is not None:
                assert (held.disputed_at is None) == (held.grace_until is None) == (held.disputed_through is None)
                assert held.touched_at is not None or held.truth_at is not None
                assert held.ticket_id == 7

    @given(histories())
    def test_a_replay_never_prolongs_trust_nor_changes_an_answer(
        self, history: list[tuple[Claim | Truth, datetime, Lease]]
    ) -> None:
        """A claim from the future is left out: it was never believed, and is judged anew when its date has come."""
        held: Row | None = None
        for came, now, standing in history:
            verdict = step(held, came, now, standing)
            held = verdict.row
            if isinstance(came, Claim) and held is not None and verdict.reason != "from_the_future":
                again = step(held, came, now + timedelta(seconds=1), standing).row
                assert again is not None
                before, after = (expiry(each, standing, now + timedelta(seconds=1)) for each in (held, again))
                assert after is None or (before is not None and after <= before)
                assert (again.content, again.updated_at, again.gone) == (held.content, held.updated_at, held.gone)

    @given(histories())
    def test_a_claim_never_revives_what_a_404_buried_and_never_makes_a_tombstone_of_a_living_ticket(
        self, history: list[tuple[Claim | Truth, datetime, Lease]]
    ) -> None:
        held: Row | None = None
        for came, now, standing in history:
            before, held = held, step(held, came, now, standing).row
            if isinstance(came, Claim) and before is not None and (not before.gone or before.truth_at is not None):
                assert held is not None
                assert held.gone == before.gone

    @given(histories())
    def test_without_a_poller_what_settles_a_dispute_is_dated_after_all_that_was_said_against_the_row(
        self, history: list[tuple[Claim | Truth, datetime, Lease]]
    ) -> None:
        held: Row | None = None
        said: list[datetime] = []
        for came, now, standing in history:
            standing = Lease(seen_through=standing.seen_through)  # noqa: PLW2901 - nobody polls, ever
            before, verdict = held, step(held, came, now, standing)
            held = verdict.row
            if not isinstance(came, Claim):
                said = said if verdict.outcome == "dropped" else [now]
                continue
            dated = came.sighting.understood and not came.says_gone and verdict.reason != "from_the_future"
            if before is not None and before.disputed_at is not None and held is not None and held.disputed_at is None:
                assert came.sighting.updated_at is not None
                assert all(came.sighting.updated_at > date for date in said)
                said = []
            elif verdict.outcome == "disputed":
                said.append(came.sighting.updated_at if dated and came.sighting.updated_at is not None else now)

    @given(histories())
    def test_a_claim_never_moves_a_row_back(self, history: list[tuple[Claim | Truth, datetime, Lease]]) -> None:
        held: Row | None = None
        for came, now, standing in history:
            before, held = held, step(held, came, now, standing).row
            if isinstance(came, Claim) and before is not None and before.updated_at is not None:
                assert held is not None
                assert held.updated_at is not None
                assert held.updated_at >= before.updated_at

    @given(histories())
    def test_while_the_poller_lives_no_claim_settles_a_dispute(
        self, history: list[tuple[Claim | Truth, datetime, Lease]]
    ) -> None:
        held: Row | None = None
        for came, now, standing in history:
            standing = Lease(heartbeat_at=now, seen_through=standing.seen_through)  # noqa: PLW2901 - alive, always
            before, held = held, step(held, came, now, standing).row
            if isinstance(came, Claim) and before is not None and before.disputed_at is not None:
                assert held is not None
                assert held.disputed_at == before.disputed_at

    @given(histories(), TRUTHS)
    def test_a_truth_asked_after_everything_settles_everything(
        self, history: list[tuple[Claim | Truth, datetime, Lease]], last: Truth
    ) -> None:
        held: Row | None = None
        for came, now, standing in history:
            held = step(held, came, now, standing).row
        asked = max([at(0)] + [now for _, now, _ in history] + [at(200)]) + timedelta(seconds=1)
        last = Truth(ticket_id=7, sighting=last.sighting, asked_at=asked)

        verdict = judge_truth(held, last, lease=ALONE, terms=TERMS, now=asked)

        assert verdict.outcome == "written"
        assert verdict.row is not None
        assert verdict.row.disputed_at is None
        assert verdict.row.gone == (last.sighting is None)
        if last.sighting is not None:
            assert verdict.row.content == (last.sighting.status, last.sighting.state)
