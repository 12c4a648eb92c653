"""The tree of modules in a real browser: what is checked is what a config would say, by mouse and by keyboard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr
import pytest
from playwright.sync_api import Locator, Page, expect

from core.config import parse
from jobs.blueprint import read_blueprint
from jobs.module_tree import Node, checked_of
from jobs.module_tree import module_tree as tree_of
from jobs.service import Service
from tests.browser.conftest import Watch
from tests.core.models.test_shapes import safetensors_file
from tests.jobs.tiny_model import write_tiny_model
from ui.app import free_port, launch
from ui.blocks import QuietBlocks
from ui.pages import model_tree
from ui.pages.frame import QUICK

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
XSS = "<img src=x onerror=p=1>"
Q = "model.layers.*.self_attn.q_proj"
UP = "model.layers.*.mlp.up_proj"


class Demo:
    """A page of the tree alone, as the Train page has it: beside it the figures, a rank, and what the config says."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.service = Service(root / "home", root / "models")
        self.folder, self.rank = folder, 8
        self.tree: Node = tree_of(read_blueprint(folder))
        self.modules = model_tree.usual(self.tree)
        self.port = free_port("127.0.0.1", 0)
        self.page = self._page()
        launch(self.page, self.service, "127.0.0.1", self.port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.page.close(verbose=False)
        self.service.close()

    def _page(self) -> gr.Blocks:
        with QuietBlocks(title="Tree", analytics_enabled=False, fill_width=True) as demo:
            with gr.Column(elem_classes=["card"]):
                tree, figures = model_tree.widget(), model_tree.figures()
                rank = gr.Slider(1, 32, 8, step=1, label="Rank", elem_id="rank", buttons=[])
                said = gr.HTML("", elem_id="said", apply_default_css=False)
            outputs = [figures, said]
            demo.load(lambda: {tree: model_tree.shown(self.tree, self.modules, self.rank)}, None, [tree], **QUICK)
            follow = {**QUICK, "trigger_mode": "always_last"}
            tree.input(lambda *form: dict(zip(outputs, self.look(*form), strict=True)), [tree, rank], outputs, **follow)
            rank.change(self.at_rank(tree, outputs), [tree, rank], [tree, *outputs], **follow)
        return demo

    def at_rank(self, tree: gr.HTML, outputs: list[gr.HTML]) -> Callable[[str, int], object]:
        def answer(value: str, rank: int) -> object:
            looks = dict(zip(outputs, self.look(value, rank), strict=True))
            return {tree: model_tree.at_rank(self.tree, rank), **looks}

        return answer

    def look(self, value: str, rank: int) -> tuple[str, str]:
        self.rank, self.modules = rank, model_tree.checked(value, self.tree)
        if not self.modules:
            return "", "nothing"
        targets, layers = model_tree.said(value, self.tree)
        lora = {"rank": rank, "targets": targets, "layers": layers}
        values = {"name": "x", "base_model": str(self.folder), "data": {"dataset_id": "d"}, "lora": lora}
        line = model_tree.figures_line(self.service.estimate(parse(values)))
        return line, model_tree.said_line(targets, layers)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Two blocks of a Llama."""
    root = tmp_path_factory.mktemp("tree")
    running = Demo(root, write_tiny_model(root / "tiny"))
    yield running
    running.close()


@pytest.fixture
def tree(demo: Demo, page: Page) -> Locator:
    """The tree with what `auto` means checked."""
    demo.modules, demo.rank = model_tree.usual(demo.tree), 8
    page.goto(demo.url)
    expect(page.locator("#module-tree [role=tree]")).to_be_visible(timeout=60_000)
    return page.locator("#module-tree")


def row(tree: Locator, path: str, name: str | None = None) -> Locator:
    found = tree.locator(f"[role=treeitem][data-path='{path}']")
    return (
        found.filter(has=tree.page.locator(f":scope > .module-row .module-name:text-is('{name}')")) if name else found
    )


def press(row: Locator) -> None:
    row.locator(":scope > .module-row > .module-name").click()


def twist(row: Locator) -> None:
    row.locator(":scope > .module-row > .twist").click()


def expect_checked(row: Locator, state: str) -> None:
    expect(row).to_have_attribute("aria-checked", state)


def expect_said(page: Page, words: str) -> None:
    expect(page.locator("#said")).to_have_text(words)


def test_everything_is_checked_as_auto_says_and_a_click_takes_a_kind_out(tree: Locator, page: Page) -> None:
    for path in (Q, UP, "model.layers.*"):
        expect_checked(row(tree, path).first, "true")
    expect_checked(row(tree, "model.embed_tokens"), "false")
    press(row(tree, Q))
    expect_checked(row(tree, Q), "false")
    expect_checked(row(tree, "model.layers.*.self_attn"), "mixed")
    expect_checked(row(tree, ""), "mixed")
    expect_said(page, "k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj")
    press(row(tree, Q))
    expect_said(page, "auto")


def test_a_group_all_and_nothing(tree: Locator, page: Page) -> None:
    press(row(tree, "model.layers.*.mlp"))
    expect_said(page, "q_proj, k_proj, v_proj, o_proj")
    press(row(tree, ""))
    expect_said(page, "auto")
    press(row(tree, ""))
    expect_said(page, "nothing")
    press(row(tree, "model.embed_tokens"))
    expect_said(page, "embed_tokens")


def test_one_block_apart_is_said_by_its_full_path(tree: Locator, page: Page) -> None:
    press(row(tree, ""))
    twist(row(tree, "model.layers.*", "One by one"))
    block = row(tree, "model.layers.*", "layers.1")
    twist(block)
    twist(block.locator("[data-path='model.layers.*.mlp']"))
    press(block.locator(f"[data-path='{UP}']"))
    expect_said(page, "layers.1.mlp.up_proj")
    expect_checked(row(tree, UP).first, "mixed")
    expect(row(tree, UP).first).to_contain_text("in 1 of 2")
    press(block)
    expect_said(page, "auto in layers 1")


def test_the_figures_and_each_rows_share_follow_the_choice_and_the_rank(tree: Locator, page: Page, demo: Demo) -> None:
    press(row(tree, ""))
    press(row(tree, Q))
    expect(row(tree, Q)).to_contain_text(f"+{2 * 8 * 64:,}")
    expect(page.locator("#adapter-figures")).to_contain_text("1,024 of")
    page.locator("#rank input[type=number]").fill("16")
    page.locator("#rank input[type=number]").press("Enter")
    expect(row(tree, Q)).to_contain_text(f"+{2 * 16 * 64:,}")
    expect(tree).to_contain_text("a row adds at rank 16")
    expect(page.locator("#adapter-figures")).to_contain_text("2,048 of")
    expect_checked(row(tree, Q), "true")
    press(row(tree, UP))
    expect_said(page, "q_proj, up_proj")
    expect(row(tree, UP)).to_contain_text(f"+{2 * 16 * 96:,}")


def test_a_reload_shows_what_the_server_was_told(tree: Locator, page: Page, demo: Demo) -> None:
    press(row(tree, "model.layers.*.mlp"))
    expect_said(page, "q_proj, k_proj, v_proj, o_proj")
    page.reload()
    expect_checked(row(tree, "model.layers.*.mlp"), "false")
    expect_checked(row(tree, Q), "true")
    press(row(tree, UP))
    expect_said(page, "q_proj, k_proj, v_proj, o_proj, up_proj")


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.querySelector('.module-name')?.textContent"))


def test_the_tree_is_walked_and_checked_by_keyboard_alone(tree: Locator, page: Page) -> None:
    row(tree, "").focus()
    walk = (
        ("ArrowDown", "embed_tokens"), ("ArrowDown", "layers 0-1"), ("ArrowRight", "self_attn"),
        ("ArrowRight", "q_proj"), ("ArrowDown", "k_proj"), ("ArrowLeft", "self_attn"), ("ArrowLeft", "self_attn"),
        ("ArrowDown", "mlp"), ("Home", "All linear layers"), ("End", "lm_head"), ("ArrowUp", "norm"),
    )  # fmt: skip
    for key, name in walk:
        page.keyboard.press(key)
        assert focused(page) == name, key
    expect(row(tree, "model.layers.*.self_attn").first).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("Space")  # a norm is no target: nothing happens
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    expect_said(page, "nothing")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect_said(page, "embed_tokens")
    assert tree.locator("[tabindex='0']").count() == 1


def test_every_row_says_what_it_is_and_only_targets_have_a_box(tree: Locator) -> None:
    label = row(tree, Q).get_attribute("aria-label")
    assert label == "q_proj, 32 → 32, in all 2, adds 1,024 parameters"
    norm = row(tree, "model.norm")
    assert norm.get_attribute("aria-checked") is None
    expect(norm).to_contain_text("a vector, where LoRA needs a matrix")
    expect(row(tree, "lm_head")).to_contain_text("the same matrix as model.embed_tokens")


def test_quick_clicks_are_all_kept(tree: Locator, page: Page, demo: Demo) -> None:
    """Faster than the server answers: no answer may undo a later click."""
    page.evaluate(
        """(paths) => { for (const path of paths) document.querySelector(
            `#module-tree [data-path="${path}"] > .module-row > .module-name`).click(); }""",
        [Q, UP, "model.layers.*.self_attn.k_proj", Q, "model.layers.*.mlp.down_proj"],
    )
    expect_said(page, "q_proj, v_proj, o_proj, gate_proj")
    expected = checked_of(("q_proj", "v_proj", "o_proj", "gate_proj"), None, demo.tree)
    assert demo.modules == expected
    for path, state in ((Q, "true"), (UP, "false"), ("model.layers.*.mlp.gate_proj", "true")):
        expect_checked(row(tree, path), state)


@pytest.mark.parametrize("light", ["light", "dark"])
def test_the_tree_fits_a_narrow_screen(demo: Demo, page: Page, watch: Watch, light: str) -> None:
    page.emulate_media(color_scheme=light)  # type: ignore[arg-type]
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(demo.url)
    tree = page.locator("#module-tree")
    expect(row(tree, UP)).to_be_visible(timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    for item in tree.locator(".module-row:visible").all():
        box = item.bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 40
    assert contrast(row(tree, UP).locator(".size")) >= 4.5
    assert contrast(row(tree, UP).locator(".module-name")) >= 4.5
    assert watch.errors == []


def contrast(text: Locator) -> float:
    """Between a text and what is behind it (WCAG 2.2)."""
    return float(
        text.evaluate(
            """(node) => {
                const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
                const light = (rgb) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, at) => {
                    const part = rgb[at] / 255;
                    return sum + weight * (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
                }, 0);
                let behind = node;
                const back = (node) => getComputedStyle(node).backgroundColor;
                while ((numbers(back(behind))[3] ?? 1) === 0) behind = behind.parentElement;
                const pair = [getComputedStyle(node).color, back(behind)];
                const [low, high] = pair.map((color) => light(numbers(color))).sort((a, b) => a - b);
                return (high + 0.05) / (low + 0.05);
            }"""
        )
    )


def test_names_out_of_a_file_are_text_and_parts_of_fused_matrices_are_apart(tmp_path: Path, page: Page) -> None:
    header = {f"h.{at}.attn.c_attn.weight": (32, 96) for at in range(3)}
    header |= {f"h.{at}.mlp.{XSS}.weight": (32, 64) for at in range(3)} | {"wte.weight": (80, 32)}
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (tmp_path / "odd" / "model.safetensors").write_bytes(safetensors_file(header))
    demo = Demo(tmp_path, tmp_path / "odd")
    try:
        page.goto(demo.url)
        tree = page.locator("#module-tree")
        fused = row(tree, "h.*.attn.c_attn")
        expect_checked(fused, "true")
        expect(tree).to_contain_text(XSS)
        assert tree.locator("img").count() == 0 and page.evaluate("window.p") is None
        twist(fused)
        press(row(tree, "h.*.attn.c_attn:q"))
        expect_checked(fused, "mixed")
        expect(page.locator("#said")).to_contain_text("c_attn:k, c_attn:v")
        press(fused)
        expect_checked(row(tree, "h.*.attn.c_attn:q"), "true")
        expect_said(page, "auto")
        press(row(tree, ""))
        expect_said(page, "nothing")
        twist(row(tree, "h.*", "One by one"))
        press(row(tree, "h.*", "h.0"))
        expect_said(page, "auto in layers 0")
        row(tree, "h.*", "h.2").locator(":scope > .module-row > .module-name").click(modifiers=["Shift"])
        expect_said(page, "auto")
        expect_checked(row(tree, "h.*", "h.1"), "true")
    finally:
        demo.close()
