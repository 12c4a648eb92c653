"""The chat process from its parent's side: it starts when asked, takes turns, and leaves when it should."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from core.data.records import Message
from core.errors import AdapterError, RunError
from core.generate.requests import Delta, PaneRequest
from jobs import machine
from jobs.chat_client import ChatClient
from jobs.home import PROJECT
from jobs.machine import CPU
from jobs.processes import birth
from jobs.views import ChatUpdate, Waiting
from tests.jobs.waiting import wait_for

COMMAND = (sys.executable, "-m", "tests.jobs.stand_in_chat")
HELLO = PaneRequest(adapter=None, messages=(Message(role="user", content="hello"),))

Connect = Callable[..., ChatClient]
Places = Callable[[], Sequence[str]]


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    clients: list[ChatClient] = []

    def connect(idle_seconds: float = 600.0, places: Places = lambda: (CPU,)) -> ChatClient:
        log = tmp_path / "chat.log"
        client = ChatClient(tmp_path, log, os.environ, places=places, idle_seconds=idle_seconds, command=COMMAND)
        clients.append(client)
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def ask(client: ChatClient, base: str = "echo") -> list[ChatUpdate]:
    return list(client.reply(base, [HELLO]))


def pid_of(updates: list[ChatUpdate]) -> int:
    (text,) = [update.text for update in updates if isinstance(update, Delta)]
    found = re.search(r"\((\d+)\)", text)
    assert found
    return int(found[1])


def read_until_text(replies: Iterator[ChatUpdate]) -> None:
    while not isinstance(next(replies), Delta):
        pass


def test_phases_come_before_the_text_and_prints_of_libraries_do_not_disturb(connect: Connect, tmp_path: Path) -> None:
    updates = ask(connect())
    phases = list(dict.fromkeys(update.phase for update in updates if isinstance(update, Waiting)))
    assert phases == ["starting", "loading echo", "reading the prompt"]
    assert isinstance(updates[-1], Delta) and updates[-1].text.startswith("None: hello") and updates[-1].done
    assert "a library prints" in (tmp_path / "chat.log").read_text()


def test_a_second_reply_needs_no_second_process(connect: Connect) -> None:
    client = connect()
    first, second = ask(client), ask(client)
    assert pid_of(first) == pid_of(second)
    assert "loading echo" not in {update.phase for update in second if isinstance(update, Waiting)}


def test_adapters_are_named_by_the_key_that_loading_them_gave(connect: Connect) -> None:
    pane = PaneRequest(adapter="/somewhere/captain", messages=HELLO.messages)
    texts = [u.text for u in connect().reply("echo", [HELLO, pane]) if isinstance(u, Delta)]
    assert [text.partition(":")[0] for text in texts] == ["None", "captain"]


def test_another_base_replaces_the_process(connect: Connect) -> None:
    client = connect()
    first = pid_of(ask(client))
    with pytest.raises(AdapterError):
        ask(client, "refuses")
    assert not psutil.pid_exists(first)
    assert pid_of(ask(client)) != first


def test_what_the_process_refuses_is_raised_as_it_was(connect: Connect) -> None:
    client = connect()
    for _ in range(2):  # and the process goes on after it
        with pytest.raises(AdapterError) as caught:
            ask(client, "refuses")
        error = caught.value
        assert (error.title, error.detail, error.hint) == ("The adapter does not fit", "layer 3", "Choose another")


def test_a_fault_of_ours_is_told_and_logged(connect: Connect, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="ValueError: no such layer"):
        ask(connect(), "breaks")
    assert "Traceback" in (tmp_path / "chat.log").read_text()


def test_a_process_that_dies_is_told_and_the_next_reply_gets_a_new_one(connect: Connect) -> None:
    client = connect()
    with pytest.raises(RunError, match="signal 9"):
        ask(client, "dies")
    assert ask(client)[-1]


def test_a_process_killed_while_idle_is_replaced_unseen(connect: Connect) -> None:
    client = connect()
    first = pid_of(ask(client))
    os.kill(first, signal.SIGKILL)
    assert pid_of(ask(client)) != first


def test_closing_the_iterator_stops_the_reply_and_keeps_the_process(connect: Connect) -> None:
    client = connect()
    replies = client.reply("endless", [HELLO])
    read_until_text(replies)
    process = client._process
    replies.close()  # type: ignore[attr-defined]
    again = client.reply("endless", [HELLO])
    read_until_text(again)
    assert client._process is process
    again.close()  # type: ignore[attr-defined]


def say(text: str) -> list[PaneRequest]:
    return [PaneRequest(adapter=None, messages=(Message(role="user", content=text),))]


def words(replies: Iterator[ChatUpdate]) -> Iterator[str]:
    return (update.text for update in replies if isinstance(update, Delta))


def test_replies_of_one_base_are_written_side_by_side(connect: Connect) -> None:
    client = connect()
    first, second = client.reply("endless", say("one")), client.reply("endless", say("two"))
    assert next(words(first)) == "one of 1 "
    wait_for(lambda: next(words(second)) == "two of 2 ")
    wait_for(lambda: next(words(first)) == "one of 2 ")
    assert list(words(client.reply("endless", say("short")))) == ["short of 3 "] * 3
    first.close()  # type: ignore[attr-defined]
    wait_for(lambda: next(words(second)) == "two of 1 ")
    second.close()  # type: ignore[attr-defined]


def test_what_is_refused_to_one_is_nothing_to_the_others(connect: Connect) -> None:
    client = connect()
    other = client.reply("endless", say("on"))
    read_until_text(other)
    with pytest.raises(AdapterError, match="does not fit"):
        list(client.reply("endless", say("refuse")))
    assert next(words(other))
    other.close()  # type: ignore[attr-defined]


def test_another_base_waits_its_turn_and_nobody_overtakes_it(connect: Connect) -> None:
    client = connect()
    first = client.reply("endless", say("one"))
    read_until_text(first)
    other = client.reply("echo", say("other"))
    assert next(other) == Waiting(phase="waiting for another reply")
    late = client.reply("endless", say("late"))
    assert next(late) == Waiting(phase="waiting for another reply")
    process = client._process
    first.close()  # type: ignore[attr-defined]
    with ThreadPoolExecutor(2) as pool:
        late_word = pool.submit(lambda: next(words(late)))
        assert "other" in "".join(words(other))
        assert late_word.result(30) == "late of 1 "
    assert client._process is not process
    late.close()  # type: ignore[attr-defined]


def test_who_waits_and_gives_up_is_no_longer_waited_for(connect: Connect) -> None:
    client = connect()
    first = client.reply("endless", say("one"))
    read_until_text(first)
    given_up = client.reply("echo", say("other"))
    next(given_up)
    given_up.close()  # type: ignore[attr-defined]
    assert list(words(client.reply("endless", say("short"))))
    first.close()  # type: ignore[attr-defined]


def test_a_process_that_dies_is_told_to_all_whose_text_had_begun(connect: Connect) -> None:
    client = connect()
    replies = [client.reply("endless", say("on")) for _ in range(3)]
    for reply in replies:
        read_until_text(reply)
    assert client._process is not None
    os.kill(client._process._child.pid, signal.SIGKILL)
    for reply in replies:
        with pytest.raises(RunError, match="signal 9"):
            list(reply)
    assert list(words(client.reply("endless", say("short"))))


def test_a_process_leaves_after_the_last_of_several_replies_and_who_comes_meanwhile_waits(connect: Connect) -> None:
    client = connect()
    replies = [client.reply("endless", say("on")) for _ in range(2)]
    for reply in replies:
        read_until_text(reply)
    process = client._process
    assert process is not None
    client.leave("cpu")
    late = client.reply("endless", say("short"))
    assert next(late) == Waiting(phase="waiting for another reply")
    replies[0].close()  # type: ignore[attr-defined]
    assert process._child.poll() is None and next(words(replies[1]))
    replies[1].close()  # type: ignore[attr-defined]
    assert process._child.poll() is not None
    assert len(list(words(late))) == 3 and client._process is not process


def test_an_idle_process_leaves_when_a_run_needs_the_device(connect: Connect) -> None:
    client = connect()
    pid = pid_of(ask(client))
    client.leave("cuda:0")  # which is not where it sits
    assert psutil.pid_exists(pid)
    client.leave("cpu")
    assert not psutil.pid_exists(pid)
    assert pid_of(ask(client)) != pid


def test_a_process_in_the_middle_of_a_reply_leaves_after_it(connect: Connect) -> None:
    client = connect()
    replies = client.reply("endless", [HELLO])
    read_until_text(replies)
    process = client._process
    assert process is not None
    client.leave("cpu")
    assert isinstance(next(replies), Delta)
    replies.close()  # type: ignore[attr-defined]
    assert process._child.poll() is not None and client._process is None
    assert ask(client)[-1]


def test_it_sits_where_no_run_is_and_comes_back(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpu_names", lambda: ("one", "another"))
    free = ["cuda:0", "cuda:1"]
    client = connect(places=lambda: tuple(free) or ("cpu",))

    def place() -> str:
        (text,) = [update.text for update in ask(client) if isinstance(update, Delta)]
        return text.partition(" on ")[2]

    assert place() == "'1'"
    free.remove("cuda:0")  # a run has begun there, which is nothing to us
    assert place() == "'1'"
    free.remove("cuda:1")
    client.leave("cuda:1")
    assert place() == "''"
    free.append("cuda:0")
    assert place() == "'0'"
    free.append("cuda:1")
    assert place() == "'0'"


def test_a_process_that_has_nothing_to_do_leaves_by_itself(connect: Connect) -> None:
    client = connect(idle_seconds=0.1)
    ask(client)
    wait_for(lambda: client._process is not None and not client._process.serves("echo", (CPU,)))
    assert ask(client)[-1]


def test_closing_ends_a_reply_that_another_thread_reads(connect: Connect) -> None:
    client = connect()
    replies = client.reply("endless", [HELLO])
    read_until_text(replies)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(list, replies)
        client.close()
        wait_for(reading.done)
    with pytest.raises(RunError, match="closing"):
        ask(client)


def test_the_process_leaves_when_its_parent_is_killed(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from jobs.chat_client import ChatClient
from tests.jobs.test_chat_client import COMMAND, ask, pid_of
client = ChatClient(Path(sys.argv[1]), Path(sys.argv[1], "chat.log"), os.environ, command=COMMAND)
print(pid_of(ask(client)), flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE) as app:
        assert app.stdout is not None
        chat = int(app.stdout.readline())
        app.kill()
    wait_for(lambda: birth(chat) is None)
