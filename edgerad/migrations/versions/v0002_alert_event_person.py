"""An event of an alert names the person who decided it, and keeps what that person wrote.

Revision: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns; rows from before name nobody."""
    op.add_column("alert_event", sa.Column("person", sa.String(length=64), nullable=True))
    op.add_column("alert_event", sa.Column("comment", sa.Text(), nullable=False, server_default=""))
