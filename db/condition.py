"""How poller, lease and desk are, judged once for readiness, `doctor`, `status`, metrics and log. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from db.answers import Ahead, AnswerTally, refused_since, verified_at
from db.standing import Standing
from freescout_audit.endpoints import AUDIT, name_at
from freescout_audit.trust import is_ahead, vouched_until
from freescout_audit.words import moment

State = Literal["ok", "off", "notice", "degraded", "failed"]
"""``off``: on purpose. ``notice``: worth a look, and nothing is wrong. ``degraded``: wrong, and answers are right so
far. ``failed``: somebody's work is not done, and readiness is red."""
WRONG: frozenset[State] = frozenset({"degraded", "failed"})
STATES: tuple[State, ...] = ("ok", "off", "notice", "degraded", "failed")
"""From the best to the worst."""

FEED_OVERDUE = timedelta(seconds=60)
"""A transition gets its place in the feed within seconds."""
START_THE_POLLER = "start the process poller; if push alone is meant: freescout-audit poller retire"
_COMPARE_THE_KEY = "compare the webhook key with FreeScout's Manage » Settings » API & Webhooks; has APP_KEY changed?"
_COMPARE_RBACS_KEY = (
    "compare FREESCOUT_RBAC_WEBHOOK_SECRET, or the audit path's key if that is unset, with FreeScout's"
    " Manage » Settings » API & Webhooks"
)
_READS_NONE = "tickets without a recent delivery read none"
_NONE_RUNS = f"no poller is running: {_READS_NONE}"


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """How one part of the service is, and what to do about it; ``since`` when that is known better than by looking."""

    state: State
    detail: str
    next_step: str = ""
    since: datetime | None = None
    brief: str = ""
    """The same in the fewest words, to follow "since …"; empty: ``detail`` is as brief as it can be."""
    passes: bool = False
    """It will turn out well by itself."""


def worst(*states: State) -> State:
    """Return the worst of some states."""
    return max(states, key=STATES.index)


def judge(standing: Standing) -> dict[str, Condition]:
    """Judge what stands in the database, each part by its name."""
    return {
        "poller": _poller(standing),
        "lease": _lease(standing),
        "desk": _desk(standing),
        "feed": _feed(standing),
    }


def judge_pushes(
    answers: Mapping[str, AnswerTally], ahead: Ahead | None, endpoints: Sequence[str] = ()
) -> dict[str, Condition]:
    """Judge how deliveries come in to the ``endpoints`` that are on, the audit's if none is.

    ``deliveries`` is the audit path, ``deliveries_rbac`` RV-4's. A stranger can cause what is wrong here, so it is
    never more than degraded.
    """
    judged = endpoints or (AUDIT,)
    return {
        name_at(endpoint, "deliveries"): _deliveries(answers, ahead if endpoint == judged[0] else None, endpoint)
        for endpoint in judged
    }


def _deliveries(answers: Mapping[str, AnswerTally], ahead: Ahead | None, endpoint: str) -> Condition:
    refused, at = refused_since(answers, endpoint), "" if endpoint == AUDIT else " at RV-4's path"
    if refused is not None:
        verified = verified_at(answers, endpoint)
        last = "none was ever verified"
        if verified is not None:
            last = f"the last was verified at {moment(verified.last_at)}, by key {verified.key_fingerprint}"
        return Condition(
            state="degraded",
            detail=f"what looks like FreeScout's deliveries is refused{at} (401), the last at"
            f" {moment(refused.last_at)}; {last}",
            next_step=_COMPARE_THE_KEY if endpoint == AUDIT else _COMPARE_RBACS_KEY,
            brief=f"FreeScout's deliveries are refused{at} (401)",
            since=refused.first_at if verified is None else max(refused.first_at, verified.last_at),
        )
    if ahead is not None:
        return Condition(
            state="degraded",
            detail=f"FreeScout's clock is about {ahead.seconds:.0f} s ahead of ours: its deliveries are not believed",
            next_step="set the desk's time server right, or run a poller, which measures its clock",
            brief="FreeScout's clock is ahead of ours, and its deliveries are not believed",
        )
    return Condition(state="ok", detail=f"none is refused{at} that looks like FreeScout's")


def _poller(standing: Standing) -> Condition:
    state, retired = standing.poller, standing.retired_at
    who = standing.leader or "a poller"
    if state == "leads" and retired is not None:
        detail = f"{who} leads, although push alone is meant since {moment(retired)}"
        return Condition(state="notice", detail=detail, next_step="freescout-audit poller expect")
    if state == "leads":
        return Condition(state="ok", detail=f"{who} leads")
    if retired is not None:
        return Condition(state="off", detail=f"push alone is meant since {moment(retired)}", since=retired)
    if state == "never":
        return Condition(state="off", detail=_NONE_RUNS, next_step=START_THE_POLLER)
    if state == "vanished":
        beaten = standing.lease.heartbeat_at
        heard = "it has had no heartbeat" if beaten is None else f"it has had no heartbeat since {moment(beaten)}"
        if is_ahead(beaten, standing.now):
            heard, beaten = f"its last heartbeat is dated {moment(beaten)}, ahead of the database's clock", None
        detail = f"{who} vanished: {heard}"
        next_step = f"look at why it ended, and {START_THE_POLLER}"
        return Condition(state="failed", detail=detail, next_step=next_step, since=beaten, brief="the poller vanished")
    return _stepped_down(standing)


def _stepped_down(standing: Standing) -> Condition:
    until, ended = vouched_until(standing.lease, standing.now), standing.stepped_down_at
    if until is not None and until > standing.now:
        detail = f"the poller stepped down at {moment(ended)}; its last pass vouches until {moment(until)}"
        return Condition(state="notice", detail=detail, next_step=START_THE_POLLER, since=ended)
    detail = f"the poller stepped down at {moment(ended)}, and its lease is over: {_READS_NONE}"
    return Condition(
        state="failed",
        detail=detail,
        next_step=START_THE_POLLER,
        since=until or ended,
        brief="the poller stepped down",
    )


def _lease(standing: Standing) -> Condition:
    lease, now = standing.lease, standing.now
    until = vouched_until(lease, now)
    if until is not None and until > now:
        return Condition(state="ok", detail=f"the lease is valid until {moment(until)}")
    if standing.poller != "leads":
        # What became of the poller says whether that is wrong.
        there = (
            "no pass has been complete"
            if lease.lease_until is None
            else f"the lease ended at {moment(lease.lease_until)}"
        )
        return Condition(state="off", detail=there)
    if lease.lease_until is None:
        if standing.desk_state in {"refused", "unavailable"}:
            detail = f"no pass is complete yet: {standing.desk_detail}"
            return Condition(state="failed", detail=detail, next_step=standing.desk_next_step)
        return Condition(
            state="notice",
            detail="the first pass is not complete yet",
            next_step="wait: freescout-audit status shows how far",
            passes=True,
        )
    if until is None:
        return Condition(
            state="failed",
            detail=f"the lease was renewed at {moment(lease.renewed_by_pass)}, ahead of the database's clock",
            next_step="wait for the next pass, and look at the time server of the database's host",
        )
    because = f": {standing.desk_detail}" if standing.desk_detail else ", and no pass has been complete since"
    return Condition(
        state="failed",
        detail=f"the lease ended at {moment(until)}{because}",
        next_step=standing.desk_next_step or "freescout-audit logs --event pass.failed says why",
        since=until,
    )


def _desk(standing: Standing) -> Condition:
    """Judge what the poller reports of FreeScout's API; without a poller it is not known."""
    state, since = standing.desk_state, standing.desk_since
    if standing.poller != "leads":
        return Condition(state="off", detail="FreeScout has not been asked lately")
    if state == "unknown":
        # It is reported at the end of a pass, and the first one may take long.
        led, answered = standing.led_since, standing.desk_answered_at
        if led is not None and answered is not None and answered >= led:
            return Condition(state="ok", detail="FreeScout's API answers")
        return Condition(state="off", detail="FreeScout has not answered yet")
    if state == "ok":
        if standing.trouble:
            return Condition(
                state="degraded",
                detail=standing.trouble,
                next_step="see storage/logs at the desk; those tickets read none until FreeScout answers",
                since=standing.trouble_since,
            )
        return Condition(state="ok", detail="FreeScout's API answers", since=since)
    until = vouched_until(standing.lease, standing.now)
    silent = standing.silent_since
    return Condition(
        state="degraded" if until is not None and until > standing.now else "failed",
        detail=standing.desk_detail if silent is None else f"neither push nor pull works: {standing.desk_detail}",
        next_step=standing.desk_next_step,
        since=since if silent is None else silent,
    )


def _feed(standing: Standing) -> Condition:
    """Judge whether transitions get their places in the feed."""
    since = standing.unnumbered_since
    if since is None or standing.now - since < FEED_OVERDUE:
        return Condition(state="ok", detail="what changes gets its place in the feed")
    return Condition(
        state="degraded",
        detail=f"what has changed since {moment(since)} has no place in the feed: its readers are not told",
        next_step="start a receiver or a poller; if one is running, its lines receiver.fault or poller.fault say why",
        since=since,
        brief="readers of the feed are not told of changes",
    )
