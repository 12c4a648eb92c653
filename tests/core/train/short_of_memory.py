"""A program: `FOLDER MEGABYTES` trains two steps on long rows with so much memory beyond what the model takes (0: all),
and leaves the trained tensors and what was said in FOLDER.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file

from core.adapters.inject import activate, inject
from core.config import LoraConfig, parse
from core.errors import RunError
from core.events import Note
from core.kernels import packed_attention
from core.models.load import LoadedModel
from core.train.loop import Loop
from tests.core.tiny import random_rows, tiny_llama
from tests.core.train.running import adapter_subject

ROWS, TOKENS = 8, 512


def main(folder: Path, megabytes: int) -> None:
    torch.set_num_threads(1)
    packed_attention.register()
    model = tiny_llama(hidden_size=256, num_hidden_layers=6, intermediate_size=1024, max_position_embeddings=TOKENS)
    model.set_attn_implementation(packed_attention.NAME)
    model.requires_grad_(False)
    inject(model, LoraConfig(targets=("all-linear",)), key="a", seed=0)
    activate(model, "a")
    loaded = LoadedModel(model=model, tokenizer=None, dtype=torch.float32, device=torch.device("cpu"), parameters=0)
    optim = {"steps": 2, "batch_size": ROWS, "micro_tokens": ROWS * TOKENS, "learning_rate": 1e-3, "evaluations": 1}
    config = parse({"name": "short", "data": {"dataset_id": "none"}, "optim": optim})
    rows = random_rows([TOKENS] * ROWS, labeled=0.05)
    loop = Loop(adapter_subject(loaded), config, rows, [], folder / "checkpoints", lambda: None)
    if megabytes:
        limit = psutil.Process().memory_info().data + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    try:
        said = [event.text for event in loop.run() if isinstance(event, Note)]
    except RunError as error:
        said = [str(error)]
    save_file({name: parameter.detach() for name, parameter in loop.parameters.items()}, folder / "trained.safetensors")
    (folder / "said.json").write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
