"""A random two-layer Llama with a byte-level tokenizer, written without torch: small enough to train in a blink."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

WIDTH, INNER, HEADS, KV_HEADS, LAYERS = 32, 64, 4, 2, 2
END = "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write the model into `folder`; returns it."""
    folder.mkdir(parents=True)
    vocabulary = _write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(_config(vocabulary)))
    random = np.random.default_rng(seed)
    shapes = _shapes(vocabulary)
    weights = {name: (random.standard_normal(shape) * 0.05).astype(np.float32) for name, shape in shapes.items()}
    weights |= {name: np.ones(WIDTH, np.float32) for name in shapes if "norm" in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _write_tokenizer(folder: Path) -> int:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", END])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer.get_vocab_size()


def _config(vocabulary: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "hidden_act": "silu",
        "vocab_size": vocabulary, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1, "torch_dtype": "float32",
    }  # fmt: skip


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    narrow = WIDTH // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, WIDTH),
        "model.norm.weight": (WIDTH,),
    }
    for layer in range(LAYERS):
        here = f"model.layers.{layer}"
        for name, out in (("q", WIDTH), ("k", narrow), ("v", narrow), ("o", WIDTH)):
            shapes[f"{here}.self_attn.{name}_proj.weight"] = (out, WIDTH)
        shapes[f"{here}.mlp.gate_proj.weight"] = shapes[f"{here}.mlp.up_proj.weight"] = (INNER, WIDTH)
        shapes[f"{here}.mlp.down_proj.weight"] = (WIDTH, INNER)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{here}.{norm}.weight"] = (WIDTH,)
    return shapes
