from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from core.adapters.merge import export_merged
from core.data.records import Labeled, Passage
from core.data.tokens.labeling import encode_labeled
from core.data.tokens.splits import hold_out
from core.errors import DataError
from core.events import EvalDone, Event, Finished, Preparing, Started, StepDone
from tests.core.tiny import VOCABULARY, conversation
from tests.core.train.architectures import CLASSIFIERS, save_with_tokenizer
from tests.core.train.running import RECORDS, Make, Run, notes, of_kind, same_tensors

COLORS = ("red", "green", "blue", "gray")
THINGS = ("house", "car", "bird", "flower", "stone", "hat")
LABELED = [
    Labeled(text=f"The {thing} is {color}.", label="dull" if color in ("blue", "gray") else "bright", source_row=row)
    for row, (color, thing) in enumerate(((color, thing) for color in COLORS for thing in THINGS), start=1)
]
OPTIM = {"steps": 30, "evaluations": 3, "batch_size": 8, "learning_rate": 5e-3, "micro_tokens": 128}


def base_folder(kind: str, folder: Path, tokenizer_folder: Path) -> Path:
    """A masked language model: an encoder without a head for classes, drawn wide enough that tokens differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CONFIG_MAPPING[kind](**CLASSIFIERS[kind], vocab_size=VOCABULARY, pad_token_id=2, initializer_range=0.2)
        return save_with_tokenizer(AutoModelForMaskedLM.from_config(config), folder, tokenizer_folder)


@pytest.fixture(scope="module")
def encoder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_folder("bert", tmp_path_factory.mktemp("models") / "bert", tiny_folder)


@pytest.fixture
def classify(make: Make, encoder: Path) -> Make:
    def build(name: str = "run", records: Sequence[Labeled] = LABELED, **settings: Any) -> Run:
        optim = OPTIM | settings.pop("optim", {})
        method = settings.pop("method", "full")
        return make(
            name, base=settings.pop("base", encoder), task="classification", method=method, records=records,
            optim=optim, lora={"targets": ("query", "value"), "rank": 4}, **settings,
        )  # fmt: skip

    return build


def test_a_classifier_is_trained_and_its_accuracy_on_held_out_rows_is_told(classify: Make) -> None:
    run = classify()
    events = run.carry_out()
    (started,), (finished,) = of_kind(events, Started), of_kind(events, Finished)
    evaluations = of_kind(events, EvalDone)
    assert [evaluation.step for evaluation in evaluations] == [0, 10, 20, 30]
    assert all(0 <= evaluation.accuracy <= 1 for evaluation in evaluations)
    assert finished.last_loss < 0.5 * finished.first_loss
    assert started.trained_tokens_per_epoch == started.train_rows == 20 and started.eval_rows == 4
    assert "2 classes: bright, dull" in notes(events)
    assert "these weights are new: bert.pooler.dense.bias, bert.pooler.dense.weight, classifier.bias" in notes(events)


def test_the_folder_that_is_left_names_classes_as_evaluated(classify: Make) -> None:
    run = classify()
    events = run.carry_out()
    model = AutoModelForSequenceClassification.from_pretrained(run.output).eval()
    tokenizer = AutoTokenizer.from_pretrained(run.output)
    assert model.config.id2label == {0: "bright", 1: "dull"}
    rows = encode_labeled(tokenizer, LABELED, ("bright", "dull"), 64).rows
    held = hold_out(rows, 0.2, run.config.seed).held
    with torch.no_grad():
        logits = torch.cat([model(input_ids=torch.tensor([row.tokens])).logits for row in held])
    labels = torch.tensor([row.label for row in held])
    last = of_kind(events, EvalDone)[-1]
    assert torch.nn.functional.cross_entropy(logits, labels).item() == pytest.approx(last.loss, rel=1e-4)
    assert (logits.argmax(dim=-1) == labels).float().mean().item() == last.accuracy


def test_a_stopped_classifier_goes_on_to_the_same_bits(classify: Make) -> None:
    straight, stopped = classify("straight", optim={"steps": 6}), classify("stopped", optim={"steps": 6})
    straight.carry_out()
    stopped.carry_out(until_step=3, answer="cancel")
    torch.manual_seed(99)  # the head is drawn from the run's seed, whatever else was drawn
    assert "Resumed after step 3" in notes(stopped.carry_out())
    assert same_tensors(straight.model, stopped.model)


@pytest.mark.parametrize("kind", ["roberta", "deberta-v2"])
def test_other_encoders_learn_too(classify: Make, tmp_path: Path, tiny_folder: Path, kind: str) -> None:
    base = base_folder(kind, tmp_path / kind, tiny_folder)
    (finished,) = of_kind(classify(base=base).carry_out(), Finished)
    assert finished.last_loss < 0.7 * finished.first_loss


def test_a_text_longer_than_the_models_positions_is_cut_and_told(
    classify: Make, tmp_path: Path, tiny_folder: Path
) -> None:
    base = base_folder("roberta", tmp_path / "roberta", tiny_folder)  # 66 positions, counted from behind the padding's
    long = [Labeled(text="gray " * 200, label="dull", source_row=99)]
    events = classify(base=base, records=[*LABELED, *long], optim={"steps": 2}).carry_out()
    assert "1 rows are longer than 63 tokens and were cut" in notes(events)
    assert of_kind(events, Finished)


def test_a_classifiers_adapter_is_merged_into_a_model_that_names_the_same_classes(
    classify: Make, encoder: Path, tmp_path: Path
) -> None:
    run = classify(method="lora")
    evaluated = of_kind(run.carry_out(), EvalDone)[-1]
    export_merged(run.output, encoder, tmp_path / "whole")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole").eval()
    assert model.config.id2label == {0: "bright", 1: "dull"}
    rows = encode_labeled(AutoTokenizer.from_pretrained(tmp_path / "whole"), LABELED, ("bright", "dull"), 64).rows
    held = hold_out(rows, run.config.data.holdout, run.config.seed).held
    with torch.no_grad():
        logits = torch.cat([model(input_ids=torch.tensor([row.tokens])).logits for row in held])
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([row.label for row in held]))
    assert float(loss) == pytest.approx(evaluated.loss, rel=1e-4)


def test_an_adapters_head_is_trained_whole_and_its_classes_are_written_down(classify: Make) -> None:
    run = classify(method="lora")
    events = run.carry_out()
    (finished,) = of_kind(events, Finished)
    assert finished.last_loss < 0.7 * finished.first_loss
    heads = {name for name in run.adapter if "lora_" not in name}
    assert {name.removeprefix("base_model.model.") for name in heads} == {
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias",
    }  # fmt: skip
    assert (run.output / "labels.json").read_text() == '["bright", "dull"]\n'


# ---- records of another task


@pytest.mark.parametrize(
    ("task", "records", "sentence"),
    [
        ("chat", LABELED, "Row 1 has a label, 'bright', and no answer; choose the task classification"),
        ("chat", [*RECORDS, LABELED[3]], "Row 4 has a label"),
        ("classification", RECORDS, "Row 1 has no label, which classification needs; choose a dataset with"),
        ("classification", [*LABELED, Passage(text="Hm.", source_row=30)], "Row 30 has no label"),
        ("classification", [*LABELED, conversation("Hi.", "Ho.", row=31)], "Row 31 has no label"),
        ("classification", LABELED[:5], "All 5 rows have the label 'bright'"),
        (
            "classification",
            [Labeled(text="x", label=str(number), source_row=number) for number in range(5)],
            "Each of the 5 rows has a label of its own",
        ),
    ],
)
def test_records_of_another_task_are_refused_before_anything_is_fetched(
    make: Make, task: str, records: Any, sentence: str
) -> None:
    seen: list[Event] = []
    with pytest.raises(DataError) as caught:
        seen.extend(make(task=task, records=records).events())
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert not of_kind(seen, Preparing) and not of_kind(seen, StepDone)
