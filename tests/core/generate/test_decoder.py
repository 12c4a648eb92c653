"""What is kept of a conversation gives what would be computed afresh."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma3TextConfig, Lfm2Config

from core.adapters.inject import inject, lora_layers, remove
from core.config import LoraConfig, QuantConfig
from core.generate.attention import use_grouped_attention
from core.generate.decoder import MOST_ROWS, Decoder, Row
from core.models.linears import find_linears
from core.models.load import LoadedModel
from core.models.quantize import quantize_linears
from tests.core.parity.architectures import ARCHITECTURES, CLASSIFIERS, MIXTURES, VOCABULARY, build
from tests.core.tiny import adapt

LANGUAGE_MODELS = [
    name for name in dict.fromkeys((*ARCHITECTURES, *MIXTURES)) if name not in (*CLASSIFIERS, "convolutions")
]
LIMIT = 1e-5  # of the norm: other shapes of products sum in other orders


def loaded(model: object) -> LoadedModel:
    use_grouped_attention(model)
    return LoadedModel(model=model, tokenizer=None, dtype=torch.float32, device=torch.device("cpu"), parameters=0)


def llama_with_two() -> LoadedModel:
    model = build("llama")
    adapt(model, key="a", rank=3, alpha=40, seed=1)
    adapt(model, key="b", rank=5, alpha=40, targets=("v_proj", "down_proj"), seed=2)
    return loaded(model)


def words(length: int, seed: int = 0) -> list[int]:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def written(decoder: Decoder, rows: Sequence[Row], tokens: int = 5) -> tuple[list[list[int]], Tensor]:
    """Greedy answers, and the logits `[tokens, rows, vocab]` that they were chosen by."""
    seen = [torch.stack([row.logits for row in rows])]
    chosen = [seen[-1].argmax(-1).tolist()]
    for _ in range(tokens - 1):
        seen.append(decoder.write(rows, chosen[-1]))
        chosen.append(seen[-1].argmax(-1).tolist())
    return [list(answer) for answer in zip(*chosen, strict=True)], torch.stack(seen)


def answered(
    decoder: Decoder, prompts: Sequence[Sequence[int]], adapters: Sequence[str | None]
) -> tuple[list[list[int]], Tensor, list[int]]:
    """As `written`, and how many tokens of each prompt were read."""
    rows = [decoder.read(prompt, adapter) for prompt, adapter in zip(prompts, adapters, strict=True)]
    answers, logits = written(decoder, rows)
    for row in rows:
        decoder.keep(row)
    decoder.rest()
    return answers, logits, [row.unread for row in rows]


def assert_as_afresh(
    decoder: Decoder, prompts: Sequence[Sequence[int]], adapters: Sequence[str | None], unread: list[int]
) -> list[list[int]]:
    answers, logits, read = answered(decoder, prompts, adapters)
    expected, wanted, _ = answered(Decoder(decoder.loaded, 0), prompts, adapters)
    assert read == unread
    assert answers == expected
    assert (logits - wanted).norm() <= LIMIT * wanted.norm()
    return answers


@pytest.mark.parametrize("architecture", LANGUAGE_MODELS)
def test_a_second_turn_is_answered_as_afresh_and_only_what_is_new_is_read(architecture: str) -> None:
    decoder = Decoder(loaded(build(architecture)), 2**24)
    prompts = [words(11, 1), words(5, 2)]
    answers = assert_as_afresh(decoder, prompts, [None, None], unread=[11, 5])
    turns = [[*prompt, *answer, *words(4, 3)] for prompt, answer in zip(prompts, answers, strict=True)]
    # A token was chosen last and not yet put behind the others: it is read with what is new.
    second = assert_as_afresh(decoder, turns, [None, None], unread=[5, 5])
    thirds = [[*turn, *answer, *words(2, 4)] for turn, answer in zip(turns, second, strict=True)]
    assert_as_afresh(decoder, thirds, [None, None], unread=[3, 3])


def test_a_model_with_layers_that_have_no_keys_computes_each_turn_afresh() -> None:
    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, full_attn_idxs=[1], block_auto_adjust_ff_dim=False,
    )  # fmt: skip
    decoder = Decoder(loaded(AutoModelForCausalLM.from_config(config).eval()), 2**24)
    for length in (9, 12):
        assert_as_afresh(decoder, [words(length)], [None], unread=[length])
    assert decoder.kept.bytes == 0


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_base_keeps_its_turns_too(bits: int) -> None:
    model = build("llama")
    names = [shape.name for shape in find_linears(model)]
    quantize_linears(model, names, QuantConfig(bits=bits))  # type: ignore[arg-type]
    adapt(model, key="a")
    decoder = Decoder(loaded(model), 2**24)
    prompts = [words(9, 1), words(9, 1)]
    answers = assert_as_afresh(decoder, prompts, [None, "a"], unread=[9, 9])
    turns = [[*prompt, *answer, *words(4, 3)] for prompt, answer in zip(prompts, answers, strict=True)]
    assert_as_afresh(decoder, turns, [None, "a"], unread=[5, 5])


def test_panes_of_different_adapters_and_lengths_each_take_what_is_theirs() -> None:
    decoder = Decoder(llama_with_two(), 2**24)
    prompts, adapters = [words(9, 1), words(4, 2), words(9, 1), words(14, 3)], [None, "a", "b", "a"]
    answers = assert_as_afresh(decoder, prompts, adapters, unread=[9, 4, 9, 14])
    assert len({tuple(answer) for answer in answers}) == 4
    turns = [
        [*prompt, *answer, *words(new, 5)] for prompt, answer, new in zip(prompts, answers, (3, 6, 2, 1), strict=True)
    ]
    assert_as_afresh(decoder, turns, adapters, unread=[4, 7, 3, 2])
    order = [3, 0, 2, 1]
    assert_as_afresh(decoder, [turns[at] for at in order], [adapters[at] for at in order], unread=[1, 1, 1, 1])


def test_a_pane_that_changes_its_adapter_is_read_anew_beside_one_that_goes_on() -> None:
    decoder = Decoder(llama_with_two(), 2**24)
    answers = assert_as_afresh(decoder, [words(9, 1), words(9, 1)], ["a", "b"], unread=[9, 9])
    turns = [[*words(9, 1), *answer, *words(3, 2)] for answer in answers]
    assert_as_afresh(decoder, turns, ["a", None], unread=[4, len(turns[1])])


def test_asking_once_more_reads_one_token() -> None:
    decoder = Decoder(llama_with_two(), 2**24)
    for unread in (8, 1, 1):
        assert_as_afresh(decoder, [words(8)], ["a"], unread=[unread])


def test_an_edited_turn_is_read_from_the_edit_on() -> None:
    decoder = Decoder(llama_with_two(), 2**24)
    (answer,) = assert_as_afresh(decoder, [words(8)], ["a"], unread=[8])
    whole = [*words(8), *answer, *words(6, 1)]
    assert_as_afresh(decoder, [whole], ["a"], unread=[7])
    edited = [*whole[:10], 4 if whole[10] != 4 else 5, *whole[11:]]
    assert_as_afresh(decoder, [edited], ["a"], unread=[len(whole) - 10])
    assert_as_afresh(decoder, [[*whole, 7]], ["a"], unread=[1])  # what was before the edit is still there


def test_a_row_that_left_while_another_went_on_is_kept_as_far_as_it_came() -> None:
    decoder = Decoder(llama_with_two(), 2**24)
    prompts = [words(6, 1), words(8, 2)]
    with torch.inference_mode():
        rows = [decoder.read(prompt, adapter) for prompt, adapter in zip(prompts, (None, "a"), strict=True)]
        for token in (10, 11):
            decoder.write(rows, [token, token])
        decoder.keep(rows[0])
        for token in range(12, 16):
            decoder.write(rows[1:], [token])
        decoder.keep(rows[1])
    follow = [[*prompts[0], 10, 11, *words(5, 3)], [*prompts[1], *range(10, 16), *words(5, 4)]]
    assert_as_afresh(decoder, follow, [None, "a"], unread=[5, 5])


def test_an_adapter_under_the_key_of_another_does_not_take_what_was_the_others() -> None:
    decoder = Decoder(llama_with_two(), 2**24)
    assert_as_afresh(decoder, [words(8)], ["a"], unread=[8])
    assert_as_afresh(decoder, [words(8)], ["a"], unread=[1])
    model = decoder.loaded.model
    remove(model, "a")
    adapt(model, key="a", rank=3, seed=9)
    assert_as_afresh(decoder, [words(8)], ["a"], unread=[8])


def test_loading_another_adapter_changes_nothing_for_those_that_are_there() -> None:
    decoder = Decoder(llama_with_two(), 2**24)
    assert_as_afresh(decoder, [words(8)], ["b"], unread=[8])
    inject(decoder.loaded.model, LoraConfig(rank=2), key="c", seed=5)
    assert any(
        "c" in layer.adapters and "b" not in layer.adapters for layer in lora_layers(decoder.loaded.model).values()
    )
    assert_as_afresh(decoder, [words(8)], ["b"], unread=[1])


def test_a_window_is_kept_while_it_holds_all_keys_and_answered_afresh_after_that() -> None:
    settings = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Gemma3TextConfig(
        **settings, head_dim=8, intermediate_size=48, vocab_size=VOCABULARY, sliding_window=20,
        max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).float().eval()
    decoder = Decoder(loaded(model), 2**24)
    (answer,) = assert_as_afresh(decoder, [words(8)], [None], unread=[8])
    turn = [*words(8), *answer, *words(5, 1)]
    (answer,) = assert_as_afresh(decoder, [turn], [None], unread=[6])  # grows beyond the window
    longer = [*turn, *answer, *words(3, 2)]
    assert_as_afresh(decoder, [longer], [None], unread=[len(longer) - 12])  # what the first turn left is still there
    assert_as_afresh(decoder, [longer], [None], unread=[len(longer) - 12])


def test_no_more_is_kept_than_allowed_and_answers_do_not_change() -> None:
    probe = Decoder(llama_with_two(), 2**24)
    answered(probe, [words(20)], [None])
    decoder = Decoder(probe.loaded, probe.kept.bytes + 1)
    for seed in (1, 2, 1):
        assert_as_afresh(decoder, [words(20, seed)], [None], unread=[20])
        assert decoder.kept.bytes == probe.kept.bytes
    assert_as_afresh(decoder, [words(20, 1)], [None], unread=[1])


@torch.inference_mode()
def test_a_row_is_written_to_the_bit_as_alone_whoever_joins_and_leaves() -> None:
    """Rows of the base and of adapters of other ranks, of other lengths, come and go at every step."""
    decoder = Decoder(llama_with_two(), 0)
    asked = [(words(3 + 5 * at, at), (None, "a", "b")[at % 3]) for at in range(MOST_ROWS)]
    alone = []
    for prompt, adapter in asked:
        _, logits = written(decoder, [decoder.read(prompt, adapter)], tokens=8)
        alone.append(logits[:, 0])
    rows = [decoder.read(prompt, adapter) for prompt, adapter in asked]
    steps = [0] * MOST_ROWS
    for first in (*range(12), *range(12)):
        present = [at for at in range(first, MOST_ROWS, 1 + first % 3) if steps[at] < 7]
        if not present:
            continue
        logits = decoder.write([rows[at] for at in present], [int(alone[at][steps[at]].argmax()) for at in present])
        for at, found in zip(present, logits, strict=True):
            steps[at] += 1
            assert torch.equal(found, alone[at][steps[at]]), (at, steps[at], len(present))
    assert sum(steps) > 60
    assert decoder.sizes


@torch.inference_mode()
def test_a_branch_goes_its_own_way() -> None:
    decoder = Decoder(llama_with_two(), 0)
    row = decoder.read(words(9), "a")
    other = row.branch()
    for token in (10, 11, 12):
        decoder.write([row, other], [token, token + 20])
    for written_on, start in ((row, 10), (other, 30)):
        afresh = decoder.read([*words(9), *range(start, start + 3)], "a")
        again = decoder.write([written_on], [5])[0]
        assert (again - decoder.write([afresh], [5])[0]).norm() <= LIMIT * again.norm()


@torch.inference_mode()
def test_what_is_not_to_be_kept_neither_uses_nor_leaves_anything() -> None:
    decoder = Decoder(llama_with_two(), 2**24)
    for _ in range(2):
        row = decoder.read(words(8), "a", keeps=False)
        assert row.unread == 8
        decoder.keep(row)
    assert decoder.kept.bytes == 0


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3_text"])
def test_rows_of_usual_models_are_written_together(architecture: str) -> None:
    assert Decoder(loaded(build(architecture)), 0).sizes


def test_the_model_is_as_it_was_once_nothing_is_written() -> None:
    decoder = Decoder(llama_with_two(), 0)
    answered(decoder, [words(8), words(5)], ["a", None])
    assert all(layer.rows is None for layer in lora_layers(decoder.loaded.model).values())


def test_a_step_that_fails_leaves_a_row_that_can_be_kept() -> None:
    decoder = Decoder(llama_with_two(), 2**24)
    last = decoder.loaded.model.model.layers[-1]
    row = decoder.read(words(8), "a")
    decoder.write([row], [10])

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    handle = last.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        decoder.write([row], [11])
    handle.remove()
    decoder.keep(row)
    assert_as_afresh(decoder, [[*words(8), 10, 11, 12]], ["a"], unread=[2])
