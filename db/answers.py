"""What requests were answered, as counts: one row a kind, so that no sender can fill the database."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from db import schema
from db.database import Database
from freescout_audit.endpoints import AUDIT, ENDPOINTS, name_at

VERIFIED = "verified"
"""The kind of every request to the audit path that an accepted key had signed; ``verified_rbac`` is RV-4's.

All other kinds but `DROPPED` are refusals.
"""
DROPPED = "log_line_dropped"
"""Not a request: a log line that could not be written."""
LIKE_FREESCOUTS = "unverified_like_freescouts"
"""The kind of a refused request that has FreeScout's form: its event, and a signature of SHA-1's length.

It is the audit path's; ``unverified_like_freescouts_rbac`` is RV-4's. The endpoints may have keys of their own, so what
is verified at one says nothing of what is refused at another.
"""
NO_REFUSALS = frozenset({*(name_at(endpoint, VERIFIED) for endpoint in ENDPOINTS), DROPPED})
"""The kinds that are no refusals."""

_answer = schema.answer.c


class AnswerTally(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one kind: how many, and when the first and the last came (UTC)."""

    answers: int
    first_at: datetime
    last_at: datetime
    key_fingerprint: str | None


class NewAnswers(msgspec.Struct, kw_only=True):
    """What one process has answered of a kind since it last said so; how many seconds ago the first and the last."""

    answers: int
    first_ago: float
    last_ago: float
    key_fingerprint: str | None = None


async def add_answers(database: Database, counted: Mapping[str, NewAnswers]) -> None:
    """Add what one process has answered.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away or not migrated; the same everywhere below.
    """
    if not counted:
        return
    rows = [
        {
            "kind": kind,
            "answers": each.answers,
            "first_at": schema.now - timedelta(seconds=each.first_ago),
            "last_at": schema.now - timedelta(seconds=each.last_ago),
            "key_fingerprint": each.key_fingerprint,
        }
        for kind, each in sorted(counted.items())
    ]
    adding = insert(schema.answer).values(rows)
    said = adding.excluded
    async with database.connection() as connection:
        await connection.execute(
            adding.on_conflict_do_update(
                index_elements=[_answer.kind],
                set_={
                    "answers": _answer.answers + said.answers,
                    "last_at": func.greatest(_answer.last_at, said.last_at),
                    "key_fingerprint": func.coalesce(said.key_fingerprint, _answer.key_fingerprint),
                },
            )
        )


async def read_answers(database: Database) -> Mapping[str, AnswerTally]:
    """Read what requests were answered, by kind."""
    async with database.connection() as connection:
        rows = await connection.rows(select(schema.answer).order_by(_answer.kind))
    return {row.pop("kind"): AnswerTally(**row) for row in rows}


def verified_at(answers: Mapping[str, AnswerTally], endpoint: str) -> AnswerTally | None:
    """Return what was verified at an endpoint; None: nothing ever was."""
    return answers.get(name_at(endpoint, VERIFIED))


def refusals_of(answers: Mapping[str, AnswerTally]) -> dict[str, AnswerTally]:
    """Return what was refused, by kind."""
    return {kind: tally for kind, tally in answers.items() if kind not in NO_REFUSALS}


def refused_since(answers: Mapping[str, AnswerTally], endpoint: str = AUDIT) -> AnswerTally | None:
    """Return an endpoint's refusals that look like FreeScout's if nothing was verified there since the last of them."""
    refused, verified = answers.get(name_at(endpoint, LIKE_FREESCOUTS)), verified_at(answers, endpoint)
    if refused is None or (verified is not None and verified.last_at >= refused.last_at):
        return None
    return refused


class Ahead(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries that were not believed since they are dated ahead of FreeScout's clock as we know it."""

    deliveries: int
    seconds: float
    """How far ahead of our clock the middle one is."""


_AMONG, _ENOUGH = 10, 5
_LATELY = timedelta(hours=1)


async def read_ahead(database: Database) -> Ahead | None:
    """Return what is ahead if that is so of most of the newest deliveries, as when no poller measures the clock."""
    delivery = schema.delivery.c
    # Without a condition, so that no more than these are read: a quiet desk has none of the last hour.
    newest = (
        select(delivery.received_at, delivery.updated_at, delivery.reason)
        .order_by(delivery.delivery_id.desc())
        .limit(_AMONG)
        .subquery()
    )
    ahead = func.extract("epoch", newest.c.updated_at - newest.c.received_at)
    query = select(
        func.count().label("deliveries"), func.percentile_cont(0.5).within_group(ahead).label("seconds")
    ).where(newest.c.reason == "from_the_future", newest.c.received_at > schema.now - _LATELY)
    async with database.connection() as connection:
        (row,) = await connection.rows(query)
    return Ahead(deliveries=row["deliveries"], seconds=float(row["seconds"])) if row["deliveries"] >= _ENOUGH else None
