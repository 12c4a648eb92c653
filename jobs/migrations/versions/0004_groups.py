"""Sweeps: the group that a run belongs to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("runs", sa.Column("group", sa.Text))
    op.create_index("ix_runs_group", "runs", ["group"])
