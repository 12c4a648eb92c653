"""The Playground on the real page: strengths, blends, a checkpoint of a run that goes on, probabilities, branches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from core.config import parse
from jobs.service import Run, Service
from tests.browser.driver import App
from tests.browser.test_queue import end_all
from tests.jobs.tiny_model import write_tiny_model
from tests.jobs.waiting import wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
SECOND = 1000


@pytest.fixture
def service(app: App) -> Iterator[Service]:
    """A second hand on the app's home; no run outlives the test."""
    service = Service(app.home)
    yield service
    end_all(service)
    service.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


def submit(service: Service, model: Path, name: str, word: str, **optim: Any) -> Run:
    """A run that learns to begin with `word`."""
    rows = [{"prompt": f"What is {i}?", "completion": f"{word} {i}."} for i in range(20)]
    file = service.home / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = service.data.add(file)
    values = {
        "name": name, "base_model": str(model), "data": {"dataset_id": dataset.id}, "quant": {"bits": 32},
        "lora": {"rank": 4}, "optim": {"batch_size": 10, "evaluations": 1, "learning_rate": 0.02} | optim,
    }  # fmt: skip
    return service.submit(parse(values))


def trained(service: Service, model: Path, name: str, word: str) -> str:
    """The id of an adapter that begins with `word`."""
    run = submit(service, model, name, word, steps=60)
    ended = wait_for(lambda: now if (now := service.run(run.id)).is_at_rest else None, 120)
    assert ended.adapter_id, ended.error
    return ended.adapter_id


def open_playground(page: Page, url: str, query: str = "") -> None:
    page.goto(f"{url}/playground{query}")
    expect(page.locator("#pane-0 .pane")).to_be_visible(timeout=60 * SECOND)


def set_longest(page: Page, tokens: int) -> None:
    page.locator("#chat-settings button").first.click()
    page.locator("#chat-max-tokens input").fill(str(tokens))
    page.locator("#chat-settings button").first.click()


def choose_kind(page: Page, words: str) -> None:
    page.locator("#pane-kind").get_by_text(words, exact=True).click()


def until_answered(page: Page) -> None:
    expect(page.locator("#send")).to_be_visible(timeout=120 * SECOND)


def answer(page: Page, index: int) -> str:
    return page.locator(f"#pane-{index} .bubble.assistant").last.inner_text()


def ask(page: Page, prompt: str) -> list[str]:
    """Send a prompt; every pane's answer once all have ended."""
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#send").click()
    expect(page.locator("#turns li .said").last).to_have_text(prompt, timeout=60 * SECOND)
    until_answered(page)
    return [answer(page, index) for index in range(page.locator(".pane").count())]


def test_strengths_and_blends_answer_beside_the_base_and_stay_in_the_address(
    app: App, page: Page, service: Service, model: Path
) -> None:
    first, second = (trained(service, model, name, word) for name, word in (("be", "It be"), ("arr", "Arr mate")))
    open_playground(page, app.url, f"?adapters={first}")
    set_longest(page, 8)
    base, whole = ask(page, "What is 3?")
    assert whole.startswith("It be") and base != whole
    expect(page.locator("#pane-1 footer")).to_contain_text("differs from the base at token 1")
    expect(page.locator("#pane-1 header")).to_contain_text(service.adapter(first).fingerprint)

    page.locator("#pane-1 .strength input").fill("0")
    expect(page.locator("#pane-1 .strength output")).to_have_text("0")
    page.wait_for_url(f"**/playground?adapters={first}@0")
    page.locator("#clear").click()
    expect(page.locator("#pane-1 .bubble")).to_have_count(0)
    same, none = ask(page, "What is 3?")
    assert none == same == base
    expect(page.locator("#pane-1 footer")).to_contain_text("strength 0 · same as the base")

    choose_kind(page, "Blend")
    several = page.locator("#pane-several input")
    for name in ("be #", "arr #"):
        several.click()
        page.locator("ul[role=listbox] li", has_text=name).first.click()
    page.keyboard.press("Escape")
    page.locator("#pane-add").click()
    blend = page.locator("#pane-2")
    expect(blend.locator("h2")).to_have_text("be + arr")
    expect(blend.locator(".strength output")).to_have_text(["0.5", "0.5"])
    blend.locator(".strength input").nth(1).fill("-1")
    page.wait_for_url(f"**/playground?adapters={first}@0,{first}@0.5~{second}@-1")
    page.reload()
    expect(blend.locator(".strength output")).to_have_text(["0.5", "−1"], timeout=60 * SECOND)
    set_longest(page, 8)
    ask(page, "What is 3?")
    expect(blend.locator("footer")).to_contain_text("0.5 be + −1 arr")
    page.locator("#pane-0 .remove").click()
    page.wait_for_url("**/playground?panes=*")
    expect(page.locator("#pane-2 .pane")).to_have_count(0)


def test_a_checkpoint_of_a_run_that_goes_on_answers_beside_the_base(
    app: App, page: Page, service: Service, model: Path
) -> None:
    run = submit(service, model, "going", "It be", steps=20000, evaluations=200)
    wait_for(lambda: service.checkpoints.of(run.id), 120)
    open_playground(page, app.url)
    choose_kind(page, "Checkpoint")
    page.locator("#pane-one input").click()
    page.locator("ul[role=listbox] li", has_text="still training").first.click()
    page.locator("#pane-add").click()
    pane = page.locator("#pane-1")
    expect(pane.locator("h2")).to_contain_text("going · step", timeout=60 * SECOND)
    set_longest(page, 8)
    base, tuned = ask(page, "What is 3?")
    assert base and tuned and base != tuned
    assert service.run(run.id).state == "running"
    (opened,) = [one for one in service.checkpoints.of(run.id) if one.path]
    fingerprint = service.checkpoints.open(run.id, opened.step).fingerprint
    expect(pane.locator("header code")).to_have_text(f"#{fingerprint}")
    page.wait_for_url(f"**/playground?adapters={run.id}:{opened.step}")


def test_tokens_show_their_probability_and_the_bases_alternatives_to_mouse_and_keyboard(
    app: App, page: Page, service: Service, model: Path
) -> None:
    adapter = trained(service, model, "be", "It be")
    open_playground(page, app.url, f"?adapters={adapter}")
    set_longest(page, 8)
    page.locator("#show-probabilities input").check()
    _, tuned = ask(page, "What is 3?")
    tokens, popover = page.locator("#pane-1 .token"), page.locator("#token-popover")
    assert tuned.startswith("It be") and tokens.count() == 8
    told = json.loads(tokens.first.get_attribute("data-token") or "")
    assert told["own"][0] == "I" and told["own"][2][0][0] == "I" and len(told["base"][2]) == 5
    assert told["own"][1] > told["base"][1]

    expect(popover).to_have_count(0)
    tokens.nth(1).hover()
    expect(popover).to_be_visible()
    expect(popover).to_contain_text("This model")
    expect(popover).to_contain_text("The base")
    expect(popover.locator("section").first.locator("li.chosen code")).to_have_text("t")
    expect(popover.locator("section").nth(1).locator("li.chosen .share")).to_contain_text("%")
    page.mouse.move(2, 2)
    expect(popover).to_be_hidden()

    tokens.first.focus()
    expect(popover).to_be_visible()
    expect(tokens.first).to_have_attribute("aria-describedby", "token-popover")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(popover.locator("section").first.locator("li.chosen code")).to_have_text("␣")
    page.keyboard.press("Escape")
    expect(popover).to_be_hidden()
    page.locator("#show-probabilities input").uncheck()
    expect(tokens).to_have_count(0)
    assert answer(page, 1) == tuned


def message(page: Page, at: int) -> Locator:
    return page.locator("#turns li").nth(at - 1)


def test_a_message_is_changed_retried_and_gone_back_to_and_every_branch_stays(
    app: App, page: Page, service: Service, model: Path
) -> None:
    adapter = trained(service, model, "be", "It be")
    open_playground(page, app.url, f"?adapters={adapter}")
    page.locator("#chat-settings button").first.click()
    page.locator("#chat-max-tokens input").fill("8")
    page.locator("#chat-temperature input").fill("2")
    ask(page, "What is 3?")
    first = answer(page, 0)
    message(page, 1).get_by_role("button", name="again").click()
    expect(message(page, 1)).to_contain_text("seed 1", timeout=60 * SECOND)
    until_answered(page)
    second = answer(page, 0)
    assert second != first
    message(page, 1).get_by_role("button", name="Earlier branch").click()
    expect(message(page, 1)).to_contain_text("1 of 2")
    assert answer(page, 0) == first

    ask(page, "And 4?")
    message(page, 2).get_by_role("button", name="Edit").click()
    expect(page.locator("#prompt textarea")).to_have_value("And 4?")
    expect(page.locator("#editing")).to_contain_text("changing message 2")
    page.locator("#prompt textarea").fill("And 5?")
    page.locator("#send").click()
    expect(message(page, 2)).to_contain_text("2 of 2", timeout=60 * SECOND)
    until_answered(page)
    expect(page.locator("#pane-0 .bubble.user")).to_have_text(["What is 3?", "And 5?"])
    expect(page.locator("#editing")).not_to_contain_text("changing")
    message(page, 2).get_by_role("button", name="Later branch").click()
    expect(page.locator("#pane-0 .bubble.user")).to_have_text(["What is 3?", "And 4?"])

    message(page, 1).get_by_role("button", name="Continue from").click()
    expect(page.locator("#pane-0 .bubble.user")).to_have_text(["What is 3?"])
    expect(page.locator("#turns")).to_contain_text("2 ways lead on from here")
    page.locator("#turns .ahead button").click()
    expect(page.locator("#pane-0 .bubble.user")).to_have_text(["What is 3?", "And 4?"])
    assert page.locator("#pane-0 .bubble.assistant").first.inner_text() == first
