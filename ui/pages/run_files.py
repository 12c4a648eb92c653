"""Save settings and Load settings: a run's settings as a YAML file to keep, to send to others and to load again.

Ids: `#save-settings` the link, `#load-settings` the button. The link holds the file itself, so that saving needs no
server, and works with the keyboard and in a second tab. Filling the form is `ui.pages.filling`'s.
"""

from __future__ import annotations

import base64

import gradio as gr

from core.config import RunConfig
from core.errors import ConfigError
from core.settings_file import LARGEST
from ui import markup, run_file, text
from ui.uploads import uploaded

SUFFIX = ".yaml"


def save_link() -> gr.HTML:
    """The link, without a file so far."""
    return gr.HTML(saved(None), elem_id="save-settings", apply_default_css=False)


def load_button() -> gr.UploadButton:
    """The button that asks for a file."""
    return gr.UploadButton(
        "Load settings",
        file_types=[SUFFIX, ".yml"],
        elem_id="load-settings",
        size="sm",
        type="filepath",
        min_width=120,
        scale=0,
    )


def saved(config: RunConfig | None) -> str:
    """The link that saves `config`; while there is none, a word on why it does nothing."""
    if config is None:
        return '<span class="as-button small" aria-disabled="true" title="Complete the form first">Save settings</span>'
    content = base64.b64encode(run_file.to_yaml(config).encode()).decode()
    name = markup.esc(text.stem(config.name + SUFFIX) + SUFFIX)
    return (
        f'<a class="as-button small" href="data:application/yaml;base64,{content}" download="{name}">Save settings</a>'
    )


def read(path: str, *, name: str, dataset_id: str) -> RunConfig:
    """The run in the uploaded file at `path`; it has that name and dataset where the file does not say.

    Raises:
        ConfigError: it holds no settings, or some that cannot be.
        DataError: the file was not uploaded here.
    """
    with uploaded(path).open("rb") as file:
        content = file.read(LARGEST + 1)
    if not content.strip():
        raise ConfigError("The file is empty", hint="Take one that was saved with Save settings")
    return run_file.from_yaml(content, name=name, dataset_id=dataset_id)
