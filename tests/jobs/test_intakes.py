"""Files read by processes of their own: what comes of them, whoever asks and whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.config import parse
from core.data.formats.mapping import Mapping
from core.errors import DataError, NotFound
from core.events import Note
from jobs.intakes import Intake
from jobs.service import Service
from tests.jobs.tiny_model import write_tiny_model
from tests.jobs.waiting import wait_for


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "home", models_root=tmp_path / "models")
    yield service
    service.close()


def lines(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rest(service: Service, intake: Intake, seconds: float = 30) -> Intake:
    """The intake once it is read no more."""

    def settled() -> Intake | None:
        now = service.data.intakes.look(intake.id)
        return now if now.state != "reading" else None

    return wait_for(settled, seconds)


def left(service: Service) -> list[str]:
    """What lies among the datasets."""
    return sorted(path.name for path in (service.home / "datasets").iterdir())


WORDS = [
    left + right for left in ("ba", "ko", "li", "ne", "ra", "tu") for right in ("den", "fall", "mer", "sint", "vog")
]
PAIRS = [{"prompt": f"question {row}", "completion": f"answer {row}"} for row in range(1, 41)]


def test_a_file_becomes_a_dataset_that_knows_why(service: Service, tmp_path: Path) -> None:
    done = rest(service, service.data.begin(lines(tmp_path / "pairs.jsonl", PAIRS)))
    assert (done.state, done.rows) == ("done", 40) and done.dataset_id is not None
    dataset, about = service.data.get(done.dataset_id), service.data.about(done.dataset_id)
    assert (dataset.name, dataset.rows, dataset.version) == ("pairs.jsonl", 40, 1)
    assert about is not None and about.mapping.columns == {"prompt": "prompt", "completion": "completion"} and about.why
    assert [record.source_row for record in service.data.rows(dataset.id, 38, 9)] == [39, 40]
    assert left(service) == [dataset.id]


def test_it_is_the_same_as_what_is_read_here_and_now(service: Service, tmp_path: Path) -> None:
    path = lines(tmp_path / "pairs.jsonl", PAIRS)
    here, there = service.data.add(path), rest(service, service.data.begin(path))
    assert there.dataset_id is not None
    folders = [service.home / "datasets" / each for each in (here.id, there.dataset_id)]
    files = [{str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.*")} for folder in folders]
    assert files[0] == files[1] and {"records.jsonl", "records.npy", "about.json", "source.jsonl"} <= set(files[0])


def test_broken_rows_wait_for_consent_and_nothing_is_read_twice(service: Service, tmp_path: Path) -> None:
    intake = service.data.begin(lines(tmp_path / "mixed.jsonl", [PAIRS[0], {"prompt": "and?"}, PAIRS[1], 7]))
    broken = rest(service, intake)
    assert (broken.state, broken.rows, broken.skipped) == ("broken", 2, 2)
    assert broken.problem is not None and "Row 2" in broken.problem.title and "4" in broken.problem.detail
    assert service.data.all() == ()
    (tmp_path / "mixed.jsonl").unlink()
    done = service.data.intakes.accept(intake.id)
    assert done.state == "done" and done.dataset_id is not None
    dataset = service.data.get(done.dataset_id)
    assert (dataset.rows, dataset.skipped) == (2, 2)
    with pytest.raises(DataError, match="does not wait"):
        service.data.intakes.accept(intake.id)


def test_columns_that_do_not_tell_are_asked_about_and_read_as_answered(service: Service, tmp_path: Path) -> None:
    rows: list[object] = [{"left": f"Was ist {row}?", "right": f"Das ist {row}."} for row in range(30)]
    intake = service.data.begin(lines(tmp_path / "sides.jsonl", rows))
    unsure = rest(service, intake)
    assert unsure.state == "unsure" and unsure.guess is not None
    assert unsure.guess.columns == ("left", "right") and unsure.guess.rows[0] == rows[0]
    service.data.intakes.answer(
        intake.id, Mapping(format="prompt_completion", columns={"prompt": "right", "completion": "left"})
    )
    done = rest(service, intake)
    assert done.state == "done" and done.dataset_id is not None
    (first,) = service.data.rows(done.dataset_id, 0, 1)
    assert [message.content for message in first.messages] == ["Das ist 0.", "Was ist 0?"]  # type: ignore[union-attr]


def test_what_was_clear_can_be_asked_about_again(service: Service, tmp_path: Path) -> None:
    done = rest(service, service.data.begin(lines(tmp_path / "pairs.jsonl", PAIRS)))
    assert done.dataset_id is not None
    again = rest(service, service.data.begin_again(done.dataset_id))
    assert again.state == "unsure" and again.guess is not None
    assert again.guess.mappings[0].columns == {"prompt": "prompt", "completion": "completion"}
    assert len(service.data.all()) == 1


def test_a_refused_file_leaves_nothing(service: Service, tmp_path: Path) -> None:
    refused = rest(service, service.data.begin(lines(tmp_path / "empty.jsonl", [])))
    assert refused.state == "refused" and refused.problem is not None and "0 rows" in refused.problem.title
    assert left(service) == [] and service.data.all() == ()


def test_a_reader_that_is_killed_is_told_of_and_leaves_nothing(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "endless.jsonl"
    lines(path, PAIRS * 5_000)
    intake = service.data.begin(path)
    reader = service.data.intakes._readers[intake.id]._child
    assert reader is not None
    os.kill(reader.pid, signal.SIGKILL)
    refused = rest(service, intake)
    assert refused.state == "refused" and refused.problem is not None and "ended" in refused.problem.title
    assert left(service) == []


def test_a_reading_that_is_stopped_leaves_neither_process_nor_file(service: Service, tmp_path: Path) -> None:
    intake = service.data.begin(lines(tmp_path / "large.jsonl", PAIRS * 5_000))
    reader = service.data.intakes._readers[intake.id]._child
    assert reader is not None
    wait_for(lambda: service.data.intakes.look(intake.id).rows > 0 or None, 30)
    service.data.intakes.stop(intake.id)
    assert not reader.is_alive and left(service) == []
    with pytest.raises(NotFound, match="no longer being read"):
        service.data.intakes.look(intake.id)


def test_the_share_that_is_read_grows_to_the_whole(service: Service, tmp_path: Path) -> None:
    intake = service.data.begin(lines(tmp_path / "large.jsonl", PAIRS * 5_000))
    seen: list[tuple[int, float]] = []

    def look() -> bool | None:
        now = service.data.intakes.look(intake.id)
        if now.share_done is not None:
            seen.append((now.rows, now.share_done))
        return now.state != "reading" or None

    wait_for(look, 60)
    assert len(set(seen)) > 2 and seen == sorted(seen) and all(0 < share <= 1 for _, share in seen)


def test_a_cleaned_version_lacks_a_kind_and_its_parent_stays(service: Service, tmp_path: Path) -> None:
    rows: list[object] = [*PAIRS, PAIRS[3], PAIRS[3], PAIRS[7]]
    done = rest(service, service.data.begin(lines(tmp_path / "copies.jsonl", rows)))
    assert done.dataset_id is not None
    before = list(service.data.rows(done.dataset_id, 0, 100))
    cleaned = rest(service, service.data.begin_cleaning(done.dataset_id, ["duplicates"]))
    assert cleaned.state == "done" and cleaned.dataset_id is not None
    dataset, about = service.data.get(cleaned.dataset_id), service.data.about(cleaned.dataset_id)
    assert (dataset.parent_id, dataset.version, dataset.rows) == (done.dataset_id, 2, 40)
    assert about is not None and "duplicate" in about.note
    assert list(service.data.rows(dataset.id, 0, 100)) == before[:40]
    assert list(service.data.rows(done.dataset_id, 0, 100)) == before
    service.data.keep(done.dataset_id, "duplicates")
    assert service.data.kept(done.dataset_id) == ("duplicates",) and service.data.kept(cleaned.dataset_id) == ()
    service.data.keep(done.dataset_id, "duplicates", is_kept=False)
    assert service.data.kept(done.dataset_id) == ()
    with pytest.raises(NotFound, match="keys"):
        service.data.keep(done.dataset_id, "keys")
    with pytest.raises(DataError, match="unreadable"):
        service.data.begin_cleaning(done.dataset_id, ["unreadable"])
    third = rest(service, service.data.begin_cleaning(cleaned.dataset_id, ["personal"]))
    assert third.dataset_id is not None and service.data.get(third.dataset_id).version == 3


def test_rows_that_are_nearly_the_same_are_found_shown_and_kept_on_one_side(service: Service, tmp_path: Path) -> None:
    chance = random.Random(0)
    answers = [" ".join(chance.choices(WORDS, k=120)) for _ in range(60)]
    answers += [answer.replace(answer.split()[60], "but", 1) for answer in answers[:30]]
    rows: list[object] = [{"prompt": f"Question {n}?", "completion": answer} for n, answer in enumerate(answers)]
    done = rest(service, service.data.begin(lines(tmp_path / "near.jsonl", rows)))
    assert done.dataset_id is not None
    health = service.data.health(done.dataset_id)
    found = health.found("near_duplicates") if health is not None else None
    assert found is not None and found.count >= 25
    assert all(row - of == 60 for row, of in zip(found.first, found.of, strict=True))
    model = write_tiny_model(tmp_path / "tiny")
    data, optim = {"dataset_id": done.dataset_id, "holdout": 0.3}, {"steps": 1, "evaluations": 1}
    run = service.submit(parse({"name": "near", "base_model": str(model), "data": data, "optim": optim}))
    service.start()
    wait_for(lambda: service.run(run.id).has_ended, 90)
    told = [event.text for event in service.events(run.id)[0] if isinstance(event, Note)]
    assert f"{found.count} rows are nearly others; such rows are held back together or not at all" in told


def test_an_app_that_closes_takes_its_readers_with_it(tmp_path: Path) -> None:
    service = Service(tmp_path / "home", models_root=tmp_path / "models")
    intake = service.data.begin(lines(tmp_path / "large.jsonl", PAIRS * 5_000))
    reader = service.data.intakes._readers[intake.id]._child
    service.close()
    assert reader is not None and not reader.is_alive and left(service) == []


def test_what_a_killed_app_was_reading_is_gone_when_another_starts_and_what_is_being_read_stays(tmp_path: Path) -> None:
    datasets = tmp_path / "home" / "datasets"
    for name in (".old", ".old.download", ".new"):
        (datasets / name).mkdir(parents=True)
        (datasets / name / "records.jsonl").write_text("{}")
    for path in (*datasets.glob(".old*"), *datasets.glob(".old*/*")):
        os.utime(path, (time.time() - 7200,) * 2)
    service = Service(tmp_path / "home", models_root=tmp_path / "models")
    service.start()
    service.close()
    assert left(service) == [".new"]
