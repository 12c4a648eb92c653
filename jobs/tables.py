"""The store's tables as SQLAlchemy sees them. `jobs/migrations` makes them; a test holds the two together."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Integer, MetaData, Table, Text

metadata = MetaData()

datasets = Table(
    "datasets",
    metadata,
    Column("id", Text, primary_key=True),
    Column("example_key", Text, unique=True),
    Column("name", Text, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("file_format", Text, nullable=False),
    Column("row_format", Text, nullable=False),
    Column("skipped", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("parent_id", Text),
    Column("version", Integer, nullable=False, server_default="1"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("submit_key", Text, unique=True),
    Column("dataset_id", Text, ForeignKey("datasets.id"), nullable=False),
    Column("config", Text, nullable=False),
    Column("state", Text, nullable=False, index=True),
    Column("created_at", Float, nullable=False),
    Column("queued_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    # The attempt: which process carries the run out, and where in events.jsonl its events begin.
    Column("attempt", Integer, nullable=False, default=0),
    Column("pid", Integer),
    Column("birth", Text),
    Column("events_offset", Integer, nullable=False, default=0),
    Column("wish", Text),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("device", Text),
    Column("group", Text, index=True),
    Column("error_title", Text),
    Column("error_detail", Text),
    Column("error_hint", Text),
    Column("tags", Text, nullable=False, server_default="[]"),  # a JSON list
    Column("note", Text, nullable=False, server_default=""),
)

adapters = Table(
    "adapters",
    metadata,
    Column("id", Text, primary_key=True),
    Column("run_id", Text, ForeignKey("runs.id"), unique=True),
    Column("name", Text, nullable=False),
    Column("base_model", Text, nullable=False),
    Column("folder", Text, nullable=False),  # relative to the home
    Column("rank", Integer, nullable=False),
    Column("alpha", Float, nullable=False),
    Column("targets", Text, nullable=False),  # a JSON list
    Column("bytes", Integer, nullable=False),
    Column("eval_loss", Float),
    Column("base_eval_loss", Float),
    Column("fingerprint", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("note", Text, nullable=False, server_default=""),
    Column("source", Text),  # JSON of what it was made of (`jobs.origins`); none where a run trained it
    Column("deleted_at", Float),
    Column("emptied_at", Float),  # when the files of a deleted one were removed
)

prompt_sets = Table(
    "prompt_sets",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("prompts", Text, nullable=False),  # a JSON list
    Column("created_at", Float, nullable=False),
)

votes = Table(
    "votes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("prompt_set_id", Text, ForeignKey("prompt_sets.id"), index=True),
    Column("prompt", Text, nullable=False),  # the conversation that was answered, a JSON list of messages
    Column("answers", Text, nullable=False),  # a JSON list
    Column("outcome", Text, nullable=False),
    Column("winner", Integer),  # which of the answers, from 0
    Column("seed", Integer, nullable=False),
    Column("settings", Text, nullable=False),  # a JSON object
    Column("created_at", Float, nullable=False),
)

rounds = Table(
    "rounds",
    metadata,
    Column("id", Text, primary_key=True),
    Column("prompt_set_id", Text, ForeignKey("prompt_sets.id"), nullable=False, index=True),
    Column("prompts", Text, nullable=False),  # a JSON list, as they were when they were asked
    Column("entrants", Text, nullable=False),  # a JSON list of who answered
    Column("base_model", Text),
    Column("system", Text, nullable=False),
    Column("sampling", Text, nullable=False),  # a JSON object
    Column("created_at", Float, nullable=False),
)

round_answers = Table(
    "round_answers",
    metadata,
    Column("round_id", Text, ForeignKey("rounds.id"), primary_key=True),
    Column("at", Integer, primary_key=True),  # which of the prompts, from 0
    Column("answers", Text, nullable=False),  # a JSON list of [entrant, text], in the order in which they are shown
    Column("vote_id", Text),  # which may have been taken back since
)

users = Table(
    "users",
    metadata,
    Column("name", Text, primary_key=True),
    Column("password_hash", Text, nullable=False),
    Column("created_at", Float, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("name", Text, primary_key=True),
    Column("key_hash", Text, nullable=False),
    Column("ending", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("used_at", Float),
)
