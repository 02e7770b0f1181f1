"""How far a rotation of FreeScout's webhook key has come, and whether the old key may go. Pure.

FreeScout signs each attempt with the key of that moment (measured): a delivery that failed under the old key comes
again at the next minute, under the new one. So the old key has to stay only while FreeScout itself may still be at work
with it: for some minutes after the last delivery that it signed, and after the first that the new one did.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from db.journal import KeyUse
from freescout_audit.endpoints import AUDIT

AT_WORK = timedelta(minutes=5)
"""An attempt takes 30 s at the most and is repeated at the next minute; the rest is for a FreeScout that is slow."""

State = Literal["no_key", "single", "removed_early", "not_begun", "running", "over"]
Role = Literal["current", "previous", "not accepted", "unnamed"]


class KeyStanding(msgspec.Struct, frozen=True, kw_only=True):
    """A key: what it is accepted as now, and what it signed; ``fingerprint`` None: deliveries that name no key."""

    fingerprint: str | None
    role: Role
    deliveries: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """How far the rotation of some endpoints' key has come; the message names the next step."""

    now: datetime
    state: State
    message: str
    old_may_go_at: datetime | None
    """When the old key may go if nothing signed with it comes before; None: not known yet, or there is none."""
    keys: Sequence[KeyStanding]
    """The key used last first, unused ones at the end."""
    endpoints: Sequence[str]
    """Which deliveries are counted: endpoints that accept the same keys are judged together."""

    @property
    def at_rest(self) -> bool:
        """Whether nothing has to be waited for: one key is accepted, or the old one may go."""
        return self.state in {"single", "over"}


class Rotations(Rotation, frozen=True, kw_only=True):
    """What ``rotate status --json`` says: the audit path's, and beside it that of an endpoint with keys of its own."""

    others: Sequence[Rotation] = ()

    @property
    def all_at_rest(self) -> bool:
        """Whether nothing has to be waited for at any endpoint."""
        return self.at_rest and all(other.at_rest for other in self.others)


def judge_rotation(
    uses: Sequence[KeyUse], accepted: Sequence[str], *, now: datetime, endpoints: Sequence[str] = (AUDIT,)
) -> Rotation:
    """Tell how far a rotation has come.

    Args:
        uses: What the journal knows of each key.
        accepted: The fingerprints of the keys accepted now, the current one first.
        now: The database's clock.
        endpoints: Those that accept these keys, and that the uses are of.
    """
    by_name = {use.fingerprint: use for use in uses}
    state, message, at = _judge(by_name, accepted, now)
    unused = [KeyStanding(fingerprint=name, role=_role(name, accepted)) for name in accepted if name not in by_name]
    return Rotation(
        now=now,
        state=state,
        message=message,
        old_may_go_at=at,
        keys=[*(_standing(use, accepted) for use in uses), *unused],
        endpoints=endpoints,
    )


def _judge(
    uses: dict[str | None, KeyUse], accepted: Sequence[str], now: datetime
) -> tuple[State, str, datetime | None]:
    if not accepted:
        return "no_key", "no webhook key is configured: deliveries are answered 503", None
    lately = max((use.last_at for name, use in uses.items() if name != accepted[0]), default=None)
    if len(accepted) == 1:
        refused = max((use.last_at for use in uses.values() if _is_unaccepted(use, accepted)), default=None)
        return (*_judge_one_key(uses.get(accepted[0]), refused), None)
    return _judge_two_keys(uses.get(accepted[0]), lately, now)


def _judge_one_key(current: KeyUse | None, refused: datetime | None) -> tuple[State, str]:
    """Judge by when a key that is not accepted any more signed a delivery last."""
    if refused is None or (current is not None and current.last_at > refused):
        return "single", "one key is accepted; no rotation is under way"
    message = (
        "the last delivery was signed with a key that is not accepted any more: if FreeScout still has it, its"
        " deliveries are answered 401, so put it back as the previous key until one signed with the new key has come"
        " (webhook test)"
    )
    return "removed_early", message


def _judge_two_keys(new: KeyUse | None, lately: datetime | None, now: datetime) -> tuple[State, str, datetime | None]:
    """Judge by what the new key signed, and when any other signed a delivery last."""
    if new is None:
        message = (
            "no delivery was signed with the new key yet: FreeScout's key changes with its APP_KEY, so change that"
            " (FreeScout has to be restarted with it), and keep both keys"
        )
        return "not_begun", message, None
    at = max(new.first_at, lately or new.first_at) + AT_WORK
    if lately is not None and lately > new.last_at:
        return "running", "the last delivery was signed with the old key: both keys have to stay", at
    if now < at:
        message = f"the new key signs; the old one may go at {_time(at)}, if nothing signed with it comes before"
        return "running", message, at
    return "over", "the old key may go: remove the previous key from the vault, or from the environment", at


def _is_unaccepted(use: KeyUse, accepted: Sequence[str]) -> bool:
    return use.fingerprint is not None and use.fingerprint not in accepted


def _standing(use: KeyUse, accepted: Sequence[str]) -> KeyStanding:
    return KeyStanding(
        fingerprint=use.fingerprint,
        role=_role(use.fingerprint, accepted),
        deliveries=use.deliveries,
        first_at=use.first_at,
        last_at=use.last_at,
    )


def _role(name: str | None, accepted: Sequence[str]) -> Role:
    if name is None:
        return "unnamed"
    if name not in accepted:
        return "not accepted"
    return "current" if name == accepted[0] else "previous"


def _time(at: datetime) -> str:
    return at.strftime("%H:%M UTC")
