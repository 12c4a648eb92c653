"""The command line as a terminal or a script sees it: exit codes, sentences, JSON lines."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.home import PROJECT
from jobs.journal import read_events
from jobs.store import Store
from jobs.views import Run
from tests.jobs.stand_in import write_adapter
from tests.jobs.waiting import wait_for

APP = (sys.executable, str(PROJECT / "app.py"))


@dataclass(frozen=True)
class Terminal:
    """Runs app.py somewhere else than in the project's folder."""

    folder: Path

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        environment = {**os.environ, "LORA_WORKBENCH_HOME": str(self.folder / "home")}
        return subprocess.Popen(
            [*APP, *map(str, arguments)],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: object) -> Answer:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        return Answer(process.returncode, out, err)


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Standard output, of which every line must be a JSON object."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Terminal, Answer, Path]:
    """A terminal, what `train --json` said in it, and the adapter's folder."""
    terminal = Terminal(tmp_path_factory.mktemp("trained"))
    rows = [{"prompt": f"What is {i}?", "completion": f"It is {i}, matey."} for i in range(20)]
    (terminal.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (terminal.folder / "model").symlink_to(tiny_model)
    options = ("--model", "./model", "--rank", 4, "--steps", 3, "--batch-size", 4, "--json")
    answer = terminal("train", "--data", "rows.jsonl", "--output", "out", *options)
    return terminal, answer, terminal.folder / "out"


def running(store: Store) -> Run:
    """The run that is going on, once the store says so: a step may be told a moment earlier."""
    (run,) = wait_for(lambda: [run for run in store.runs() if run.state == "running"])
    return run


def refusal(answer: Answer) -> str:
    """The one sentence of a request that was wrong."""
    assert (answer.code, answer.out) == (2, ""), answer
    (sentence,) = answer.err.splitlines()
    assert sentence.endswith(".")
    return sentence


# -- train -----------------------------------------------------------------------------------------------------------


def test_training_prints_events_and_last_what_came_of_it(trained: tuple[Terminal, Answer, Path]) -> None:
    _, answer, output = trained
    assert answer.code == 0, answer.err
    kinds = [line["event"] for line in answer.lines]
    assert kinds[0] == "preparing" and kinds.count("step") == 3 and kinds[-1] == "finished"
    last = answer.lines[-1]
    promised = "output steps tokens seconds tokens_per_second peak_rss_bytes first_loss last_loss eval_loss"
    assert last.keys() >= set(promised.split())
    assert (last["output"], last["steps"]) == ("out", 3)
    assert last["tokens"] > 0 and last["tokens_per_second"] == pytest.approx(last["tokens"] / last["seconds"])
    assert sorted(path.name for path in output.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_an_earlier_adapter_is_replaced_and_a_file_sets_what_flags_do_not(
    trained: tuple[Terminal, Answer, Path], tmp_path: Path
) -> None:
    terminal, _, _ = trained
    config = tmp_path / "run.yaml"
    config.write_text(
        "name: from yaml\nbase_model: model\nlora:\n  rank: 2\n  targets: [q_proj]\noptim:\n  steps: 50\n"
    )
    output = tmp_path / "adapter"
    write_adapter(output, b"old")
    answer = terminal("train", "--config", config, "--data", "rows.jsonl", "--output", output, "--steps", 1)
    assert answer.code == 0, answer.err
    assert "step 1 " in answer.out and "step 2 " not in answer.out
    settings = json.loads((output / "adapter_config.json").read_text())
    assert (settings["r"], settings["target_modules"]) == (2, ["q_proj"])
    assert (output / "adapter_model.safetensors").stat().st_size > 100
    assert "from yaml" in terminal("runs").out


def test_a_run_that_fails_ends_with_1_and_says_why(trained: tuple[Terminal, Answer, Path], tmp_path: Path) -> None:
    terminal, _, _ = trained
    options = ("--model", "model", "--rank", 4, "--steps", 500, "--json")
    process = terminal.start("train", "--data", "rows.jsonl", "--output", tmp_path / "out", *options)
    assert process.stdout is not None
    while json.loads(process.stdout.readline())["event"] != "step":
        pass
    run = running(_store(terminal))
    os.kill(run.pid or 0, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["title"]) == ("failed", "The worker died (signal 9)")
    assert err.startswith("The worker died (signal 9); resume the run")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_stops_the_run_and_keeps_what_it_learned(trained: tuple[Terminal, Answer, Path], tmp_path: Path) -> None:
    terminal, _, _ = trained
    options = ("--model", "model", "--rank", 4, "--epochs", 900, "--json")
    process = terminal.start("train", "--data", "rows.jsonl", "--output", tmp_path / "out", *options)
    assert process.stdout is not None
    while json.loads(process.stdout.readline())["event"] != "step":
        pass
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["stopped"]) == ("finished", True)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_the_run_going(terminal: Terminal, dataset_file: Path, tiny_model: Path) -> None:
    options = ("--model", tiny_model, "--rank", 4, "--epochs", 900)
    process = terminal.start("train", "--data", dataset_file, "--output", "out", *options)
    run = wait_for(
        lambda: (terminal.folder / "home" / "workbench.db").exists() and next(iter(_store(terminal).runs()), None)
    )
    assert process.stderr is not None
    wait_for(lambda: _store(terminal).run(run.id).state == "preparing")
    process.send_signal(signal.SIGINT)
    assert "Ctrl-C again" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, f"The run {run.id} goes on" in err) == (130, True)
    answer = terminal("runs", "cancel", run.id)
    assert answer.code in (0, 2), answer.err  # it may have ended meanwhile, since it had been asked to stop
    assert _store(terminal).run(run.id).has_ended


BAD_REQUESTS = [
    (("train",), "--output"),
    (("train", "--output", "out"), "--data"),
    (("train", "--output", "out", "--data", "none.jsonl"), "none.jsonl"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--rank", "0"), "Rank is 0"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--rank", "x"), "--rank"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--rank", "999"), "Rank 999"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--targets", "q_prj"), "q_proj"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--bits", "5"), "Bits is 5"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--method", "full", "--bits", "4"), "cannot be trained"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--method", "bitfit"), "no biases to train"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--init", "magic"), "Init is 'magic'"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--rank", "3", "--init", "orthogonal"), "3 is odd"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--layers", "0-x"), "--layers: '0-x'"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--layers", "7"), "layer 7"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--rank-pattern", "q_prj=4"), "'q_prj'"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--task", "classification"), "no labels"),
    (("combine", "--adapter", "nowhere", "--output", "x"), "nowhere"),
    (("export", "--adapter", ".", "--to", "peft", "--output", "x", "--fp32"), "about merging"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--epochs", "1", "--steps", "1"), "Epochs and steps"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--model", "./nowhere"), "./nowhere"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--config", "unknown.yaml"), "lora.ranks"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--config", "broken.yaml"), "not YAML"),
    (("train", "--output", "out", "--data", "rows.jsonl", "--config", "list.yaml"), "no settings"),
    (("train", "--output", "rows.jsonl", "--data", "rows.jsonl"), "is a file"),
    (("train", "--output", ".", "--data", "rows.jsonl"), "not empty"),
    (("chat",), "--prompt"),
    (("chat", "--prompt", "hi", "--adapter", "nowhere"), "nowhere"),
    (("export", "--adapter", ".", "--to", "peft", "--output", "x"), "holds no adapter"),
    (("runs", "show", "../../x"), "no run ../../x"),
    (("runs", "cancel", "x"), "no run x"),
    (("runs", "resume", "x"), "no run x"),
    (("bench", "nothing"), "nothing"),
    (("ui", "--host", "0.0.0.0"), "login"),
    (("ui", "--port", "0"), "--port"),
    (("nonsense",), "nonsense"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), BAD_REQUESTS, ids=lambda value: " ".join(value)[:60])
def test_a_wrong_request_ends_with_2_one_sentence_and_no_trace(
    terminal: Terminal, dataset_file: Path, tiny_model: Path, arguments: tuple[str, ...], says: str
) -> None:
    dataset_file.rename(terminal.folder / "rows.jsonl")
    (terminal.folder / "unknown.yaml").write_text("lora: {ranks: 3}")
    (terminal.folder / "broken.yaml").write_text("lora: {rank")
    (terminal.folder / "list.yaml").write_text("- 1\n")
    if "rows.jsonl" in arguments and "--model" not in arguments:
        arguments = (*arguments, "--model", str(tiny_model))
    assert says in refusal(terminal(*arguments))
    assert not (terminal.folder / "out").exists()
    home = terminal.folder / "home"
    if home.exists():
        assert (_store(terminal).runs(), _store(terminal).datasets()) == ((), ())


def test_a_port_that_is_taken_is_said(terminal: Terminal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"Port {port}" in refusal(terminal("ui", "--port", port))


# -- chat, export, runs, bench ---------------------------------------------------------------------------------------


def test_chat_answers_for_the_base_and_each_adapter(trained: tuple[Terminal, Answer, Path]) -> None:
    terminal, _, _ = trained
    options = ("--prompt", "What is 7?", "--max-new-tokens", 5, "--json")
    answer = terminal("chat", "--model", "model", "--adapter", "out", *options)
    assert answer.code == 0, answer.err
    assert [line["adapter"] for line in answer.lines] == [None, "out"]
    for line in answer.lines:
        assert line.keys() == {"adapter", "text", "tokens", "seconds"}
        assert 0 < line["tokens"] <= 5 and line["seconds"] > 0
    spoken = terminal("chat", "--adapter", "out", *options[:-1])
    assert spoken.code == 0, spoken.err
    assert [line for line in spoken.out.splitlines() if line.startswith("──")] == ["── base", "── out"]
    for line in answer.lines:
        assert line["text"].strip() in spoken.out


def test_an_adapter_is_exported_as_folder_zip_and_merged_model(
    trained: tuple[Terminal, Answer, Path], tmp_path: Path
) -> None:
    terminal, _, output = trained
    assert terminal("export", "--adapter", "out", "--to", "peft", "--output", tmp_path / "copy").code == 0
    for path in output.iterdir():  # the card tells of a check, and of no folder of this machine
        is_card = path.name == "README.md"
        assert ((tmp_path / "copy" / path.name).read_bytes() == path.read_bytes()) is not is_card
    assert terminal("export", "--adapter", "out", "--to", "peft", "--output", tmp_path / "a.zip").code == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert sorted(archive.namelist()) == sorted(path.name for path in output.iterdir())
    merged = terminal("export", "--adapter", "out", "--to", "merged", "--output", tmp_path / "merged")
    assert merged.code == 0, merged.err
    assert (tmp_path / "merged" / "config.json").is_file()
    assert "moves a weight by up to" in merged.err
    gguf = terminal("export", "--adapter", "out", "--to", "gguf", "--output", tmp_path / "a.gguf")
    assert gguf.code == 0 and (tmp_path / "a.gguf").read_bytes().startswith(b"GGUF")
    assert "'onnx'" in refusal(terminal("export", "--adapter", "out", "--to", "onnx", "--output", tmp_path / "x"))
    assert "is there already" in refusal(
        terminal("export", "--adapter", "out", "--to", "merged", "--output", tmp_path / "merged")
    )


@pytest.mark.slow
def test_adapters_are_combined_and_shrunk(trained: tuple[Terminal, Answer, Path], tmp_path: Path) -> None:
    terminal, _, _ = trained
    both = ("combine", "--adapter", "out", "--adapter", "out", "--weight", 0.5, "--weight", 0.25)
    answer = terminal(*both, "--output", tmp_path / "sum")
    assert (answer.code, "The sum is exact" in answer.err) == (0, True), answer.err
    assert json.loads((tmp_path / "sum" / "adapter_config.json").read_text())["r"] == 8
    answer = terminal("shrink", "--adapter", tmp_path / "sum", "--rank", 4, "--output", tmp_path / "small")
    assert (answer.code, "Rank 4 keeps 100.0%" in answer.err) == (0, True), answer.err
    assert "give one of the two" in refusal(terminal("shrink", "--adapter", "out", "--output", tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_the_dataset_decides_on_the_task_where_nobody_does(terminal: Terminal, tiny_model: Path) -> None:
    (terminal.folder / "moods.csv").write_text("text,label\n" + "what a day,good\noh no,bad\n" * 4)
    options = ("--data", "moods.csv", "--output", "out", "--model", tiny_model, "--rank", 4, "--steps", 1)
    assert "have labels and no answers" in refusal(terminal("train", *options, "--task", "chat"))
    assert _store(terminal).datasets() == ()
    terminal("train", *options, "--json")
    (run,) = _store(terminal).runs()
    assert run.config.task == "classification"


def test_runs_are_listed_and_shown(trained: tuple[Terminal, Answer, Path]) -> None:
    terminal, _, _ = trained
    first = _store(terminal).runs()[-1]
    assert terminal("runs").out == terminal("runs", "list").out
    assert first.id in terminal("runs", "--home", terminal.folder / "home").out
    shown = json.loads(terminal("runs", "show", first.id).out)
    assert (shown["id"], shown["state"], shown["config"]["lora"]["rank"]) == (first.id, "finished", 4)
    assert shown["last_event"]["event"] == "finished"
    assert shown["learned"]["level"] in ("good", "warn", "bad") and shown["learned"]["verdict"].endswith(".")


def test_a_runs_figures_are_exported(trained: tuple[Terminal, Answer, Path]) -> None:
    terminal, _, _ = trained
    run = _store(terminal).runs()[-1]
    answer = terminal("runs", "export", run.id, "--csv", "figures.csv", "--json", "-")
    rows = json.loads(answer.out)
    assert answer.code == 0 and len(rows) > 1 and [row["step"] for row in rows] == list(range(len(rows)))
    assert len((terminal.folder / "figures.csv").read_text().splitlines()) == len(rows) + 1
    assert "No file is named" in refusal(terminal("runs", "export", run.id))
    assert "cannot be written" in refusal(terminal("runs", "export", run.id, "--csv", "no/such/folder.csv"))
    assert "no run x" in refusal(terminal("runs", "export", "x", "--csv", "-"))


def test_a_run_is_resumed_from_its_checkpoint(trained: tuple[Terminal, Answer, Path]) -> None:
    terminal, _, _ = trained
    process = terminal.start(
        "train", "--data", "rows.jsonl", "--output", "never", "--model", "model", "--rank", 4, "--epochs", 40, "--json"
    )
    assert process.stdout is not None
    while json.loads(process.stdout.readline())["event"] != "saved":
        pass
    store = _store(terminal)
    run = running(store)
    os.kill(run.pid or 0, signal.SIGKILL)
    process.communicate(timeout=60)
    _, offset = read_events(store.home.run(run.id).events)
    answer = terminal("runs", "resume", run.id, "--json")
    assert answer.code == 0, answer.err
    started = next(line for line in answer.lines if line["event"] == "started")
    assert started["first_step"] > 1 and answer.lines[-1]["event"] == "finished"
    assert len(read_events(store.home.run(run.id).events, offset)[0]) == len(answer.lines)
    assert "cannot be resumed" in refusal(terminal("runs", "resume", run.id))
    assert "already ended" in refusal(terminal("runs", "cancel", run.id))


def test_benchmarks_are_listed(terminal: Terminal) -> None:
    answer = terminal("bench", "--list")
    assert answer.code == 0 and "training" in answer.out


def test_help_needs_nothing_heavy() -> None:
    code = "import sys, app; print([m for m in ('torch', 'sqlalchemy', 'gradio', 'pydantic') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def _store(terminal: Terminal) -> Store:
    from jobs.home import open_home

    return Store(open_home(terminal.folder / "home"))
