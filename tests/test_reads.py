"""What readers get: the view, the function, the reasons; and `none` whenever nobody can vouch."""

import asyncio
import socket
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import db
from db.database import Database
from db.reads import Reading, read_from
from db.tickets import HOLDINGS
from db.url import normalise
from freescout_audit.rule import Lease, Row, expiry
from support.databases import Clock
from support.examples import NOON, at, lease, row
from support.grants import MAY_NOT, may_make_roles

EPOCH = datetime.fromisoformat("1970-01-01T00:00:00Z")


async def put(sql: asyncpg.Connection, held: Row) -> None:
    fields = msgspec.structs.asdict(held)
    places = ", ".join(f"${number + 1}" for number in range(len(fields)))
    await sql.execute(f"INSERT INTO freescout_ticket ({', '.join(fields)}) VALUES ({places})", *fields.values())


async def vouch(sql: asyncpg.Connection, standing: Lease) -> None:
    await sql.execute(
        "UPDATE freescout_lease SET (complete_through, lease_until, renewed_by_pass, cache_lease, cache_ttl)"
        " = ($1, $2, $3, $4, $5)",
        standing.complete_through,
        standing.lease_until,
        standing.renewed_by_pass,
        standing.cache_lease,
        standing.cache_ttl,
    )


async def reason(database: Database, ticket_id: int = 7) -> str:
    return (await read_from(database, ticket_id, deadline=5)).reason


async def state(sql: asyncpg.Connection, ticket_id: int | None = 7) -> Any:
    return await sql.fetchval("SELECT freescout_ticket_state($1)", ticket_id)


class TestReasons:
    async def test_a_vouched_answer_is_ok_and_says_until_when(
        self, database: Database, sql: asyncpg.Connection, clock: Clock
    ) -> None:
        await put(sql, row("closed", expires=900))

        reading = await read_from(database, 7, deadline=5)

        assert reading == Reading(ticket_state="closed", reason="ok", expires_at=at(900))
        assert await state(sql) == "closed"

    async def test_nothing_is_known_before_the_first_complete_pass(
        self, database: Database, sql: asyncpg.Connection
    ) -> None:
        assert await reason(database) == "never_synced"
        await vouch(sql, lease(complete=0))
        assert await reason(database) == "miss"
        assert await state(sql) == "none"

    async def test_what_runs_out_is_expired_and_a_lease_brings_it_back(
        self, database: Database, sql: asyncpg.Connection, clock: Clock
    ) -> None:
        await put(sql, row("closed", expires=0))
        assert (await reason(database), await state(sql)) == ("expired", "none")

        await vouch(sql, lease(until=1))
        assert (await reason(database), await state(sql)) == ("ok", "closed")

    async def test_a_disputed_answer_stands_for_its_grace(
        self, database: Database, sql: asyncpg.Connection, clock: Clock
    ) -> None:
        await put(sql, row("closed", disputed=-4))
        await vouch(sql, lease(until=900))
        assert (await reason(database), await state(sql)) == ("ok", "closed")

        await clock.set(at(1))
        assert (await reason(database), await state(sql)) == ("disputed", "none")

    @pytest.mark.parametrize(
        ("held", "why"),
        [
            (row(state="draft"), "unpublished"),
            (row(state="deleted"), "unpublished"),
            (row(None), "unknown"),
            (row(state=None), "unknown"),
            (row(updated=None), "unknown"),
            (row(gone=True), "gone"),
            (row(gone=True, disputed=0), "disputed"),
        ],
    )
    async def test_the_others_are_none(
        self, database: Database, sql: asyncpg.Connection, clock: Clock, held: Row, why: str
    ) -> None:
        await put(sql, held)
        await vouch(sql, lease(complete=0, until=900))

        assert (await reason(database), await state(sql)) == (why, "none")
        shown = await sql.fetch("SELECT ttl_expires FROM freescout_ticket_cache")
        assert [tuple(line) for line in shown] == ([] if held.gone else [(EPOCH,)])

    @pytest.mark.parametrize("ticket_id", [0, -1, 2**63, 2**70])
    async def test_an_id_that_no_ticket_has_is_a_miss(self, database: Database, ticket_id: int) -> None:
        assert await reason(database, ticket_id) == "miss"

    async def test_the_function_never_says_null(self, sql: asyncpg.Connection) -> None:
        assert await state(sql, None) == "none"
        assert await state(sql, 99) == "none"

    async def test_expiry_does_not_wait_for_a_transaction_to_end(self, sql: asyncpg.Connection) -> None:
        """now() stands still inside a transaction; our clock does not."""
        soon = await sql.fetchval("SELECT clock_timestamp() + interval '50 ms'")
        await put(sql, msgspec.structs.replace(row("closed"), expires_at=soon))

        async with sql.transaction():
            while await state(sql) == "closed":
                assert await sql.fetchval("SELECT clock_timestamp()") < soon + timedelta(seconds=5)
            assert await sql.fetchval("SELECT now()") < soon


def rows() -> st.SearchStrategy[Row]:
    seconds = st.integers(-10, 10)
    stamps = st.one_of(seconds, st.sampled_from((-3600.0, 0.5, 1.0, 1.000001, 86400.0)))

    def stamped(held: Row, observed: float, read: float | None, disputed: float | None, expires: float) -> Row:
        return msgspec.structs.replace(
            held,
            observed_at=at(observed),
            truth_at=None if read is None else at(read),
            disputed_at=None if disputed is None else at(disputed),
            grace_until=None if disputed is None else at(disputed + 5),
            expires_at=at(expires),
        )

    held = st.builds(
        row,
        st.sampled_from(("active", "closed", None)),
        st.one_of(st.none(), seconds),
        state=st.sampled_from(("published", "deleted", None)),
        gone=st.booleans(),
    )
    expiries = st.one_of(seconds, st.sampled_from((901.0, 901.000001, 3601.0, 3601.000001, 86400.0)))
    return st.builds(stamped, held, stamps, st.one_of(st.none(), stamps), st.one_of(st.none(), stamps), expiries)


def leases() -> st.SearchStrategy[Lease]:
    seconds = st.integers(-10, 10)
    return st.builds(
        lambda until, renewed, in_force: msgspec.structs.replace(
            lease(complete=0, until=until),
            renewed_by_pass=None if renewed is None else at(renewed),
            cache_lease=in_force[0],
            cache_ttl=in_force[1],
        ),
        st.one_of(st.none(), seconds, st.sampled_from((900.0, 901.0, 901.000001, 86400.0))),
        st.one_of(st.none(), seconds, st.sampled_from((1.0, 1.000001))),
        st.sampled_from(((900.0, 3600.0), (900.0, 60.0), (86400.0, 2592000.0))),
    )


@given(held=rows(), standing=leases())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_view_function_reading_and_rule_agree(
    database: Database, sql: asyncpg.Connection, clock: Clock, held: Row, standing: Lease
) -> None:
    await sql.execute("TRUNCATE freescout_ticket")
    await put(sql, held)
    await vouch(sql, standing)

    expected = expiry(held, standing, NOON)
    reading = await read_from(database, 7, deadline=5)
    shown = await sql.fetchval("SELECT ttl_expires FROM freescout_ticket_cache")

    assert shown == (None if held.gone else expected or EPOCH)
    assert reading.ticket_state == await state(sql)
    assert (reading.reason == "ok") == (expected is not None and expected > NOON)
    assert reading.ticket_state == (held.status if reading.reason == "ok" else "none")


class TestStampsAhead:
    """What was stamped while the database's clock was ahead vouches for nothing until it has come."""

    @pytest.mark.parametrize("stamp", ["observed_at", "truth_at", "disputed_at"])
    async def test_a_row_stamped_more_than_a_second_ahead_is_none(
        self, database: Database, sql: asyncpg.Connection, clock: Clock, stamp: str
    ) -> None:
        await put(sql, msgspec.structs.replace(row("closed", disputed=0), grace_until=at(86405)))
        await vouch(sql, lease(until=900))

        await sql.execute(f"UPDATE freescout_ticket SET {stamp} = $1", at(1))
        assert (await reason(database), await state(sql)) == ("ok", "closed")

        await sql.execute(f"UPDATE freescout_ticket SET {stamp} = $1", at(1.1))
        assert (await reason(database), await state(sql)) == ("expired", "none")

        await clock.set(at(0.1))
        assert (await reason(database), await state(sql)) == ("ok", "closed")

    async def test_a_lease_that_a_pass_of_the_future_renewed_is_over(
        self, database: Database, sql: asyncpg.Connection, clock: Clock
    ) -> None:
        await put(sql, row("closed", expires=0))
        await vouch(sql, msgspec.structs.replace(lease(until=86400 + 900), renewed_by_pass=at(86400)))

        assert (await reason(database), await state(sql)) == ("expired", "none")

    async def test_nothing_is_vouched_for_for_longer_than_the_terms_in_force_allow(
        self, database: Database, sql: asyncpg.Connection, clock: Clock
    ) -> None:
        in_force = msgspec.structs.replace(lease(), cache_lease=900.0, cache_ttl=3600.0)
        await put(sql, row("closed", expires=3700))

        await vouch(sql, in_force)
        assert (await reason(database), await state(sql)) == ("expired", "none")

        await vouch(sql, msgspec.structs.replace(in_force, cache_ttl=86400.0))
        assert (await reason(database), await state(sql)) == ("ok", "closed")

    async def test_what_is_younger_than_the_readers_transaction_is_not_ahead(
        self, sql: asyncpg.Connection, clock: Clock
    ) -> None:
        async with sql.transaction():
            began = await sql.fetchval("SELECT now()")
            later = began + timedelta(seconds=10)
            await clock.set(later)
            held = msgspec.structs.replace(row("closed"), observed_at=later, truth_at=later)
            await put(sql, msgspec.structs.replace(held, expires_at=later + timedelta(seconds=900)))

            assert await state(sql) == "closed"
            assert await sql.fetchval("SELECT ttl_expires > now() FROM freescout_ticket_cache")


class TestFailingClosed:
    async def test_a_database_that_refuses_is_unavailable(self, unused_tcp_port: int) -> None:
        away = Database(normalise(f"postgres://u:p@127.0.0.1:{unused_tcp_port}/x"))

        assert await read_from(away, 7) == Reading(ticket_state="none", reason="unavailable")

        await away.close()

    async def test_a_database_that_does_not_answer_is_unavailable_within_the_deadline(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            away = Database(normalise(f"postgres://u:p@127.0.0.1:{silent.getsockname()[1]}/x"))
            loop = asyncio.get_running_loop()

            began = loop.time()
            readings = await asyncio.gather(*(read_from(away, 7, deadline=0.1) for _ in range(20)))

            assert {reading.reason for reading in readings} == {"unavailable"}
            assert loop.time() - began < 2
            await away.close()

    async def test_a_locked_table_is_unavailable_within_the_deadline_and_fine_afterwards(
        self, database: Database, sql: asyncpg.Connection
    ) -> None:
        await put(sql, row("closed"))
        async with sql.transaction():
            await sql.execute("LOCK TABLE freescout_ticket IN ACCESS EXCLUSIVE MODE")
            assert await read_from(database, 7, deadline=0.1) == Reading(ticket_state="none", reason="unavailable")

        assert (await read_from(database, 7, deadline=5)).reason == "expired"

    async def test_a_connection_that_died_in_the_pool_is_not_lent_again(
        self, database: Database, sql: asyncpg.Connection
    ) -> None:
        assert await reason(database) == "never_synced"
        await sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        while await sql.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
        ):
            pass

        reasons = [await reason(database) for _ in range(3)]

        assert reasons[-1] == "never_synced"
        assert set(reasons) <= {"never_synced", "unavailable"}

    async def test_a_database_that_refuses_us_is_unavailable(self, database: Database, sql: asyncpg.Connection) -> None:
        if not await may_make_roles(sql):
            pytest.skip(MAY_NOT)
        role = f"nobody_{await sql.fetchval('SELECT current_database()')}"
        await sql.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        refused = Database(database.url.set(username=role, password="x"))
        try:
            assert await read_from(refused, 7, deadline=5) == Reading(ticket_state="none", reason="unavailable")
        finally:
            await refused.close()
            await sql.execute(f"DROP ROLE {role}")


class TestReadTicket:
    async def test_it_reads_the_database_of_the_environment(
        self, database_url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", database_url)
        await put(sql, row("closed"))
        await sql.execute("UPDATE freescout_ticket SET expires_at = now() + interval '1 hour'")

        reading = await db.read_ticket(7, deadline=5)

        assert (reading.ticket_state, reading.reason) == ("closed", "ok")
        await db.close_readers()

    async def test_without_a_database_it_is_unavailable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DATABASE_URL", raising=False)

        assert (await db.read_ticket(7)).reason == "unavailable"


async def test_a_transaction_that_keeps_its_snapshot_reads_what_stood_when_it_began(
    sql: asyncpg.Connection, database_url: str
) -> None:
    await put(sql, row("closed"))
    await sql.execute("UPDATE freescout_ticket SET expires_at = now() + interval '1 hour'")
    reader = await asyncpg.connect(database_url)
    for isolation, expected in (("repeatable_read", "closed"), ("read_committed", "spam")):
        await sql.execute("UPDATE freescout_ticket SET status = 'closed'")
        async with reader.transaction(isolation=isolation):
            assert await state(reader) == "closed"
            await sql.execute("UPDATE freescout_ticket SET status = 'spam'")
            assert await state(reader) == expected
    await reader.close()


@pytest.mark.parametrize(
    "query",
    [
        (
            "SELECT ticket_id, status, updated_at, ttl_expires FROM freescout_ticket_cache"
            " ORDER BY updated_at DESC LIMIT 10;"
        ),
        "SELECT ticket_id, status, updated_at FROM freescout_ticket_cache WHERE updated_at < '2020-01-01T00:05:00Z';",
    ],
)
async def test_the_operators_queries_use_an_index(sql: asyncpg.Connection, query: str) -> None:
    await sql.execute(
        "INSERT INTO freescout_ticket (ticket_id, status, state, updated_at, gone)"
        " SELECT id, 'closed', 'published', timestamptz '2020-01-01Z' + id * interval '1 second', id % 10 = 0"
        " FROM generate_series(1, 20000) id"
    )
    await sql.execute("ANALYZE freescout_ticket")

    plan = "\n".join(line[0] for line in await sql.fetch("EXPLAIN " + query))

    assert "freescout_ticket_updated_at" in plan
    assert "Seq Scan on freescout_ticket " not in plan
    assert "Sort" not in plan


async def test_what_is_held_is_counted_by_indexes_alone(sql: asyncpg.Connection) -> None:
    await sql.execute("SET enable_seqscan = off")

    plan = "\n".join(line[0] for line in await sql.fetch(f"EXPLAIN {HOLDINGS}"))

    assert "freescout_ticket_disputed" in plan
    assert "Seq Scan" not in plan
