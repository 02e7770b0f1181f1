"""What a history is made of."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from proof.histories.cache import CacheFaults

THEMES: Mapping[str, Mapping[str, float]] = {
    "clock": {"abrupt": 0.2, "again": 0.5, "fleeting": 0.2, "lost": 0.3, "late": 0.5, "twice": 0.3, "away": 0.06},
    "hour": {
        "midst": 2,
        "burst": 0.5,
        "slow": 0.5,
        "lost": 0.9,
        "again": 0.9,
        "tickets": 6,
        "days": 0.01,
        "page_size": 2,
    },
    "ahead": {
        "late": 0.7,
        "overdue": 0.8,
        "lost": 0.1,
        "again": 0.6,
        "burst": 0.3,
        "tickets": 4,
        "days": 0.01,
        "page_size": 4,
        "away": 0,
        "clock": 0,
        "repeat": 2,
    },
    "alone": {"away": 0.1, "late": 0.4, "twice": 0.3, "api": 0.2, "replay": 6},
    "back": {"clock": 0.15, "back": 1, "turnover": 0.7, "lost": 0.7, "tickets": 6, "days": 0.1, "page_size": 4},
    "abrupt": {
        "midst": 2,
        "abrupt": 0.5,
        "clock": 0,
        "back": 1,
        "turnover": 0.7,
        "lost": 0.9,
        "burst": 0,
        "tickets": 8,
        "days": 0.1,
        "page_size": 4,
    },
    "deletions": {
        "midst": 3,
        "turnover": 1,
        "dense": 0.3,
        "mailbox": 0.01,
        "lost": 0.9,
        "burst": 0,
        "tickets": 8,
        "days": 0.3,
        "page_size": 6,
    },
    "early": {"midst": 3, "turnover": 1, "lost": 0.9, "burst": 0, "tickets": 8, "days": 0.3, "page_size": 6},
    "cached": {"cached": 1, "lost": 0.6, "late": 0.3, "again": 0.4, "turnover": 0.5, "tickets": 5, "api": 0},
    "capped": {
        "capped": 1,
        "burst": 0.6,
        "lost": 0.9,
        "dense": 0.6,
        "turnover": 0.2,
        "tickets": 9,
        "days": 0.01,
        "page_size": 5,
    },
    "dropped": {"dropped": 0.4, "burst": 0.9, "lost": 0.9, "dense": 0.7, "tickets": 8, "days": 0.01, "page_size": 2},
    "poison": {"poison": 0.7, "lost": 0.8, "again": 0.5, "turnover": 0.1, "tickets": 8, "days": 0.3, "page_size": 4},
    "fleeting": {"fleeting": 0.7, "late": 0.7, "lost": 0.3, "tickets": 2, "page_size": 6},
    "peek": {
        "peek": 1,
        "across": 1,
        "dense": 0.9,
        "slow": 0.3,
        "lost": 0.9,
        "burst": 0,
        "tickets": 3,
        "days": 0.01,
        "page_size": 6,
    },
    "push": {
        "unpolled": 1,
        "late": 0.5,
        "twice": 0.2,
        "again": 0.4,
        "burst": 0.6,
        "lost": 0.05,
        "doomed": 0.3,
        "quiet": 0.1,
        "known": 0.3,
        "tickets": 5,
        "days": 30,
    },
    "dates": {"dates": 0.15, "lost": 0.7, "burst": 0.5, "tickets": 4},
    "ours": {"ours": 0.2, "lost": 0.8, "slow": 0.5, "tickets": 7, "page_size": 3, "clock": 0, "crash": 0},
    "pollers": {"dense": 0.7, "slow": 0.5, "lost": 0.7, "burst": 0.5, "tickets": 3, "days": 0.01, "page_size": 6},
    "overtaken": {
        "overtake": 2,
        "lost": 0.9,
        "burst": 0,
        "api": 0,
        "clock": 0,
        "tickets": 8,
        "days": 0.3,
        "page_size": 4,
    },
    "past": {
        "rewind": 2,
        "clock": 0,
        "again": 0.8,
        "fleeting": 0.3,
        "burst": 0,
        "lost": 0.1,
        "late": 0.2,
        "tickets": 3,
        "days": 0.01,
        "page_size": 6,
    },
    "race": {"glance": 3, "again": 0.9, "lost": 0, "late": 0, "tickets": 4, "days": 0.01, "page_size": 6},
    "rewound": {
        "cached": 1,
        "peek": 1,
        "clock": 0.1,
        "back": 1,
        "again": 0.8,
        "lost": 0.7,
        "api": 0,
        "tickets": 4,
        "days": 0.01,
    },
    "nameless": {
        "midst": 1.5,
        "imported": 0.7,
        "lost": 0.9,
        "turnover": 0.6,
        "burst": 0,
        "api": 0,
        "clock": 0,
        "tickets": 7,
        "days": 0.3,
        "page_size": 4,
    },
    "parts": {
        "midst": 2,
        "fails": 0.25,
        "crowd": 0.7,
        "burst": 0.1,
        "lost": 0.9,
        "tickets": 14,
        "days": 0.01,
        "page_size": 16,
    },
}
"""What a history may be about: these are as given, and the rest is drawn as ever."""
THEMED = 0.3
"""The share of histories that are about one thing."""


@dataclass
class Mix:
    """What a desk a history begins with, which faults it has, and how often; a seed draws most of them as zero."""

    theme: str | None
    tickets: int
    """How many tickets there are when it begins."""
    days: float
    """How many days old they are at the most."""
    page_size: int
    """Conversations in one list request, and questions that may be open at once."""
    lost: float
    """A delivery is never sent."""
    late: float
    """A delivery reaches us up to 90 minutes later, after FreeScout has given it up for this time."""
    overdue: float
    """A late one takes an hour or more."""
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
    unpolled: float
    """Play without a poller until the faults stop: push is all there is."""
    clock: float
    """The desk's clock jumps."""
    peek: float
    """The poller peeks as soon as it may."""
    across: float
    """A peek is answered before a pass, and written in the middle of it, about a ticket that comes and goes."""
    midst: float
    """People act before a pass, and once more in the middle of it."""
    glance: float
    """People act in the middle of a peek, and are told of before it is written."""
    rewind: float
    """People act before and after the desk's clock is set back, and passes see it before anything tells of it."""
    abrupt: float
    """It jumps right after something has happened."""
    back: float
    """It jumps back, by an hour or two, and somebody writes at once."""
    keys: float
    """The desk's APP_KEY changes."""
    mailbox: float
    """A mailbox is deleted."""
    dates: float
    """An answer of the API bears a ``Date`` that is far from any clock."""
    ours: float
    """PostgreSQL's clock jumps far ahead, or comes back."""
    fleeting: float
    """What happens is that somebody writes, and is deleted for ever."""
    crowd: float
    """What happens is that all tickets change within one second."""
    quiet: float
    """What happens is a note on the ticket that has been at rest the longest."""
    known: float
    """A pass has been made before anything happens."""
    doomed: float
    """What happens is that a ticket changes twice in one second, once more, and is deleted for ever."""
    turnover: float
    """What happens is that a ticket is deleted for ever, or one comes that bears the date of the oldest."""
    dense: float
    """The time that passes is a second at the most."""
    again: float
    """What happens, happens to the ticket with the latest date."""
    burst: float
    """Several things happen within one second."""
    cached: float = 0.0
    """A cache stands before the desk, and gives its answers again."""
    capped: float = 0.0
    """The desk gives fewer rows a page than are asked for."""
    dropped: float = 0.0
    """A proxy drops a parameter of a list request."""
    poison: float = 0.0
    """A ticket makes every list with it fail."""
    imported: float = 0.0
    """One that makes lists fail has just come in before a pass, as old as the oldest; another is deleted for ever."""
    fails: float = 0.0
    """A list of several rows answers 500, for no reason that comes again."""
    overtake: float = 0.0
    """One ticket is deleted for ever and one comes, and a second pass begins while a first one reads."""
    repeat: float = 0.0
    """People act before and after the clocks go back, and passes read what came of it before anything tells of it."""

    @classmethod
    def draw(cls, rng: random.Random, theme: str | None = None) -> Self:
        """Draw a mix, about ``theme`` if there is one."""

        def some(most: float, share: float = 0.5) -> float:
            return rng.uniform(0, most) if rng.random() < share else 0.0

        drawn = rng.choice(list(THEMES)) if rng.random() < THEMED else None
        mix = cls(
            theme=theme or drawn,
            tickets=rng.randint(2, 7),
            days=rng.choice((0.01, 1, 30)),
            page_size=rng.randint(2, 6),
            lost=some(0.5),
            late=some(0.3),
            overdue=0.0,
            twice=some(0.3),
            unanswered=some(0.2),
            reordered=some(0.5),
            replay=1.5,
            api=some(0.1),
            slow=some(0.3),
            cache=CacheFaults(away=some(0.02, 0.3), error=some(0.02, 0.3), death=some(0.01, 0.3)),
            crash=some(0.04, 0.4),
            away=some(0.03, 0.4),
            unpolled=0.0,
            clock=some(0.05, 0.3),
            peek=some(0.5),
            across=0.0,
            midst=0.0,
            glance=0.0,
            rewind=0.0,
            abrupt=0.0,
            back=0.0,
            keys=some(0.03, 0.3),
            mailbox=some(0.02, 0.3),
            dates=0.0,
            ours=0.0,
            fleeting=0.03,
            dense=0.0,
            crowd=0.0,
            quiet=0.0,
            known=0.7,
            doomed=0.0,
            turnover=0.0,
            again=0.0,
            burst=some(0.8),
        )
        for name, often in THEMES.get(mix.theme or "", {}).items():
            setattr(mix, name, often)
        return mix
