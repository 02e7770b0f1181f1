"""What a check of ``doctor`` says: green, or yellow or red with the next step in one line."""

from typing import Literal

import msgspec

Colour = Literal["green", "yellow", "red"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at; ``next_step`` is empty when there is none."""

    name: str
    state: Colour
    detail: str
    next_step: str = ""


def green(name: str, detail: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(name=name, state="green", detail=detail)


def yellow(name: str, detail: str, next_step: str = "") -> Check:
    """Return a check whose finding may be meant so, or will pass."""
    return Check(name=name, state="yellow", detail=detail, next_step=next_step)


def red(name: str, detail: str, next_step: str) -> Check:
    """Return a check that found something wrong."""
    return Check(name=name, state="red", detail=detail, next_step=next_step)
