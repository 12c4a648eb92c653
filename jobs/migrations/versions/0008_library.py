"""The library: what an adapter is made of, what somebody notes about it, and adapters that were deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("adapters", sa.Column("note", sa.Text, nullable=False, server_default=""))
    op.add_column("adapters", sa.Column("source", sa.Text))
    op.add_column("adapters", sa.Column("deleted_at", sa.Float))
    op.add_column("adapters", sa.Column("emptied_at", sa.Float))
