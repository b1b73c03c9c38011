"""Alembic's entry point. `open_store` hands its connection over, so a migration and its record are one transaction.

To write a revision: `alembic` is used as a library here (see `store.database._migrate`), so no alembic.ini exists.
"""

from __future__ import annotations

from alembic import context

from prefloop.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
