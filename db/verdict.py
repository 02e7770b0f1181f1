"""The verdict: one sentence about all parts of the service, for somebody who was woken. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from db.condition import WRONG, State, worst
from db.standing import Standing
from freescout_audit.endpoints import ENDPOINTS, name_at
from freescout_audit.trust import vouched_until

RECEIVING = tuple(name_at(endpoint, "receive") for endpoint in ENDPOINTS)
"""The parts that take deliveries, one for each endpoint."""
LIGHTS: Mapping[str, Sequence[str]] = {
    "push": (*RECEIVING, "vault", *(name_at(endpoint, "deliveries") for endpoint in ENDPOINTS)),
    "pull": ("poller", "lease"),
    "desk": ("desk",),
    "database": ("database", "feed"),
}
"""The four lights, and the parts that each of them shows, the most important first."""
_BY_IMPORTANCE = ("database", *LIGHTS["push"][:3], "poller", "lease", "desk", *LIGHTS["push"][3:], "feed")


class Part(Protocol):
    """How one part is: `db.condition.Condition`, or what a receiver made of it."""

    @property
    def state(self) -> State:
        """How it is."""

    @property
    def detail(self) -> str:
        """What there is to say of it."""

    @property
    def next_step(self) -> str:
        """What to do about it."""

    @property
    def brief(self) -> str:
        """The same as ``detail`` in fewer words; empty: there are no fewer."""

    @property
    def since(self) -> datetime | None:
        """Since when."""


class Headline(msgspec.Struct, frozen=True, kw_only=True):
    """The sentence, its times as they are, and the part that it is about; None: nothing is wrong."""

    state: State
    sentence: Sequence[str | datetime]
    part: str | None = None
    until: datetime | None = None
    """Until when answers can be trusted although something is wrong; None: the sentence says it, or they cannot."""
    passes_go_on: bool = False
    """Whether passes are complete meanwhile, each of which moves ``until`` on."""


class Light(msgspec.Struct, frozen=True, kw_only=True):
    """How some parts are together: as the worst of them, since when, and its words."""

    state: State
    detail: str
    since: datetime | None


def find_lights(parts: Mapping[str, Part]) -> Mapping[str, Light]:
    """Return the lights, without those of which nothing is known."""
    lights = {}
    for name, shown in LIGHTS.items():
        there = {part: parts[part] for part in shown if part in parts and not _is_left_out(part, parts)}
        if there:
            state = worst(*(part.state for part in there.values()))
            so = {part: found for part, found in there.items() if found.state == state}
            first = next(iter(so.values()))
            # They are all well since the last of them is; what is wrong is told with its own time.
            since = max((part.since for part in so.values() if part.since is not None), default=None)
            detail = "; ".join(so[part].detail for part in RECEIVING if part in so) or first.detail
            lights[name] = Light(state=state, detail=detail, since=since if state == "ok" else first.since)
    database = parts.get("database")
    return lights if database is None or database.state != "failed" else _while_nothing_is_saved(lights)


def _while_nothing_is_saved(lights: Mapping[str, Light]) -> Mapping[str, Light]:
    """Return the lights with what the database keeps from being true or known of them.

    Deliveries are answered 503; a poller can neither say that it is there, nor what FreeScout answers.
    """
    shown, pull = dict(lights), lights.get("pull")
    if (push := lights.get("push")) is not None and push.state == "ok":
        shown["push"] = msgspec.structs.replace(push, detail=f"{push.detail}; the database saves none of them")
    if pull is not None and pull.state == "failed":
        shown["pull"] = msgspec.structs.replace(pull, detail=f"{pull.detail}; the database saves none")
        if lights["desk"].state == "off":
            del shown["desk"]
    return shown


def _is_left_out(name: str, parts: Mapping[str, Part]) -> bool:
    """Whether a part is an endpoint that is off on purpose while another takes deliveries."""
    others = (parts[other] for other in RECEIVING if other != name and other in parts)
    return name in RECEIVING and parts[name].state == "off" and any(part.state != "off" for part in others)


def judge_all(parts: Mapping[str, Part], standing: Standing | None, *, answered: int | None = None) -> Headline:
    """Judge everything in one sentence.

    Args:
        parts: How each part is, by its name.
        standing: What stands in the database; None when it cannot be read.
        answered: How many tickets do not read none; None when they have not been counted lately.
    """
    name = most_important(parts)
    if standing is None:
        return _without_a_database(parts.get("database"))
    until = vouched_until(standing.lease, standing.now)
    if until is not None and until > standing.now:
        if name is not None:
            goes_on = standing.poller == "leads" and not any(
                _is_wrong(parts.get(each)) for each in ("database", "desk")
            )
            return _right_so_far("Right so far, but ", parts, name, until, passes_go_on=goes_on)
        if standing.poller == "stepped_down" and standing.retired_at is None:
            there: Sequence[str | datetime] = ["Answers can be trusted until ", until, ", and no poller runs."]
            return Headline(state="notice", sentence=there, part="poller")
        return Headline(state="ok", sentence=["Answers can be trusted until ", until, "."])
    read_none = "every ticket reads none" if answered == 0 else "tickets without a recent delivery read none"
    if standing.poller == "leads":
        return _without_a_lease(parts, standing, name, read_none)
    return _without_a_poller(parts, standing, name, read_none)


def _without_a_database(database: Part | None) -> Headline:
    since = _at(None if database is None else database.since)
    why = "PostgreSQL does not answer" if database is None else brief(database)
    sentence = [*since, "every application reads none, and no delivery is saved: ", why, "."]
    return Headline(state="failed", sentence=sentence, part="database")


def _without_a_lease(parts: Mapping[str, Part], standing: Standing, name: str | None, read_none: str) -> Headline:
    if name is None:
        sentence = "The first pass is under way: tickets that it has not read yet read none."
        return Headline(state="notice", sentence=[sentence], part="lease")
    cause = "desk" if name == "lease" and _is_wrong(parts.get("desk")) else name
    why = brief(parts[cause])
    if standing.lease.lease_until is None:
        return Headline(state="failed", sentence=["No pass has been complete yet: ", why, "."], part=cause)
    ended = vouched_until(standing.lease, standing.now) or standing.now
    return Headline(state="failed", sentence=[*_at(ended), read_none, ": ", why, "."], part=cause)


def _without_a_poller(parts: Mapping[str, Part], standing: Standing, name: str | None, read_none: str) -> Headline:
    if name is not None and _is_wrong(parts.get("poller")):
        ended = vouched_until(standing.lease, standing.now) or parts["poller"].since
        sentence = [*_at(ended), read_none, ": ", brief(parts[name]), "."]
        return Headline(state="failed", sentence=sentence, part=name)
    if name is not None:
        return _right_so_far("Push alone, without a poller; and ", parts, name)
    if standing.retired_at is not None:
        sentence = ["Push alone is meant: a ticket is answered while its last delivery is recent, and else reads none."]
        return Headline(state="ok", sentence=sentence)
    return Headline(state="notice", sentence=[f"No poller is running: {read_none}."], part="poller")


def _right_so_far(
    begin: str, parts: Mapping[str, Part], name: str, until: datetime | None = None, *, passes_go_on: bool = False
) -> Headline:
    part = parts[name]
    since: Sequence[str | datetime] = ["since ", part.since, " "] if part.since is not None else []
    sentence = [begin, *since, brief(part), "."]
    return Headline(state=part.state, sentence=sentence, part=name, until=until, passes_go_on=passes_go_on)


def most_important(parts: Mapping[str, Part]) -> str | None:
    """Return the part that is to be mended first; None: nothing is wrong."""
    wrong = [name for name in _BY_IMPORTANCE if _is_wrong(parts.get(name))]
    return next((name for name in wrong if parts[name].state == "failed"), wrong[0] if wrong else None)


def brief(part: Part) -> str:
    """Return the fewest words for a part."""
    return part.brief or part.detail


def _is_wrong(part: Part | None) -> bool:
    return part is not None and part.state in WRONG


def _at(moment: datetime | None) -> Sequence[str | datetime]:
    return ["Since an unknown time "] if moment is None else ["Since ", moment, " "]
