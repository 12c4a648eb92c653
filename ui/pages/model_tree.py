"""The tree of a model's modules as a widget: what is checked in it are the run's targets.

`widget` makes it, `shown` is the update that shows a model with what is checked in it, and `checked` reads what the
browser sends: JSON, `{path: true}` for all modules of a row and `{path: [0, 3]}` for some. `static/model_tree.js` draws
it, in the browser alone: a click is answered at once, and the server hears of it as the event `input`, to be followed
with `trigger_mode="always_last"`. No update of the value may answer that event, since the person may have clicked on
since; `at_rank` is for what follows the form.

Ids: `#module-tree`; in it each row is a `[role=treeitem]` with its path in `data-path`. `#adapter-figures` is what
would come of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import gradio as gr
import orjson

from core.config import AUTO_TARGETS
from core.errors import ConfigError
from jobs.service import Estimate, Node, module_tree
from ui import addresses, markup, text

TREE_ID, FIGURES_ID = "module-tree", "adapter-figures"
ROOT = "All linear layers"
_SCRIPT = "moduleTree(element, props, trigger, watch); /* it triggers 'input' */"

Said = tuple[tuple[str, ...], tuple[int, ...] | None]


def widget() -> gr.HTML:
    """The tree, empty until it is given a model."""
    style, script = addresses.static("model_tree.css"), addresses.static("model_tree.js")
    return gr.HTML(
        "",
        html_template='<div class="module-tree"></div>',
        js_on_load=_SCRIPT,
        head=f'<link rel="stylesheet" href="{style}"><script src="{script}"></script>',
        elem_id=TREE_ID,
        apply_default_css=False,
        tree="",
        rank=1,
    )


def figures() -> gr.HTML:
    """The line beside the tree; give it `figures_line`."""
    return gr.HTML("", elem_id=FIGURES_ID, apply_default_css=False)


def shown(tree: Node | None, modules: Collection[str], rank: int) -> Any:
    """The update that shows a model with these modules of it checked; without a tree, nothing."""
    if tree is None:
        return gr.update(value="", tree="", rank=rank)
    return gr.update(value=value_of(modules, tree), tree=as_json(tree), rank=rank)


def at_rank(tree: Node | None, rank: int) -> Any:
    """The update that shows what each row would add at another rank, and leaves what is checked."""
    return gr.update(tree=as_json(tree) if tree else "", rank=rank)


def checked(value: str | None, tree: Node) -> frozenset[str]:
    """The modules that are checked, from what the browser sent; of what it may not send, nothing."""
    modules = module_tree.modules_of(tree)
    found: set[str] = set()
    for path, which in _sent(value).items():
        names = modules.get(path, ())
        if which is True:
            found.update(names)
        elif isinstance(which, list):
            found.update(names[at] for at in which if type(at) is int and 0 <= at < len(names))
    return frozenset(found)


def said(value: str | None, tree: Node) -> Said:
    """The targets and layers that are checked, as `LoraConfig` takes them.

    Raises:
        ConfigError: on `lora.targets`, where nothing is checked.
    """
    targets, layers = module_tree.targets_of(checked(value, tree), tree)
    if not targets:
        raise ConfigError("No target modules are chosen", hint="Check at least one", field="lora.targets")
    return targets, layers


def value_of(modules: Collection[str], tree: Node) -> str:
    """The widget's value in which these modules, and no others, are checked."""
    found: dict[str, Any] = {}
    for path, names in module_tree.modules_of(tree).items():
        here = [at for at, name in enumerate(names) if name in modules]
        if here:
            found[path] = True if len(here) == len(names) else here
    return orjson.dumps(found).decode()


def carried_over(value: str | None, tree: Node) -> frozenset[str]:
    """What of another model's choice can be checked in this one: the same modules where it has them all, else all that
    are called the same where it has each name, else what `auto` means.
    """
    modules, sent = module_tree.modules_of(tree), _sent(value)
    if sent and all(_fits(which, modules.get(path, ())) for path, which in sent.items()):
        return checked(value, tree)
    last = {path: path.rpartition(".")[2] for path in modules}
    wanted = {path.rpartition(".")[2] for path in sent}
    if wanted and wanted <= set(last.values()):
        return frozenset(name for path, names in modules.items() if last[path] in wanted for name in names)
    return usual(tree)


def usual(tree: Node) -> frozenset[str]:
    """What `auto` means in this model; nothing where it has no linear layers."""
    try:
        return module_tree.checked_of((AUTO_TARGETS,), None, tree)
    except ConfigError:
        return frozenset()


def as_json(tree: Node) -> str:
    """The tree as the script draws it."""
    return orjson.dumps(_row(tree)).decode()


def figures_line(estimate: Estimate | None) -> str:
    """`2.4 M of 134.5 M parameters trained (1.8 %) · 9.8 MB on disk · 210 modules`."""
    if estimate is None:
        return '<p class="adapter-figures">Counted once the model is on this machine.</p>'
    trained, base = estimate.trainable_parameters, estimate.base_parameters
    count, modules = text.plural(estimate.adapted_modules, "module").split(" ")
    figures = (
        (text.count(trained), f"of {text.count(base)} parameters trained ({text.share(trained, base)})"),
        (text.size(estimate.adapter_bytes), "on disk"),
        (count, modules),
    )
    spans = "".join(f"<span><strong>{figure}</strong> {words}</span>" for figure, words in figures)
    return f'<p class="adapter-figures" role="status">{spans}</p>'


def said_line(targets: Collection[str], layers: Collection[int] | None) -> str:
    """The same choice as the config and the command line have it."""
    where = f" in layers {module_tree.lists.show_layers(layers)}" if layers is not None else ""
    names = ", ".join(f"<code>{markup.esc(target)}</code>" for target in targets)
    return f'<p class="card-hint">{names}{markup.esc(where)}</p>'


def _row(node: Node) -> dict[str, Any]:
    return {
        "name": node.name or ROOT,
        "path": node.path,
        "kind": node.kind,
        "size": _size(node),
        "numbers": node.numbers,
        "per_rank": node.per_rank,
        "tied": node.tied_to,
        "reason": node.reason,
        "target": node.is_target,
        "children": [_row(child) for child in node.children],
    }


def _size(node: Node) -> str:
    """`576 → 192`, `8 experts of 576 → 192`, `576`."""
    if not node.is_target or len(node.shape) < 2:
        return " × ".join(f"{size:,}" for size in node.shape)
    many = f"{node.shape[2]} experts of " if len(node.shape) > 2 else ""
    return f"{many}{node.shape[0]:,} → {node.shape[1]:,}"


def _sent(value: str | None) -> Mapping[str, Any]:
    """The value as JSON; nothing where it is something else, for a browser may send anything."""
    try:
        found = orjson.loads(value or "{}")
    except (orjson.JSONDecodeError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _fits(which: Any, names: tuple[str, ...]) -> bool:
    if which is True:
        return bool(names)
    return isinstance(which, list) and all(type(at) is int and 0 <= at < len(names) for at in which)
