"""db/sql/grants.sql by its parts, and a ticket to read for who got them."""

import re
from collections.abc import Mapping

import asyncpg

from support.processes import ROOT

FILE = ROOT / "db" / "sql" / "grants.sql"
MAY_NOT = "the role of DATABASE_URL may not make roles"
NAMES = ("closed", "role", "answer", "view", "moments", "feed", "nothing", "everybody")


def parts() -> Mapping[str, str]:
    """The statements of each part, as they stand there, without the comment above them."""
    head, *paragraphs = FILE.read_text("utf-8").split("\n\n")
    assert head.startswith("--")
    statements = (re.sub(r"^--.*\n", "", paragraph, flags=re.MULTILINE).strip() for paragraph in paragraphs)
    return dict(zip(NAMES, statements, strict=True))


def granting(*, role: str, password: str = "") -> Mapping[str, str]:
    """The parts for a role."""
    return {name: text.replace("audit_writer", role).replace("<password>", password) for name, text in parts().items()}


async def vouch_for(sql: asyncpg.Connection, ticket_id: int) -> None:
    """Let the cache hold a closed ticket for an hour."""
    await sql.execute(
        "INSERT INTO freescout_ticket"
        " (ticket_id, status, state, updated_at, gone, observed_at, observed_via, expires_at)"
        " VALUES ($1, 'closed', 'published', now(), false, now(), 'webhook', now() + interval '1 hour')",
        ticket_id,
    )


async def may_make_roles(sql: asyncpg.Connection) -> bool:
    """Whether who is connected may make roles; an ordinary owner of a database may not."""
    may: bool = await sql.fetchval("SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user")
    return may
