"""How poller, lease, desk and deliveries are judged, once for everybody who looks."""

from datetime import datetime

import pytest

from db.answers import LIKE_FREESCOUTS, VERIFIED, Ahead, AnswerTally
from db.condition import judge, judge_pushes
from db.standing import Standing
from freescout_audit.rule import Lease
from support.examples import at
from support.standings import standing


def beating(lease_until: datetime | None = None, renewed_by_pass: datetime | None = None) -> Lease:
    """Return a lease with a heartbeat of five seconds ago."""
    return Lease(heartbeat_at=at(-5), lease_until=lease_until, renewed_by_pass=renewed_by_pass)


def gone(**changes: object) -> Standing:
    """Return what stands when the last heartbeat is more than 30 s old."""
    return standing(**{"lease": Lease(heartbeat_at=at(-31), lease_until=at(600))} | changes)


@pytest.mark.parametrize(
    ("seen", "state", "said"),
    [
        (standing(), "ok", "poller.1 leads"),
        (standing(lease=Lease()), "off", "no poller is running: tickets without a recent delivery read none"),
        (standing(lease=Lease(heartbeat_at=at(-30), lease_until=at(1))), "ok", "leads"),
        (standing(lease=Lease(heartbeat_at=at(86_400), lease_until=at(1))), "failed", "vanished"),
        (gone(), "failed", "poller.1 vanished: it has had no heartbeat since 2024-11-23 11:59:29 UTC"),
        (gone(stepped_down_at=at(-31)), "notice", "its last pass vouches until 2024-11-23 12:10:00 UTC"),
        (gone(stepped_down_at=at(-32)), "failed", "vanished"),
        (standing(stepped_down_at=at(-5)), "notice", "stepped down"),
        (
            standing(lease=Lease(heartbeat_at=at(-900), lease_until=at(0)), stepped_down_at=at(-899)),
            "failed",
            "its lease is over: tickets without a recent delivery read none",
        ),
        (standing(lease=beating(), stepped_down_at=at(-1)), "failed", "its lease is over"),
        (standing(lease=Lease(), leads_until=at(5), led_since=at(-31)), "failed", "it has had no heartbeat"),
        (standing(lease=Lease(), leads_until=at(5), led_since=at(-9)), "off", "no poller is running"),
        (standing(lease=Lease(), retired_at=at(-60)), "off", "push alone is meant since 2024-11-23 11:59:00 UTC"),
        (gone(retired_at=at(-60)), "off", "push alone is meant"),
        (standing(retired_at=at(-60)), "notice", "leads, although push alone is meant"),
    ],
)
def test_the_poller(seen: Standing, state: str, said: str) -> None:
    poller = judge(seen)["poller"]

    assert poller.state == state
    assert said in poller.detail
    assert bool(poller.next_step) == (state in {"failed", "notice"} or "no poller" in said)


@pytest.mark.parametrize(
    ("seen", "state", "said", "next_step"),
    [
        (standing(), "ok", "valid until 2024-11-23 12:13:20 UTC", ""),
        (standing(lease=beating()), "notice", "the first pass is not complete yet", "status shows how far"),
        (
            standing(
                lease=beating(),
                desk_state="unavailable",
                desk_detail="it answers 503",
                desk_next_step="wait",
            ),
            "failed",
            "no pass is complete yet: it answers 503",
            "wait",
        ),
        (
            standing(lease=beating(lease_until=at(0)), desk_detail="it answers 401", desk_next_step="the key"),
            "failed",
            "the lease ended at 2024-11-23 12:00:00 UTC: it answers 401",
            "the key",
        ),
        (standing(lease=beating(lease_until=at(-9))), "failed", "no pass has been complete", "pass.failed"),
        (
            standing(lease=beating(lease_until=at(90_000), renewed_by_pass=at(86_400))),
            "failed",
            "ahead of the database's clock",
            "time server",
        ),
        (standing(lease=Lease(heartbeat_at=at(-90), lease_until=at(-9))), "off", "the lease ended at", ""),
        (standing(lease=Lease()), "off", "no pass has been complete", ""),
    ],
)
def test_the_lease(seen: Standing, state: str, said: str, next_step: str) -> None:
    lease = judge(seen)["lease"]

    assert lease.state == state
    assert said in lease.detail
    assert next_step in lease.next_step


@pytest.mark.parametrize(
    ("seen", "state", "said"),
    [
        (standing(), "ok", "FreeScout's API answers"),
        (standing(desk_state="unknown"), "off", "has not answered yet"),
        # The first pass, at whose end the desk's state is reported, may take long.
        (
            standing(desk_state="unknown", led_since=at(-60), desk_answered_at=at(-5)),
            "ok",
            "FreeScout's API answers",
        ),
        (standing(desk_state="unknown", led_since=at(-60), desk_answered_at=at(-90)), "off", "has not answered yet"),
        (gone(), "off", "has not been asked lately"),
        # Answers are right until the lease ends.
        (standing(desk_state="refused", desk_detail="it answers 401"), "degraded", "it answers 401"),
        (
            standing(desk_state="refused", desk_detail="401", lease=beating(lease_until=at(0))),
            "failed",
            "401",
        ),
        (
            standing(desk_state="unavailable", desk_detail="503", silent_since=at(-300)),
            "degraded",
            "neither push nor pull works: 503",
        ),
        (standing(trouble="ticket 60: it answers 500"), "degraded", "ticket 60: it answers 500"),
    ],
)
def test_the_desk(seen: Standing, state: str, said: str) -> None:
    desk = judge(seen)["desk"]

    assert desk.state == state
    assert said in desk.detail


def tally(last: float) -> AnswerTally:
    return AnswerTally(answers=3, first_at=at(-900), last_at=at(last), key_fingerprint=None)


@pytest.mark.parametrize(
    ("answers", "ahead", "state", "said"),
    [
        ({}, None, "ok", "none is refused"),
        ({VERIFIED: tally(-60)}, None, "ok", "none is refused"),
        ({LIKE_FREESCOUTS: tally(-60)}, None, "degraded", "none was ever verified"),
        ({LIKE_FREESCOUTS: tally(-60), VERIFIED: tally(-61)}, None, "degraded", "verified at 2024-11-23 11:58:59 UTC"),
        ({LIKE_FREESCOUTS: tally(-60), VERIFIED: tally(-60)}, None, "ok", "none is refused"),
        ({"unverified": tally(0), VERIFIED: tally(-60)}, None, "ok", "none is refused"),
        ({}, Ahead(deliveries=7, seconds=1831.2), "degraded", "FreeScout's clock is about 1831 s ahead of ours"),
    ],
)
def test_the_deliveries_never_turn_readiness_red(
    answers: dict[str, AnswerTally], ahead: Ahead | None, state: str, said: str
) -> None:
    deliveries = judge_pushes(answers, ahead)["deliveries"]

    assert deliveries.state == state
    assert said in deliveries.detail


@pytest.mark.parametrize(
    ("answers", "audit", "rbac"),
    [
        ({LIKE_FREESCOUTS: tally(-60), "verified_rbac": tally(0)}, "degraded", "ok"),
        ({"unverified_like_freescouts_rbac": tally(-60), VERIFIED: tally(0)}, "ok", "degraded"),
        ({"unverified_like_freescouts_rbac": tally(-60), "verified_rbac": tally(0)}, "ok", "ok"),
    ],
)
def test_what_is_verified_at_one_endpoint_says_nothing_of_the_other(
    answers: dict[str, AnswerTally], audit: str, rbac: str
) -> None:
    found = judge_pushes(answers, None, ["audit", "rbac"])

    assert {name: each.state for name, each in found.items()} == {"deliveries": audit, "deliveries_rbac": rbac}
    assert list(judge_pushes(answers, None)) == ["deliveries"]


def test_a_clock_that_is_ahead_is_told_once_whichever_path_is_on() -> None:
    def found(*endpoints: str) -> dict[str, str]:
        judged = judge_pushes({}, Ahead(deliveries=7, seconds=1831.2), endpoints)
        return {name: each.state for name, each in judged.items()}

    assert found("audit", "rbac") == {"deliveries": "degraded", "deliveries_rbac": "ok"}
    assert found("rbac") == {"deliveries_rbac": "degraded"}
    assert found("audit") == found() == {"deliveries": "degraded"}


def test_only_a_first_pass_that_is_under_way_passes_by_itself() -> None:
    seen = (
        standing(lease=Lease()),
        standing(retired_at=at(-60)),
        gone(stepped_down_at=at(-31)),
        standing(lease=beating()),
    )
    passing = [[name for name, each in judge(one).items() if each.passes] for one in seen]

    assert passing == [[], [], [], ["lease"]]


@pytest.mark.parametrize(("waits", "state"), [(None, "ok"), (59, "ok"), (60, "degraded"), (-5, "ok")])
def test_the_feed(waits: float | None, state: str) -> None:
    feed = judge(standing(unnumbered_since=None if waits is None else at(-waits)))["feed"]

    assert feed.state == state
    assert bool(feed.next_step) == (state == "degraded")
    assert ("has no place in the feed" in feed.detail) == (state == "degraded")
