"""How a person's own program asks an adapter: in the Library, a few lines to copy.

Ids: in each `.adapter` a `details.serving`; `#serving-ID` holds the lines, in which `.origin` is where the page is open
(`serving.js`).
"""

from __future__ import annotations

import json

from jobs.service import Adapter
from ui import markup

_LINES = """from openai import OpenAI

client = OpenAI(base_url="{origin}/v1", api_key="your key")
answer = client.chat.completions.create(
    model={model}, messages=[{{"role": "user", "content": "What is a star?"}}]
)
print(answer.choices[0].message.content)"""
_ORIGIN = '<span class="origin">http://127.0.0.1:7860</span>'


def use_from_program(adapter: Adapter) -> str:
    """The lines, folded up; nothing for what has no words to answer with."""
    if not adapter.can_chat:
        return ""
    esc, place = markup.esc, f"serving-{adapter.id}"
    model = json.dumps(f"{adapter.name}#{adapter.fingerprint}", ensure_ascii=False)
    lines = _LINES.format(origin="ORIGIN", model=model)
    button = f'<button class="as-button small plain" type="button" data-copy="#{esc(place)}">Copy</button>'
    code = _ORIGIN.join(esc(part) for part in lines.split("ORIGIN", 1))
    return (
        '<details class="serving"><summary>Use from your program</summary>'
        f'<pre id="{esc(place)}"><code>{code}</code></pre>'
        f'<p class="card-hint">{button}'
        f" While no other adapter is called {esc(adapter.name)}, its name alone will do. On this machine any key will "
        "do, until you make one: <code>python app.py keys add NAME</code></p></details>"
    )
