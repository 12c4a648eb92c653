from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from core.adapters.inject import activate
from core.adapters.peft_format import load_adapter, read_adapter
from core.data.records import Passage
from core.data.tokens.batching import pack
from core.data.tokens.encoding import encode
from core.data.tokens.splits import hold_out
from core.errors import ConfigError, DataError, ModelError, RunError, UserError
from core.events import (
    EvalDone,
    Event,
    Finished,
    Note,
    Preparing,
    Saved,
    Started,
    StepDone,
    from_json,
    to_json,
)
from core.models.load import LoadedModel
from core.train.checkpoint import TENSORS_FILE
from core.train.manifest import MANIFEST_FILE
from core.train.objective import summed_loss
from tests.core.tiny import LINEARS, VOCABULARY, conversation, packed_logits, plain_logits, tiny_llama
from tests.core.train.architectures import save_with_tokenizer
from tests.core.train.running import COLORS, RECORDS, Make, notes, of_kind, same_bits

FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors"]


# ---- from config to adapter


def test_a_run_tells_its_story_in_order_and_leaves_an_adapter(make: Make) -> None:
    run = make()
    events = run.carry_out()
    story = [
        event.phase if isinstance(event, Preparing) else event.event for event in events if not isinstance(event, Note)
    ]
    assert story[:5] == ["fetching", "loading", "tokenizing", "injecting", "started"]
    assert story[5:] == ["eval", *["step", "step", "eval", "saved"] * 4, "appraising", "appraised", "finished"]
    assert [from_json(to_json(event)) for event in events] == events
    assert sorted(path.name for path in run.folder.joinpath("adapter").iterdir()) == FILES
    assert [path.name for path in run.folder.iterdir() if path.name.startswith("adapter")] == ["adapter"]


def test_what_is_reported_agrees_with_itself(make: Make) -> None:
    run = make()
    events = run.carry_out()
    (started,), (finished,) = of_kind(events, Started), of_kind(events, Finished)
    steps, evaluations = of_kind(events, StepDone), of_kind(events, EvalDone)
    assert (started.steps, started.first_step, started.train_rows, started.eval_rows) == (8, 1, 8, 2)
    assert started.adapted_modules == 14 and started.bits == 32 and started.compute_dtype == "float32"
    assert started.method == "lora"
    assert started.trainable_parameters == sum(tensor.numel() for tensor in run.adapter.values())
    assert started.base_parameters == sum(p.numel() for p in tiny_llama().parameters())
    assert 0 < started.trained_tokens_per_epoch < started.tokens_per_epoch
    assert steps[1].tokens == started.tokens_per_epoch
    assert (finished.steps, finished.tokens, finished.seconds) == (8, steps[-1].tokens, steps[-1].seconds)
    assert finished.tokens_per_second == pytest.approx(finished.tokens / finished.seconds)
    assert (finished.first_loss, finished.last_loss) == (steps[0].loss, steps[-1].loss)
    assert (finished.base_eval_loss, finished.eval_loss) == (evaluations[0].loss, evaluations[-1].loss)
    assert finished.peak_rss_bytes > 0.99 * max(step.rss_bytes for step in steps)  # the kernel counts in small batches
    assert finished.output == str(run.output) and not finished.stopped
    assert finished.output_bytes == sum(path.stat().st_size for path in run.output.iterdir())
    checkpoint = run.folder / "checkpoints" / of_kind(events, Saved)[-1].path
    assert of_kind(events, Saved)[-1].bytes == sum(path.stat().st_size for path in checkpoint.iterdir())
    assert all(evaluation.accuracy is None for evaluation in evaluations)
    assert all(0 <= evaluation.token_accuracy <= 1 for evaluation in evaluations)


@pytest.mark.parametrize("lora", [{}, {"targets": (*LINEARS, "lm_head")}], ids=["frozen head", "adapted head"])
def test_token_accuracy_is_the_share_of_trained_tokens_that_the_model_would_have_chosen(
    make: Make, tiny: LoadedModel, lora: dict[str, Any]
) -> None:
    optim = {"steps": 40, "evaluations": 1, "learning_rate": 2e-2}
    run = make(records=RECORDS[:5] * 2, lora=lora, optim=optim, data={"holdout": 0.4})
    evaluations = of_kind(run.carry_out(), EvalDone)
    held = hold_out(encode(tiny.tokenizer, run.records, 1024).rows, 0.4, run.config.seed).held
    activate(tiny.model, load_adapter(tiny.model, run.folder / "adapter"))
    right = total = 0
    for row in held:
        said = packed_logits(tiny.model, row.tokens).argmax(dim=-1).tolist()
        right += sum(guess == label for guess, label in zip(said, row.labels, strict=True))
        total += row.trained
    assert total > 0 and evaluations[-1].token_accuracy == pytest.approx(right / total)
    assert evaluations[-1].token_accuracy > evaluations[0].token_accuracy


def test_a_set_that_can_be_memorized_is_memorized(make: Make, tiny: LoadedModel) -> None:
    optim = {"steps": 50, "evaluations": 1, "micro_tokens": 4096}
    run = make(records=RECORDS[:4], lora={"rank": 32}, optim=optim, data={"holdout": 0})
    (finished,) = of_kind(run.carry_out(), Finished)
    assert finished.last_loss < 0.2 < 5 < finished.first_loss
    tokenizer, record = tiny.tokenizer, RECORDS[2]
    row = encode(tokenizer, [record], 100).rows[0]
    activate(tiny.model, load_adapter(tiny.model, run.folder / "adapter"))
    likeliest = packed_logits(tiny.model, row.tokens).argmax(dim=-1).tolist()
    said = [said for said, label in zip(likeliest, row.labels, strict=True) if label >= 0]
    assert tokenizer.decode(said) == "It is blue.<|im_end|>"


def test_the_first_evaluation_is_the_base_models_own_loss(make: Make, tiny: LoadedModel) -> None:
    run = make(optim={"steps": 1})
    first = of_kind(run.carry_out(), EvalDone)[0]
    encoding = encode(tiny.tokenizer, RECORDS, 1024)
    held = hold_out(encoding.rows, 0.2, run.config.seed).held
    losses = [
        torch.nn.functional.cross_entropy(
            plain_logits(tiny_llama(), row.tokens), torch.tensor(row.labels), reduction="sum"
        )
        for row in held
    ]
    assert first.step == 0
    assert first.loss == pytest.approx(sum(losses).item() / sum(row.trained for row in held), rel=1e-5)  # type: ignore[union-attr]


def test_the_last_evaluation_is_that_of_the_adapter_that_was_saved(make: Make, tiny: LoadedModel) -> None:
    run = make()
    (finished,) = of_kind(run.carry_out(), Finished)
    held = hold_out(encode(tiny.tokenizer, RECORDS, 1024).rows, 0.2, run.config.seed).held
    activate(tiny.model, load_adapter(tiny.model, run.folder / "adapter"))
    with torch.no_grad():
        loss = summed_loss(tiny.model, pack(held, tiny.device)) / sum(row.trained for row in held)
    assert finished.eval_loss == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("bits", [4, 8, 16, 32])
def test_every_precision_learns(make: Make, bits: int) -> None:
    run = make(quant={"bits": bits}, optim={"steps": 12, "evaluations": 1})
    (finished,) = of_kind(run.carry_out(), Finished)
    assert finished.last_loss < 0.7 * finished.first_loss
    assert read_adapter(run.folder / "adapter").rank == 4


def test_the_seed_and_nothing_else_decides(make: Make) -> None:
    settings = {"lora": {"dropout": 0.2}, "optim": {"steps": 4}}
    one, again, other = (make(name, **settings) for name in ("one", "again", "other"))
    other.config = replace(one.config, seed=4)
    for seed, run in enumerate((one, again, other)):
        torch.manual_seed(seed)  # the caller's random stream must not matter
        run.carry_out()
    assert same_bits(one, again) and not same_bits(one, other)


# ---- rows that give less than all


def test_one_row_trains_without_an_evaluation_and_says_so(make: Make) -> None:
    events = make(records=RECORDS[:1], optim={"steps": 2}).carry_out()
    (finished,) = of_kind(events, Finished)
    assert finished.eval_loss is None and finished.base_eval_loss is None and not of_kind(events, EvalDone)
    assert "Too few rows that differ to hold any back" in notes(events)


def test_asking_for_no_evaluation_is_not_remarked_on(make: Make) -> None:
    assert "hold" not in notes(make(optim={"steps": 1}, data={"holdout": 0}).carry_out())


def test_what_was_cut_and_left_out_is_told(make: Make) -> None:
    long = [conversation("word " * 90, "Lost."), conversation("Hi.", "word " * 90)]
    text = notes(make(records=[*RECORDS, *long], optim={"steps": 1}, data={"max_tokens": 64}).carry_out())
    assert "2 rows are longer than 64 tokens" in text and "1 rows keep nothing to train on within 64 tokens" in text


def test_passages_are_trained_too(make: Make) -> None:
    passages = [Passage(text=f"The color is {color}.", source_row=i + 1) for i, color in enumerate(COLORS)]
    (finished,) = of_kind(make(records=passages, optim={"steps": 12}).carry_out(), Finished)
    assert finished.last_loss < finished.first_loss


def test_a_base_without_a_chat_template_gets_a_plain_one_and_says_so(
    make: Make, tmp_path: Path, tiny_folder: Path
) -> None:
    base = tmp_path / "bare"
    tiny_llama().save_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(base)
    assert "no chat template" in notes(make(base=base, optim={"steps": 1}).carry_out())


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_base_whose_rows_cannot_be_packed_is_trained_on_padded_ones_and_says_so(
    make: Make, tmp_path: Path, tiny_folder: Path, method: str
) -> None:
    """GPT-J has an attention of its own, and a head with a bias."""
    config = CONFIG_MAPPING["gptj"](
        n_embd=64, n_layer=2, n_head=4, rotary_dim=8, n_positions=128, vocab_size=VOCABULARY, initializer_range=0.1
    )
    base = save_with_tokenizer(AutoModelForCausalLM.from_config(config), tmp_path / "gptj", tiny_folder)
    lora = {"targets": ("q_proj", "v_proj", "fc_out")}
    events = make(base=base, method=method, lora=lora, optim={"steps": 12, "evaluations": 1}).carry_out()
    (finished,) = of_kind(events, Finished)
    assert finished.last_loss < 0.8 * finished.first_loss
    assert "Rows are padded, not packed, because this is a gptj model" in notes(events)


def test_a_row_longer_than_the_models_positions_is_cut(make: Make, tmp_path: Path, tiny_folder: Path) -> None:
    base = save_with_tokenizer(tiny_llama(max_position_embeddings=40), tmp_path / "short", tiny_folder)
    long = conversation("Hi.", "word " * 90)
    text = notes(make(base=base, records=[*RECORDS, long], optim={"steps": 1}).carry_out())
    assert "1 rows are longer than 40 tokens and were cut" in text


# ---- what cannot be carried out


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"lora": {"targets": ("no_such_layer",)}}, ConfigError),
        ({"lora": {"rank": 33}}, ConfigError),
        ({"base": Path("/no/such/model")}, ModelError),
        ({"data": {"max_tokens": 8}}, DataError),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_first_step(
    make: Make, settings: dict[str, Any], error: type[UserError]
) -> None:
    run = make(**settings)
    seen: list[Event] = []
    with pytest.raises(error):
        seen.extend(run.events())
    assert not of_kind(seen, StepDone) and not (run.folder / "adapter").exists() and not run.checkpoints


def test_a_base_with_a_weight_that_is_no_number_is_refused(make: Make, tmp_path: Path, tiny_folder: Path) -> None:
    base = tmp_path / "broken"
    model = tiny_llama()
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = torch.nan
    model.save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(base)
    with pytest.raises(ModelError):
        list(make(base=base).events())


def test_a_run_that_diverges_fails_and_leaves_no_adapter(make: Make) -> None:
    """A checkpoint whose weights are no numbers, but which is whole on disk, stands for a run that went wrong."""
    run = make()
    run.carry_out(until_step=5)
    plant_nan(run.folder / "checkpoints" / "step-00000004")
    before = run.checkpoints
    with pytest.raises(RunError, match=r"diverged at step 5.*on the dataset's rows \d+, \d+, \d+, \d+;"):
        run.carry_out()
    assert not (run.folder / "adapter").exists() and run.checkpoints == before


def plant_nan(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / TENSORS_FILE)
    next(iter(tensors.values())).view(-1)[0] = torch.nan
    save_file(tensors, checkpoint / TENSORS_FILE)
    manifest = json.loads((checkpoint / MANIFEST_FILE).read_text())
    manifest[TENSORS_FILE]["sha256"] = hashlib.sha256((checkpoint / TENSORS_FILE).read_bytes()).hexdigest()
    (checkpoint / MANIFEST_FILE).write_text(json.dumps(manifest))


def test_an_absurd_learning_rate_ends_in_an_error_or_in_a_finite_adapter(make: Make) -> None:
    run = make(lora={"alpha": 65536.0, "rank": 1}, optim={"learning_rate": 1.0, "clip_norm": 1e9, "warmup": 0.0})
    try:
        run.carry_out()
    except RunError as error:
        assert "diverged" in str(error) and not (run.folder / "adapter").exists()
    else:
        assert all(torch.isfinite(tensor).all() for tensor in run.adapter.values())
