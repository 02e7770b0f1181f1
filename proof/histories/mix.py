"""Which faults a history has."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from proof.histories.cache import CacheFaults

THEMES: Mapping[str, Mapping[str, float]] = {
    "clock": {"clock": 0.4, "late": 0.4, "twice": 0.3, "away": 0.03},
    "hour": {"burst": 0.8, "slow": 0.5, "lost": 0.7, "again": 0.5},
    "alone": {"away": 0.1, "late": 0.4, "twice": 0.3, "api": 0.2, "replay": 6},
    "deletions": {"mailbox": 0.03, "lost": 0.4, "late": 0.3, "burst": 0.8, "slow": 0.5},
    "fleeting": {"fleeting": 0.5, "late": 0.6, "lost": 0.5, "slow": 0.5},
    "pollers": {"slow": 0.5, "lost": 0.3, "burst": 0.5},
}
"""What a history may be about: these of its faults are frequent, and the rest is drawn as ever."""
THEMED = 0.3
"""The share of histories that are about one thing."""


@dataclass
class Mix:
    """Which faults a history has, and how often; a seed draws most of them as zero."""

    theme: str | None
    lost: float
    """A delivery is never sent."""
    late: float
    """A delivery reaches us up to 90 minutes later, after FreeScout has given it up for this time."""
    twice: float
    """A delivery comes once more, later."""
    unanswered: float
    """A delivery is taken, and FreeScout never hears of it."""
    reordered: float
    replay: float
    """A delivery that was taken is sent once more."""
    api: float
    """A request to the API fails."""
    slow: float
    """An answer of the API takes long."""
    cache: CacheFaults
    crash: float
    """A process of ours is killed."""
    away: float
    """The poller is away for up to an hour."""
    clock: float
    """The desk's clock jumps."""
    keys: float
    """The desk's APP_KEY changes."""
    mailbox: float
    """A mailbox is deleted."""
    fleeting: float
    """What happens is that somebody writes, and is deleted for ever."""
    again: float
    """What happens, happens to the ticket with the latest date."""
    burst: float
    """Several things happen within one second."""

    @classmethod
    def draw(cls, rng: random.Random, theme: str | None = None) -> Self:
        """Draw a mix, about ``theme`` if there is one."""

        def some(most: float, share: float = 0.5) -> float:
            return rng.uniform(0, most) if rng.random() < share else 0.0

        drawn = rng.choice(list(THEMES)) if rng.random() < THEMED else None
        mix = cls(
            theme=theme or drawn,
            lost=some(0.5),
            late=some(0.3),
            twice=some(0.3),
            unanswered=some(0.2),
            reordered=some(0.5),
            replay=1.5,
            api=some(0.1),
            slow=some(0.3),
            cache=CacheFaults(away=some(0.02, 0.3), error=some(0.02, 0.3), death=some(0.01, 0.3)),
            crash=some(0.04, 0.4),
            away=some(0.03, 0.4),
            clock=some(0.05, 0.3),
            keys=some(0.03, 0.3),
            mailbox=some(0.02, 0.3),
            fleeting=0.03,
            again=0.0,
            burst=some(0.8),
        )
        for name, often in THEMES.get(mix.theme or "", {}).items():
            setattr(mix, name, often)
        return mix
