"""Rounds: prompt sets that were asked of several panes, and the answers that wait to be voted on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "rounds",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("prompt_set_id", sa.Text, sa.ForeignKey("prompt_sets.id"), nullable=False, index=True),
        sa.Column("prompts", sa.Text, nullable=False),
        sa.Column("entrants", sa.Text, nullable=False),
        sa.Column("base_model", sa.Text),
        sa.Column("system", sa.Text, nullable=False),
        sa.Column("sampling", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_table(
        "round_answers",
        sa.Column("round_id", sa.Text, sa.ForeignKey("rounds.id"), primary_key=True),
        sa.Column("at", sa.Integer, primary_key=True),
        sa.Column("answers", sa.Text, nullable=False),
        sa.Column("vote_id", sa.Text),
    )
