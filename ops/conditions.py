"""What stands in the database, as checks of ``doctor`` and ``status``, and whether it can be written."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import asyncpg
import msgspec

from db.answers import DROPPED, read_ahead, read_answers
from db.condition import Condition, judge, judge_pushes
from db.database import Database
from db.journal import try_to_write
from db.refusals import explain
from db.standing import Standing, is_standby
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.words import ago
from ops.check import Check, green, of_condition, red, yellow

_DAY = timedelta(days=1)
_LOOK = "look into PostgreSQL's log"
_REPEATED_HOUR = (
    "in the hour that daylight saving repeats, a desk whose standard time is UTC or ahead of it (Berlin, London,"
    " Sydney) dates changes an hour late, and they read none until it is over"
)


def stands(standing: Standing) -> list[Check]:
    """Judge poller, lease and desk, as readiness does, and whether push and pull are silent both."""
    conditions = judge(standing)
    if standing.poller == "leads":
        silent = Condition(state="ok", detail="at least one of push and pull is working")
        if standing.silent_since is not None:
            silent = conditions["desk"]
        conditions["silence"] = silent
    if conditions["poller"].state == "off":
        with_hour = f"{conditions['poller'].detail}; {_REPEATED_HOUR}"
        conditions["poller"] = msgspec.structs.replace(conditions["poller"], detail=with_hour)
    if conditions["desk"].state == "off":
        del conditions["desk"]  # it was asked above
    return [of_condition(name, condition) for name, condition in conditions.items()]


async def judge_answers(database: Database, endpoints: Sequence[str]) -> Mapping[str, Condition]:
    """Judge how deliveries come in; ``endpoints`` are those that are on."""
    return judge_pushes(await read_answers(database), await read_ahead(database), endpoints)


async def try_writing(database: Database) -> Check:
    """Write what a delivery would, and roll it back."""
    name = "writing"
    try:
        if await is_standby(database):
            return red(name, "the database is a standby, which lets us read only", "name the primary in DATABASE_URL")
        await try_to_write(database, keep=False)
    except asyncpg.PostgresError as error:
        said = explain(error) or DatabaseUnavailableError(f"PostgreSQL raises {type(error).__name__}", _LOOK)
        return red(name, said.problem, said.next_step)
    except DatabaseUnavailableError as error:
        return red(name, error.problem, error.next_step)
    return green(name, "a delivery could be saved (tried, and rolled back)")


async def look_at_the_log(database: Database) -> Check:
    """Tell of lines that could not be written."""
    dropped = (await read_answers(database)).get(DROPPED)
    now = await database.now()
    if dropped is None or now - dropped.last_at > _DAY:
        return green("log", "no line was dropped in the last 24 h")
    return yellow(
        "log",
        f"{dropped.answers:,} lines could not be written, the last {ago(dropped.last_at, now)}",
        "what reads the processes' output is too slow or has stopped; look at the log drain",
    )
