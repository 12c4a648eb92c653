"""Votes on the real page: blind, taken back, counted; a prompt set asked in bulk, voted on, ranked, given out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from jobs.service import Service
from tests.browser.driver import App
from tests.browser.test_playground import (
    SECOND,
    ask,
    model,
    open_playground,
    service,
    set_longest,
    trained,
)

__all__ = ["model", "service"]  # fixtures

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]


def html_of_answers(page: Page) -> str:
    return str(page.evaluate("document.querySelector('#panes').outerHTML + document.querySelector('#votes').outerHTML"))


def heads(page: Page) -> list[str]:
    return [words.strip() for words in page.locator("#panes .pane h2").all_inner_texts()]


@pytest.fixture
def adapter(service: Service, model: Path) -> Iterator[str]:
    return trained(service, model, "piratical", "It be")


def test_who_answers_is_hidden_until_the_vote_which_can_be_changed_and_taken_back(
    app: App, page: Page, service: Service, adapter: str
) -> None:
    open_playground(page, app.url, f"?adapters={adapter}&blind=1")
    expect(page.locator("#blind input")).to_be_checked()
    set_longest(page, 8)
    page.locator("#show-probabilities input").check()
    fingerprint, number = service.adapter(adapter).fingerprint, 0
    orders = set()
    for number in range(1, 20):
        said = ask(page, f"What is {number}?")
        assert heads(page) == ["A", "B"]
        source = html_of_answers(page)
        for word in ("piratical", fingerprint[:4], adapter, "data-pane", "base", "tokens/s", "differs", "data-token"):
            assert word not in source, word
        orders.add(said[0].startswith("It be"))
        if len(orders) == 2:
            break
        page.locator("#clear").click()
        expect(page.locator("#panes .bubble")).to_have_count(0)
    assert len(orders) == 2, "the order was never drawn anew"

    expect(page.locator("[data-best]")).to_have_count(2)
    page.locator("h1").click()
    page.keyboard.press("1")
    tuned_is_a = said[0].startswith("It be")
    winner, loser = ("piratical", "tiny") if tuned_is_a else ("tiny", "piratical")
    expect(page.locator("#votes")).to_contain_text(re.compile(f"Voted: {winner}.*A was {winner}.*B was {loser}", re.S))
    expect(page.locator("#panes .pane header code")).to_have_text(f"#{fingerprint}")
    expect(page.locator("#panes .token")).not_to_have_count(0)  # the base's may be blank, and so out of sight
    (vote,) = service.votes.all()
    assert vote.outcome == "win" and vote.answers[0].text == said[0] and vote.settings["blind"] is True
    assert [message.content for message in vote.prompt] == [f"What is {number}?"]

    page.locator("#prompt textarea").focus()
    page.keyboard.press("t")
    expect(page.locator("#prompt textarea")).to_have_value("t")
    assert service.votes.all()[0].id == vote.id
    page.get_by_role("button", name="Tie").click()
    expect(page.locator("#votes")).to_contain_text("Voted: a tie")
    assert [each.outcome for each in service.votes.all()] == ["tie"]
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#votes")).to_contain_text("Which answer is the best?")
    assert service.votes.all() == ()

    page.get_by_role("button", name="B is the best").click()
    expect(page.locator("#votes")).to_contain_text(f"Voted: {loser}")
    page.reload()
    expect(page.locator("#blind input")).to_be_checked(timeout=60 * SECOND)
    page.locator("#who-wins button").first.click()
    expect(page.locator("#ranking tbody tr")).to_have_count(2)
    expect(page.locator("#ranking tbody tr").first).to_contain_text(loser)
    expect(page.locator(".ranking-says")).to_contain_text("Not enough votes to tell")


def test_panes_that_are_the_same_get_no_vote_until_one_differs(
    app: App, page: Page, service: Service, adapter: str
) -> None:
    open_playground(page, app.url, f"?panes={adapter},{adapter}")
    set_longest(page, 4)
    ask(page, "What is 3?")
    expect(page.locator("#votes")).to_contain_text("two panes are the same")
    expect(page.locator("[data-best]")).to_have_count(0)
    page.locator("#pane-1 .strength input").fill("0.5")
    expect(page.locator("#pane-1 .strength output")).to_have_text("0.5")
    ask(page, "What is 4?")
    expect(page.locator("#votes button[data-vote=tie]")).to_be_visible()


def test_a_prompt_set_is_asked_in_bulk_voted_on_ranked_and_becomes_a_dataset(
    app: App, page: Page, service: Service, adapter: str, tmp_path: Path
) -> None:
    open_playground(page, app.url, f"?adapters={adapter}")
    set_longest(page, 8)
    page.locator("#prompt-sets button").first.click()
    prompts = tmp_path / "numbers.csv"
    prompts.write_text("prompt\nWhat is 1?\nWhat is 2?\nWhat is 3?\n")
    page.locator("#set-upload input[type=file]").set_input_files(prompts)
    expect(page.locator("#set-prompts textarea")).to_have_value("What is 1?\nWhat is 2?\nWhat is 3?")
    expect(page.locator("#set-name input, #set-name textarea").first).to_have_value("numbers")
    page.locator("#set-ask").click()
    vote = page.get_by_role("button", name="Vote on 3")
    expect(vote).to_be_visible(timeout=120 * SECOND)
    expect(page.locator("#rounds")).to_contain_text("3 of 3 answered")
    vote.click()

    sheet = page.locator("#sheet")
    expect(sheet).to_contain_text("Prompt 1 of 3")
    page.wait_for_url("**round=*")
    source = str(sheet.evaluate("element => element.outerHTML"))
    assert "piratical" not in source and adapter not in source and "tiny" not in source
    page.get_by_role("button", name="Skip").click()
    expect(sheet).to_contain_text("Prompt 2 of 3")
    vote_for_the_pirate(page, "Prompt 2 of 3")

    page.reload()
    expect(sheet).to_contain_text("Prompt 1 of 3", timeout=60 * SECOND)
    expect(sheet).to_contain_text("1 of 3 answered prompts voted on")
    vote_for_the_pirate(page, "Prompt 1 of 3")
    page.locator("h1").click()
    page.keyboard.press("n")
    expect(sheet).to_contain_text("Prompt 3 of 3")
    page.keyboard.press("b")
    expect(sheet).to_contain_text("Voted: all bad")
    page.get_by_role("button", name="Undo").click()
    expect(sheet).to_contain_text("Which answer is the best?")
    vote_for_the_pirate(page, "Prompt 3 of 3")
    page.get_by_role("button", name="Next", exact=True).click()
    expect(sheet.locator("tbody tr").first).to_contain_text("piratical")
    expect(sheet.locator("tbody tr").first).to_contain_text("100 %")

    (kept,) = service.votes.prompt_sets()
    votes = service.votes.all(kept.id)
    assert [each.settings["blind"] for each in votes] == [True, True, False] and len(votes) == 3
    sheet.get_by_role("button", name="Close").click()
    page.locator("#who-wins button").first.click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the votes").click()
    rows = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    assert len(rows) == 3 and all(row["chosen"][0]["content"].startswith("It be") for row in rows)
    page.locator("#votes-dataset").click()
    expect(page.locator("#votes-status")).to_contain_text("3 pairs, read as preference pairs", timeout=60 * SECOND)
    page.get_by_role("link", name="Train on it").click()
    expect(page.locator("#dataset-status")).to_contain_text("preference pairs", timeout=60 * SECOND)
    expect(page.locator("#dataset-status")).to_contain_text("3 conversations")


def vote_for_the_pirate(page: Page, prompt: str) -> None:
    sheet = page.locator("#sheet")
    expect(sheet).to_contain_text(prompt)
    texts = sheet.locator(".bubble.assistant").all_inner_texts()
    place = next(at for at, text in enumerate(texts) if text.startswith("It be"))
    sheet.locator(f'[data-best="{place}"]').click()
    expect(sheet).to_contain_text("Voted: piratical")
