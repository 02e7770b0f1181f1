"""The schema stands in one place: `db/schema.py` and `db/sql/`. The migrations lead to exactly that."""

from collections.abc import AsyncIterator, Callable, Sequence

import asyncpg
import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Table
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from db import schema
from db.definitions import DEFINITIONS, SQL
from db.journal import Entry
from db.url import normalise
from freescout_audit.rule import Lease, Row

CATALOGUES = {
    "columns": """
        SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull, attidentity::text,
               pg_get_expr(adbin, adrelid), col_description(attrelid, attnum)
        FROM pg_attribute LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
        WHERE attnum > 0 AND NOT attisdropped AND attrelid IN (SELECT oid FROM ours) ORDER BY 1, 2""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE conrelid IN (SELECT oid FROM ours) ORDER BY 1, 2""",
    "indexes": """
        SELECT tablename, indexname, indexdef FROM pg_indexes
        WHERE schemaname = current_schema() AND tablename <> 'freescout_schema' ORDER BY 1, 2""",
    "tables": """
        SELECT relname, relkind::text, reloptions, obj_description(oid, 'pg_class') FROM ours ORDER BY 1""",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = current_schema() ORDER BY 1",
    "functions": """
        SELECT oid::regprocedure::text, pg_get_functiondef(oid), proacl::text, obj_description(oid, 'pg_proc')
        FROM pg_proc WHERE pronamespace = current_schema()::regnamespace ORDER BY 1""",
    "triggers": """
        SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM ours) AND NOT tgisinternal
        ORDER BY 1""",
    "types": """
        SELECT typname, array_agg(attname || ' ' || format_type(atttypid, atttypmod) ORDER BY attnum)
        FROM pg_type JOIN pg_class c ON c.oid = typrelid JOIN pg_attribute ON attrelid = c.oid
        WHERE relkind = 'c' AND relnamespace = current_schema()::regnamespace GROUP BY 1 ORDER BY 1""",
}
OURS = """
    WITH ours AS (
        SELECT * FROM pg_class WHERE relnamespace = current_schema()::regnamespace
        AND relkind IN ('r', 'v') AND relname <> 'freescout_schema'
    )
"""


@pytest.fixture
async def drawn(postgres: Callable[[str], str], database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A database made from `db/schema.py` and `db/sql/`, without a migration."""
    name = database_url.rpartition("/")[2].partition("?")[0] + "_drawn"
    administrator = await asyncpg.connect(postgres("postgres"))
    await administrator.execute(f"CREATE DATABASE {name}")
    engine = create_async_engine(normalise(postgres(name)), poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(schema.metadata.create_all)
    connection = await asyncpg.connect(postgres(name))
    for file in DEFINITIONS:
        await connection.execute((SQL / f"{file}.sql").read_text(encoding="utf-8"))
    yield connection
    await connection.close()
    await administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await administrator.close()


async def test_alembic_finds_nothing_to_migrate(database_url: str) -> None:
    def differences(connection: Connection) -> Sequence[object]:
        options = {
            "version_table": "freescout_schema",
            "compare_server_default": True,
            "compare_type": True,
        }
        found: Sequence[object] = compare_metadata(
            MigrationContext.configure(connection, opts=options), schema.metadata
        )
        return found

    engine = create_async_engine(normalise(database_url), poolclass=NullPool)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


@pytest.mark.parametrize("catalogue", CATALOGUES)
async def test_the_migrations_lead_to_what_the_schema_says(
    catalogue: str, sql: asyncpg.Connection, drawn: asyncpg.Connection
) -> None:
    query = OURS + CATALOGUES[catalogue]

    migrated, said = await sql.fetch(query), await drawn.fetch(query)

    assert migrated
    assert [tuple(row) for row in migrated] == [tuple(row) for row in said]


def test_each_definition_has_its_file_and_each_file_its_definition() -> None:
    files = {file.name for file in SQL.iterdir()} - {"grants.sql"}  # an operator's
    assert {f"{name}.sql" for name in DEFINITIONS} == files


@pytest.mark.parametrize(
    ("table", "struct", "ours_alone"),
    [
        (schema.ticket, Row, set()),
        (schema.lease, Lease, {"only_row", "desk_url"}),
        (schema.delivery, Entry, {"delivery_id"}),
    ],
)
def test_what_travels_has_the_columns_of_its_table(
    table: Table, struct: type[msgspec.Struct], ours_alone: set[str]
) -> None:
    assert {column.name for column in table.columns} - ours_alone == set(struct.__struct_fields__)
