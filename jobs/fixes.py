"""What would make a run smaller, where it does not fit: each a change of settings, with what it would take then.

They come in the order of what they cost a person: first those that leave the result as it is (fewer tokens at once,
checkpointing), then those that hardly change it (four bits, a lower rank, fewer targets), last those that change what
is learned (a shorter limit cuts rows; an adapter is another method). Only what makes it smaller is offered. Where no
single one suffices, the first few together are offered as one more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from core.config import ALL_LINEAR, AUTO_TARGETS, RunConfig, changed
from core.errors import ConfigError
from core.models.memory import at_once
from jobs.fitting import RowFacts
from jobs.sizes import Sized

SMALLER_SHARE = 0.98  # of what it takes now, at most: less is not worth a click
LEAST_TOKENS = 64  # at once, and in a row
_QUERY_AND_VALUE = ("q_proj", "v_proj"), ("query", "value"), ("c_attn",), ("query_key_value",), ("qkv_proj",)

TotalOf = Callable[[RunConfig], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """One way to make a run smaller. `changes` are settings by their dotted name, `total_bytes` what it would take,
    `sentence` what that costs, and `is_enough` whether it fits then.
    """

    title: str
    sentence: str
    changes: Mapping[str, Any]
    total_bytes: int
    is_enough: bool


@dataclass(frozen=True, slots=True)
class _Idea:
    title: str
    sentence: str
    changes: dict[str, Any]


def fixes(found: Sized, rows: RowFacts, free: int, total_of: TotalOf) -> tuple[Fix, ...]:
    """What would make `found` smaller, and by how much.

    Args:
        free: bytes that it may take.
        total_of: what another config of the same base model and rows would take.
    """
    now = total_of(found.config)
    single: list[Fix] = []
    for ideas in _families(found, rows):
        tried = [_judged(found.config, idea, free, total_of) for idea in ideas]
        smaller = [fix for fix in tried if fix is not None and fix.total_bytes <= SMALLER_SHARE * now]
        if smaller:  # of one kind, the mildest that is enough, else the strongest
            single.append(next((fix for fix in smaller if fix.is_enough), smaller[-1]))
    if single and not any(fix.is_enough for fix in single):
        single += _together(found.config, single, free, total_of)
    return tuple(single)


def _judged(config: RunConfig, idea: _Idea, free: int, total_of: TotalOf) -> Fix | None:
    try:
        total = total_of(changed(config, idea.changes))
    except ConfigError:  # this model has no such thing
        return None
    return Fix(
        title=idea.title, sentence=idea.sentence, changes=idea.changes, total_bytes=total, is_enough=total <= free
    )


def _together(config: RunConfig, single: list[Fix], free: int, total_of: TotalOf) -> list[Fix]:
    """The fewest of the mildest that are enough when taken together; none where all of them are not."""
    for count in range(2, len(single) + 1):
        taken = single[:count]
        changes = {path: value for fix in taken for path, value in fix.changes.items()}
        idea = _Idea("All of this together", "; ".join(_small(fix.title) for fix in taken), changes)
        fix = _judged(config, idea, free, total_of)
        if fix is not None and fix.is_enough:
            return [fix]
    return []


def _small(words: str) -> str:
    return words[:1].lower() + words[1:]


def _families(found: Sized, rows: RowFacts) -> Iterator[list[_Idea]]:
    """Ideas of one kind each, from mild to strong; the kinds in the order of what they cost."""
    config = found.config
    yield _fewer_at_once(found, rows)
    if not config.optim.checkpointing:
        sentence = "Keeps much less between the passes and computes it twice: half more time, the same result"
        yield [_Idea("Turn gradient checkpointing on", sentence, {"optim.checkpointing": True})]
    if config.method != "full" and config.quant.bits > 4:
        sentence = "The frozen base in a quarter of its space, a little less exactly; about the same speed"
        yield [_Idea("Store the base in 4 bits", sentence, {"quant.bits": 4})]
    if config.method == "lora":
        yield _lower_rank(config)
        yield _fewer_targets(found)
    yield _shorter(found, rows)
    if config.method == "full":
        sentence = "Trains a small adapter in place of every weight; what is learned is near, and the base stays"
        yield [_Idea("Train a LoRA adapter", sentence, {"method": "lora"})]


def _fewer_at_once(found: Sized, rows: RowFacts) -> list[_Idea]:
    longest = rows.longest(found.limit)
    now = at_once(found.config, longest).tokens
    sentence = "A batch goes through in more parts: the same result, a little slower"
    counts = [max(LEAST_TOKENS, longest, now // part) for part in (2, 4, 8, 16)]
    return [
        _Idea(f"Feed {count:,} tokens at once", sentence, {"optim.micro_tokens": count})
        for count in dict.fromkeys(counts)
        if count < now
    ]


def _lower_rank(config: RunConfig) -> list[_Idea]:
    lora = config.lora
    sentence = "Less to learn with; alpha falls with it, so that the strength stays"
    ranks = [lora.rank // part for part in (2, 4, 8, 16) if lora.rank // part >= 1]
    return [
        _Idea(f"Lower the rank to {rank}", sentence, {"lora.rank": rank, "lora.alpha": lora.alpha * rank / lora.rank})
        for rank in dict.fromkeys(ranks)
    ]


def _fewer_targets(found: Sized) -> list[_Idea]:
    """Queries and values alone, as in the paper, where more is adapted now."""
    targets = found.config.lora.targets
    leaves = {name.rpartition(".")[2] for name in found.shape.matrices}
    pair = next((names for names in _QUERY_AND_VALUE if leaves.issuperset(names)), None)
    is_more = bool({AUTO_TARGETS, ALL_LINEAR} & set(targets)) or len(targets) > 2
    if pair is None or not is_more:
        return []
    sentence = "A smaller adapter, which learns somewhat less"
    return [_Idea(f"Adapt {' and '.join(pair)} alone", sentence, {"lora.targets": list(pair)})]


def _shorter(found: Sized, rows: RowFacts) -> list[_Idea]:
    longest = rows.longest(found.limit)
    limits = [limit for part in (2, 4, 8) if (limit := longest // part) >= LEAST_TOKENS]
    return [
        _Idea(f"Cut rows at {limit:,} tokens", _cut_words(rows, limit), {"data.max_tokens": limit}) for limit in limits
    ]


def _cut_words(rows: RowFacts, limit: int) -> str:
    count = rows.cut_at(limit)
    if count is None:
        return "What goes beyond is not learned; how many rows that cuts is known once their tokens are counted"
    return f"Cuts {count:,} of {rows.rows:,} {'row' if rows.rows == 1 else 'rows'}; what goes beyond is not learned"
