"""Prompts out of what is typed, files and datasets."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import DataError, NotFound
from jobs import prompt_sources
from jobs.service import Service


def test_each_line_is_a_prompt_and_a_sign_stands_for_a_break_inside_one() -> None:
    prompts = ("What is a star?", "Sort:\nb\na")
    assert prompt_sources.as_lines(prompts) == "What is a star?\nSort:⏎b⏎a"
    assert prompt_sources.lines(" \nWhat is a star?\n\nSort:⏎b⏎a\n") == list(prompts)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "What is 1?\nWhat is 2?\n\nWhat is 3?\n"),
        ("a.csv", "id,prompt\n1,What is 1?\n2,What is 2?\n3,What is 3?\n"),
        ("a.jsonl", "".join(f'{{"question": "What is {at}?", "answer": "no"}}\n' for at in (1, 2, 3))),
        ("a.jsonl", "".join(f'{{"anything": "What is {at}?"}}\n' for at in (1, 2, 3))),
        (
            "a.jsonl",
            "".join(
                '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "What is N?"}, '
                '{"role": "assistant", "content": "a"}]}\n'.replace("N", str(at))
                for at in (1, 2, 3)
            ),
        ),
        ("a.json", '[{"conversations": [{"from": "human", "value": "What is 1?"}]},'
                   ' {"prompt": "What is 2?"}, {"prompt": [{"role": "user", "content": "What is 3?"}]}]'),
    ],
)  # fmt: skip
def test_a_file_of_any_kind_gives_its_prompts(tmp_path: Path, name: str, content: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    assert prompt_sources.read_file(file) == ["What is 1?", "What is 2?", "What is 3?"]


def test_an_instruction_comes_with_its_input(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"instruction": "Translate", "input": "star", "output": "Stern"}\n')
    assert prompt_sources.read_file(file) == ["Translate\n\nstar"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "left,right\n1,2\n", "no column of prompts"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt"\n', "not valid JSON"),
        ("a.exe", "x", "a.exe"),
    ],
)
def test_a_file_without_prompts_is_refused_with_a_sentence(tmp_path: Path, name: str, content: str, says: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(DataError, match=says):
        prompt_sources.read_file(file)


def test_questions_are_spread_over_a_dataset(service: Service, dataset_file: Path, tmp_path: Path) -> None:
    dataset = service.data.add(dataset_file)
    found = prompt_sources.questions(service.data, dataset.id, 4)
    assert found == ["What is 0?", "What is 3?", "What is 6?", "What is 9?"]
    assert len(prompt_sources.questions(service.data, dataset.id, 50)) == 12
    raw = tmp_path / "raw.txt"
    raw.write_text("One paragraph.\n\nAnother one.\n")
    with pytest.raises(DataError, match="ask nothing"):
        prompt_sources.questions(service.data, service.data.add(raw).id, 4)
    with pytest.raises(NotFound):
        prompt_sources.questions(service.data, "nothing", 4)
