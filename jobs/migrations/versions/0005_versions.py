"""Datasets that were made of others: of which, and which version of it they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("datasets", sa.Column("parent_id", sa.Text))
    op.add_column("datasets", sa.Column("version", sa.Integer, nullable=False, server_default="1"))
