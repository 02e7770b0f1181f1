"""The verdict: one sentence for each way the service can be, and the four lights."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
import pytest

from db.answers import LIKE_FREESCOUTS, VERIFIED, AnswerTally
from db.condition import Condition, judge, judge_pushes
from db.standing import Standing
from db.verdict import find_lights, judge_all
from freescout_audit.rule import Lease
from support.examples import at
from support.standings import standing

TAKEN = Condition(state="ok", detail="deliveries are taken", since=at(-500))
SAVED = Condition(state="ok", detail="schema 0016", since=at(-400))
NOT_SAVED = Condition(state="failed", detail="deliveries are not saved: full", brief="deliveries are not saved")
OVER = Lease(heartbeat_at=at(-5), lease_until=at(-100), renewed_by_pass=at(-1000))
VANISHED = Lease(heartbeat_at=at(-700), lease_until=at(-100), renewed_by_pass=at(-1000))
STILL_VALID = Lease(heartbeat_at=at(-700), lease_until=at(100), renewed_by_pass=at(-800))
REFUSED = {
    VERIFIED: AnswerTally(answers=1, first_at=at(-900), last_at=at(-300), key_fingerprint="abcd1234"),
    LIKE_FREESCOUTS: AnswerTally(answers=3, first_at=at(-200), last_at=at(-10), key_fingerprint=None),
}


def parts(
    seen: Standing, answers: Mapping[str, AnswerTally] | None = None, **others: Condition
) -> Mapping[str, Condition]:
    return {"receive": TAKEN, "database": SAVED, **judge(seen), **judge_pushes(answers or {}, None), **others}


def written(sentence: Sequence[str | datetime]) -> str:
    return "".join(piece if isinstance(piece, str) else f"{piece:%H:%M:%S}" for piece in sentence)


@pytest.mark.parametrize(
    ("seen", "answers", "others", "state", "part", "sentence"),
    [
        (standing(), {}, {}, "ok", None, "Answers can be trusted until 12:13:20."),
        (
            standing(),
            REFUSED,
            {},
            "degraded",
            "deliveries",
            "Right so far, but since 11:56:40 FreeScout's deliveries are refused (401).",
        ),
        (
            standing(lease=VANISHED),
            {},
            {},
            "failed",
            "poller",
            "Since 11:58:20 tickets without a recent delivery read none: the poller vanished.",
        ),
        (
            standing(lease=STILL_VALID),
            {},
            {},
            "failed",
            "poller",
            "Right so far, but since 11:48:20 the poller vanished.",
        ),
        (
            standing(lease=STILL_VALID, stepped_down_at=at(-700)),
            {},
            {},
            "notice",
            "poller",
            "Answers can be trusted until 12:01:40, and no poller runs.",
        ),
        (
            standing(lease=OVER, desk_state="refused", desk_detail="FreeScout answers 401", desk_since=at(-950)),
            {},
            {},
            "failed",
            "desk",
            "Since 11:58:20 tickets without a recent delivery read none: FreeScout answers 401.",
        ),
        (
            standing(desk_state="unavailable", desk_detail="FreeScout does not answer", desk_since=at(-90)),
            {},
            {},
            "degraded",
            "desk",
            "Right so far, but since 11:58:30 FreeScout does not answer.",
        ),
        (
            standing(),
            {},
            {"database": msgspec.structs.replace(NOT_SAVED, since=at(-30))},
            "failed",
            "database",
            "Right so far, but since 11:59:30 deliveries are not saved.",
        ),
        (
            standing(lease=Lease(heartbeat_at=at(-5))),
            {},
            {},
            "notice",
            "lease",
            "The first pass is under way: tickets that it has not read yet read none.",
        ),
        (
            standing(lease=Lease(heartbeat_at=at(-5)), desk_state="refused", desk_detail="FreeScout answers 401"),
            {},
            {},
            "failed",
            "desk",
            "No pass has been complete yet: FreeScout answers 401.",
        ),
        (
            standing(lease=Lease()),
            {},
            {},
            "notice",
            "poller",
            "No poller is running: tickets without a recent delivery read none.",
        ),
        (
            standing(lease=VANISHED, retired_at=at(-3600)),
            {},
            {},
            "ok",
            None,
            "Push alone is meant: a ticket is answered while its last delivery is recent, and else reads none.",
        ),
        (
            standing(lease=VANISHED, retired_at=at(-3600)),
            REFUSED,
            {},
            "degraded",
            "deliveries",
            "Push alone, without a poller; and since 11:56:40 FreeScout's deliveries are refused (401).",
        ),
        (
            standing(lease=VANISHED),
            {},
            {"database": msgspec.structs.replace(NOT_SAVED, since=at(-650))},
            "failed",
            "database",
            "Since 11:58:20 tickets without a recent delivery read none: deliveries are not saved.",
        ),
        (
            standing(lease=VANISHED, stepped_down_at=at(-700)),
            {},
            {},
            "failed",
            "poller",
            "Since 11:58:20 tickets without a recent delivery read none: the poller stepped down.",
        ),
    ],
)
def test_each_way_the_service_can_be_has_its_sentence(
    seen: Standing,
    answers: Mapping[str, AnswerTally],
    others: Mapping[str, Condition],
    state: str,
    part: str | None,
    sentence: str,
) -> None:
    verdict = judge_all(parts(seen, answers, **others), seen)

    assert (verdict.state, verdict.part, written(verdict.sentence)) == (state, part, sentence)


def test_what_is_right_so_far_is_right_until_the_lease_ends() -> None:
    vanished, over = standing(lease=STILL_VALID), standing(lease=VANISHED)

    assert judge_all(parts(vanished), vanished).until == at(100)
    assert judge_all(parts(over), over).until is None


@pytest.mark.parametrize(
    ("seen", "answers", "others", "goes_on"),
    [
        (standing(), REFUSED, {}, True),
        (standing(lease=STILL_VALID), {}, {}, False),
        (standing(lease=STILL_VALID, stepped_down_at=at(-700)), REFUSED, {}, False),
        (standing(desk_state="unavailable", desk_detail="FreeScout does not answer"), REFUSED, {}, False),
        (standing(), REFUSED, {"database": NOT_SAVED}, False),
    ],
)
def test_the_lease_moves_on_while_passes_are_complete(
    seen: Standing,
    answers: Mapping[str, AnswerTally],
    others: Mapping[str, Condition],
    goes_on: bool,  # noqa: FBT001
) -> None:
    verdict = judge_all(parts(seen, answers, **others), seen)

    assert (verdict.until is not None, verdict.passes_go_on) == (True, goes_on)


def test_when_no_ticket_is_answered_the_sentence_says_so() -> None:
    seen = standing(lease=VANISHED)

    verdict = judge_all(parts(seen), seen, answered=0)

    assert written(verdict.sentence) == "Since 11:58:20 every ticket reads none: the poller vanished."


def test_a_database_that_cannot_be_read_is_all_there_is_to_say() -> None:
    away = Condition(state="failed", detail="PostgreSQL did not answer in time", since=at(-60))

    verdict = judge_all({"receive": TAKEN, "database": away}, None)

    assert (verdict.state, verdict.part) == ("failed", "database")
    assert written(verdict.sentence) == (
        "Since 11:59:00 every application reads none, and no delivery is saved: PostgreSQL did not answer in time."
    )


def test_a_light_is_as_its_worst_part_and_well_since_the_last_of_them_is() -> None:
    seen = standing(lease=VANISHED)

    lights = find_lights(parts(seen, REFUSED))

    assert {name: (light.state, light.since) for name, light in lights.items()} == {
        "push": ("degraded", at(-200)),
        "pull": ("failed", at(-700)),
        "desk": ("off", None),
        "database": ("ok", at(-400)),
    }


def test_while_nothing_is_saved_no_light_says_otherwise() -> None:
    seen = standing(lease=VANISHED)

    lights = find_lights(parts(seen, database=NOT_SAVED))

    assert lights["push"].detail == "deliveries are taken; the database saves none of them"
    assert lights["pull"].detail.endswith(
        "it has had no heartbeat since 2024-11-23 11:48:20 UTC; the database saves none"
    )
    assert "desk" not in lights, "the poller may well ask"


def test_of_what_is_not_known_there_is_no_light() -> None:
    assert set(find_lights({"receive": TAKEN, "database": NOT_SAVED})) == {"push", "database"}


OFF = Condition(state="off", detail="the flag is not 1")
RBAC_TAKEN = Condition(state="ok", detail="RV-4's deliveries are taken")
NO_KEY = Condition(state="failed", detail="no key is set")


@pytest.mark.parametrize(
    ("audit", "rbac", "state", "detail"),
    [
        (TAKEN, OFF, "ok", TAKEN.detail),
        (OFF, RBAC_TAKEN, "ok", RBAC_TAKEN.detail),
        (TAKEN, RBAC_TAKEN, "ok", f"{TAKEN.detail}; {RBAC_TAKEN.detail}"),
        (OFF, OFF, "off", f"{OFF.detail}; {OFF.detail}"),
        (TAKEN, NO_KEY, "failed", NO_KEY.detail),
        (OFF, NO_KEY, "failed", NO_KEY.detail),
    ],
)
def test_push_is_off_when_both_paths_are_and_tells_of_those_that_are_on(
    audit: Condition, rbac: Condition, state: str, detail: str
) -> None:
    light = find_lights({"receive": audit, "receive_rbac": rbac})["push"]

    assert (light.state, light.detail) == (state, detail)


def test_a_path_without_a_key_is_what_the_verdict_is_about() -> None:
    verdict = judge_all(parts(standing(), receive_rbac=NO_KEY), standing())

    assert verdict.part == "receive_rbac"
