"""Alembic's environment: runs on the connection that `Database.upgrade` hands over."""

from alembic import context

from edgerad.records import Record

context.configure(connection=context.config.attributes["connection"], target_metadata=Record.metadata)
context.run_migrations()
