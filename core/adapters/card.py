"""The README that travels with an adapter: what it is, how it was made, how to load it elsewhere."""

from __future__ import annotations

from pathlib import Path

from core.config import STARTER, RunConfig

CARD = """---
base_model: {base_model}
library_name: peft
tags: [lora]
---

# {name}

A LoRA adapter for `{base_model}`, trained with LoRA Workbench and stored in PEFT's format.

| | |
|---|---|
| rank, alpha, dropout | {rank}, {alpha:g}, {dropout:g} |
| base while training | {bits}-bit |
| learning rate, rows a step, seed | {learning_rate}, {batch_size}, {seed} |
| evaluation loss | {losses} |

## Load it

```python
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = "{base_model}"
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
model = PeftModel.from_pretrained(model, "path/to/this/folder")

messages = [{{"role": "user", "content": "Hello!"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0], skip_special_tokens=True))
```
{remark}"""

STARTER_REMARK = """
The starter model is that model with weights that were once rounded to 4 bits (Q4_1); outputs on the original weights
differ slightly from what the workbench showed.
"""


def write_card(
    folder: Path, config: RunConfig, base_model: str, *, eval_loss: float | None, base_eval_loss: float | None
) -> None:
    """Write `README.md` into the adapter's folder. Losses are nats a trained token on held-out rows, if there were."""
    losses = "not measured"
    if eval_loss is not None:
        losses = f"{eval_loss:.3f}" + (f" (base model: {base_eval_loss:.3f})" if base_eval_loss is not None else "")
    text = CARD.format(
        base_model=base_model,
        name=config.name,
        rank=config.lora.rank,
        alpha=config.lora.alpha,
        dropout=config.lora.dropout,
        bits=config.quant.bits,
        learning_rate="automatic" if config.optim.learning_rate is None else f"{config.optim.learning_rate:g}",
        batch_size=config.optim.batch_size,
        seed=config.seed,
        losses=losses,
        remark=STARTER_REMARK if config.base_model == STARTER else "",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
