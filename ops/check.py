"""What a check of ``doctor`` says: green, or yellow or red with the next step in one line."""

from typing import Literal

import msgspec

from db.condition import WRONG, Condition
from db.runbook import remedy

Colour = Literal["green", "yellow", "red"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at; ``next_step`` is empty when there is none."""

    name: str
    state: Colour
    detail: str
    next_step: str = ""
    runbook: str = ""
    """Where the runbook says what to do, such as ``docs/runbook.md#poller``; empty unless it is red."""
    passes: bool = False
    """Yellow, and will turn green by itself: ``doctor --wait`` waits for it."""

    @property
    def what_to_do(self) -> str:
        """The next step, and where the runbook has more; empty when there is neither."""
        return f"{self.next_step} ({self.runbook})".strip() if self.runbook else self.next_step


def green(name: str, detail: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(name=name, state="green", detail=detail)


def yellow(name: str, detail: str, next_step: str = "", *, passes: bool = False) -> Check:
    """Return a check whose finding may be meant so or, if it ``passes``, will turn green by itself."""
    return Check(name=name, state="yellow", detail=detail, next_step=next_step, passes=passes)


def red(name: str, detail: str, next_step: str) -> Check:
    """Return a check that found something wrong."""
    return Check(name=name, state="red", detail=detail, next_step=next_step, runbook=remedy(name))


def of_condition(name: str, condition: Condition) -> Check:
    """Return a check of how a part of the service is."""
    colour: Colour = "red" if condition.state in WRONG else "green" if condition.state == "ok" else "yellow"
    return Check(
        name=name,
        state=colour,
        detail=condition.detail,
        next_step=condition.next_step,
        passes=condition.passes,
        runbook=remedy(name) if colour == "red" else "",
    )
