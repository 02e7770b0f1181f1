"""Alembic's environment: the caller (db.migrate) hands over an open connection."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table="freescout_schema")
with context.begin_transaction():
    context.run_migrations()
