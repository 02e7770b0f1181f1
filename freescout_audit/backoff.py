"""How long to wait before something that failed is tried again: one policy for desk, questions and vault. Pure."""

import random
from collections.abc import Callable

Chance = Callable[[float, float], float]
"""Returns a number from the first to the second."""


def backoff(failures: int, *, first: float, longest: float, chance: Chance = random.uniform) -> float:
    """Return the seconds to wait after so many failures in a row: doubled with each, and shortened by chance.

    Chance takes up to half of it away, so that processes that failed together do not come back together.

    Args:
        failures: How often it has failed in a row, at least once.
        first: The longest wait after the first failure, in seconds.
        longest: The longest wait ever, in seconds.
        chance: Draws from a range; a test passes one that it knows.
    """
    doubled = first * 2.0 ** min(failures - 1, 64)
    return min(doubled, longest) * chance(0.5, 1)
