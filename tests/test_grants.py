"""What db/sql/grants.sql gives to a role that owns nothing: exactly that, on the newest and on an older PostgreSQL."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import count

import asyncpg
import pytest

from db.migrate import migrate
from db.url import normalise
from support.grants import MAY_NOT, granting, may_make_roles, parts, vouch_for
from support.installed_postgres import installed_postgres
from support.processes import ROOT

TICKET = 7
_numbers = count()

_EVERYTHING = """
SELECT 'function ' || oid::regprocedure::text AS what FROM pg_proc
WHERE pronamespace = 'public'::regnamespace AND has_function_privilege($1, oid, 'EXECUTE')
UNION ALL
SELECT concat_ws(' ', privilege, oid::regclass::text)
FROM pg_class, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) privilege
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'm', 'p')
    AND has_table_privilege($1, oid, privilege)
UNION ALL
SELECT 'sequence ' || oid::regclass::text FROM pg_class
WHERE relnamespace = 'public'::regnamespace
    AND CASE WHEN relkind = 'S' THEN has_sequence_privilege($1, oid, 'USAGE, SELECT, UPDATE') END
UNION ALL
SELECT privilege || ' in public' FROM unnest(ARRAY['USAGE', 'CREATE']) privilege
WHERE has_schema_privilege($1, 'public', privilege)
ORDER BY 1
"""
ANYBODY = ["USAGE in public", "function freescout_now()"]
"""What PostgreSQL, and our clock, let every role do."""


@dataclass(frozen=True)
class Place:
    """A migrated database of an ordinary owner, and a role beside it that owns nothing."""

    owner: asyncpg.Connection
    reader: asyncpg.Connection
    role: str

    async def grant(self, part: str) -> None:
        await self.owner.execute(granting(role=self.role)[part])

    async def may(self) -> list[str]:
        rows = await self.owner.fetch(_EVERYTHING, self.role)
        return [row["what"] for row in rows if row["what"] not in ANYBODY]


@pytest.fixture(scope="module", params=["the suite's", "an installed one"])
def server(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """The URL of a database of that name, as a superuser."""
    if request.param == "the suite's":
        yield request.getfixturevalue("postgres")
        return
    with installed_postgres() as url:
        yield lambda name: f"{url}/{name}"


@pytest.fixture
async def place(server: Callable[[str], str]) -> AsyncIterator[Place]:
    admin = await asyncpg.connect(server("postgres"))
    if not await may_make_roles(admin):
        await admin.close()
        pytest.skip(MAY_NOT)
    name = f"grants_{os.getpid()}_{next(_numbers)}"
    owner, role = f"{name}_owner", f"{name}_reader"
    await admin.execute(f"CREATE ROLE {owner} LOGIN PASSWORD 'x' NOCREATEROLE")
    await admin.execute(granting(role=role, password="x")["role"])
    await admin.execute(f"CREATE DATABASE {name} OWNER {owner}")
    try:
        url = normalise(server(name))
        await migrate(url.set(username=owner, password="x"))
        as_owner, as_reader = [
            await asyncpg.connect(host=url.host, port=url.port, user=user, password="x", database=name)
            for user in (owner, role)
        ]
        await vouch_for(as_owner, TICKET)
        yield Place(as_owner, as_reader, role)
        await as_owner.close()
        await as_reader.close()
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.execute(f"DROP ROLE {role}")
        await admin.execute(f"DROP ROLE {owner}")
        await admin.close()


async def test_without_a_grant_a_role_may_do_nothing(place: Place) -> None:
    assert await place.may() == []
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await place.reader.fetchval("SELECT freescout_ticket_state($1)", TICKET)


async def test_who_may_ask_gets_an_answer_and_may_do_nothing_else(place: Place) -> None:
    await place.grant("answer")

    assert await place.reader.fetchval("SELECT freescout_ticket_state($1)", TICKET) == "closed"
    assert await place.may() == ["function freescout_ticket_state(bigint)"]
    for forbidden in (
        "SELECT * FROM freescout_ticket_cache",
        "SELECT * FROM freescout_ticket",
        "SELECT * FROM freescout_delivery",
        "UPDATE freescout_lease SET lease_until = 'infinity'",
        "INSERT INTO freescout_ticket (ticket_id) VALUES (8)",
        "DELETE FROM freescout_ticket",
        "SELECT freescout_read_tickets(ARRAY[7])",
        "SELECT freescout_write_tickets('[]', '{}', '', '[]', '1s')",
        "CREATE FUNCTION public.freescout_ticket_state(text) RETURNS text LANGUAGE sql RETURN 'active'",
        "CREATE TABLE public.mine ()",
        "DROP FUNCTION freescout_ticket_state(bigint)",
        "SET ROLE " + place.role.replace("reader", "owner"),
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await place.reader.execute(forbidden)


async def test_it_is_enough_where_nobody_may_use_the_schema_by_default(place: Place) -> None:
    await place.owner.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    with pytest.raises(asyncpg.UndefinedFunctionError):
        await place.reader.fetchval("SELECT freescout_ticket_state($1)", TICKET)

    await place.grant("answer")

    assert await place.reader.fetchval("SELECT freescout_ticket_state($1)", TICKET) == "closed"


async def test_its_own_search_path_changes_no_answer(place: Place) -> None:
    await place.grant("answer")
    await place.reader.execute("CREATE TEMPORARY TABLE freescout_ticket (LIKE pg_class)")
    await place.reader.execute("SET search_path TO pg_temp, public")

    assert await place.reader.fetchval("SELECT public.freescout_ticket_state($1)", TICKET) == "closed"


async def test_who_may_see_the_view_sees_it_and_no_table(place: Place) -> None:
    await place.grant("answer")
    await place.grant("view")

    assert await place.reader.fetchval("SELECT status FROM freescout_ticket_cache") == "closed"
    assert await place.may() == ["SELECT freescout_ticket_cache", "function freescout_ticket_state(bigint)"]


async def test_who_may_have_the_feed_may_have_nothing_else(place: Place) -> None:
    await place.grant("feed")

    assert await place.reader.fetch("SELECT * FROM freescout_transitions(0)") == []
    await place.reader.execute("SELECT freescout_move_cursor('mine', 0)")
    assert await place.may() == [
        "function freescout_move_cursor(text,bigint)",
        "function freescout_read_cursor(text)",
        "function freescout_transitions(bigint,integer)",
    ]


async def test_who_may_ask_about_moments_may_do_that(place: Place) -> None:
    await place.grant("answer")
    await place.grant("moments")

    assert await place.reader.fetchval("SELECT freescout_ticket_state_at($1, now())", TICKET) == "none"
    assert await place.may() == [
        "function freescout_ticket_state(bigint)",
        "function freescout_ticket_state_at(bigint,timestamp with time zone)",
    ]


async def test_what_was_granted_can_be_taken_back(place: Place) -> None:
    for part in ("answer", "view", "moments", "feed", "nothing"):
        await place.grant(part)

    assert await place.may() == []


async def test_in_a_schema_that_is_closed_no_role_makes_a_function_that_ours_would_run(place: Place) -> None:
    await place.grant("feed")
    ours = "CREATE FUNCTION public.format(text, bigint, bigint) RETURNS text LANGUAGE sql RETURN current_user::text"
    await place.owner.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")  # as PostgreSQL 14 has it
    await place.reader.execute(ours)
    with pytest.raises(asyncpg.InvalidParameterValueError, match=f"^{place.role.removesuffix('_reader')}_owner"):
        await place.reader.fetch("SELECT * FROM freescout_transitions(99999, 1)")
    await place.reader.execute("DROP FUNCTION public.format(text, bigint, bigint)")

    await place.owner.execute(parts()["closed"].splitlines()[-1])

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await place.reader.execute(ours)


async def test_a_role_of_the_file_opens_five_connections_at_the_most(place: Place) -> None:
    limit = await place.owner.fetchval("SELECT rolconnlimit FROM pg_roles WHERE rolname = $1", place.role)

    assert limit == 5


def test_the_runbook_shows_the_statements_of_the_file() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text("utf-8")
    statements = granting(role="audit_writer", password="<password>")

    assert f"```sql\n{statements['role']}\n{statements['answer']}\n```" in runbook
