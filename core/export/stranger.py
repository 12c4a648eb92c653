"""Reads an export as a program would that does not know us, and says which logits it gives: a script of its own.

It is run as a file, in a fresh process that cannot import anything of ours, with one argument, a JSON file:

    reader     transformers, peft, gguf-adapter or gguf-model
    path       what was written: a folder, or a GGUF file
    base       the base model's folder, for what needs one
    labels     the number of classes; 0 for a language model
    sequences  lists of token ids; tails: of how many last positions of each the logits are wanted
    answer     where to write them: a safetensors file with one tensor [positions, vocabulary] fp32 a sequence, and in
               its metadata `reader`, who read, and `problem`, what the tokenizer in it has otherwise than the base's

Where peft is installed it reads adapters in its format; else the few lines here do, which know less. What they do not
know ends the process with status 3 and a sentence on standard error.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import gguf
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

CANNOT = 3
PREFIX, TOKENS = "base_model.model.", ".token_adapter.trainable_tokens_delta"
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def main(order_file: str) -> None:
    """Carry out what the file says."""
    order = json.loads(Path(order_file).read_text(encoding="utf-8"))
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model, reader, problem = READERS[order["reader"]](order)
    model.eval()
    logits = {}
    with torch.inference_mode():
        for number, (tokens, tail) in enumerate(zip(order["sequences"], order["tails"], strict=True)):
            found = model(input_ids=torch.tensor([tokens])).logits[0].float()
            logits[str(number)] = (found if found.ndim == 2 else found[None])[-tail:].contiguous()
    save_file(logits, order["answer"], metadata={"reader": reader, "problem": problem})


def whole_model(order: dict[str, Any]) -> tuple[Any, str, str]:
    """A merged model, and whether its tokenizer turns the questions into the same tokens."""
    model = load(order["path"], order)
    tokenizer = transformers.AutoTokenizer.from_pretrained(order["path"], **LOCAL)
    problem = ""
    for messages, tokens in order["questions"]:
        found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        if list(found) != tokens:
            problem = "its tokenizer and chat template make other tokens of a question"
    return model, version("transformers"), problem


def adapter(order: dict[str, Any]) -> tuple[Any, str, str]:
    """An adapter in PEFT's format on its base."""
    folder, model = Path(order["path"]), load(order["base"], order)
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    grow(model, folder)
    if settings["peft_type"] == "LORA" and order["may_use_peft"] and importlib.util.find_spec("peft") is not None:
        from peft import PeftModel

        return PeftModel.from_pretrained(model, str(folder)), version("peft"), ""
    put_on(model, settings, load_file(folder / "adapter_model.safetensors"))
    return model, f"plain torch on {version('transformers')}", ""


def gguf_adapter(order: dict[str, Any]) -> tuple[Any, str, str]:
    """A LoRA adapter for llama.cpp, put back into the order in which transformers has the base's rows."""
    model, file = load(order["base"], order), gguf.GGUFReader(order["path"])
    config = model.config.get_text_config()
    arch = text_field(file, "general.architecture")
    names = gguf.get_tensor_name_map(
        next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch), config.num_hidden_layers
    )
    alpha = float(file.fields["adapter.lora.alpha"].contents())
    tensors = {tensor.name: torch.from_numpy(values(tensor)) for tensor in file.tensors}
    modules = {names.get_name(f"{name}.weight", try_suffixes=(".weight",)): name for name, _ in model.named_modules()}
    for name in sorted(key.removesuffix(".lora_a") for key in tensors if key.endswith(".lora_a")):
        a, b = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        weight = model.get_submodule(modules[name]).weight
        if name == "token_embd.weight":
            change = alpha / b.shape[1] * a @ b.t()
        else:
            change = alpha / a.shape[0] * unlaid(b @ a, name, arch, config)
        add(weight, change, turn=change.shape != weight.shape or is_turned(model, modules[name]))
    return model, f"{version('gguf')} and {version('transformers')}", ""


def gguf_model(order: dict[str, Any]) -> tuple[Any, str, str]:
    """A whole model in GGUF, which transformers expands itself; its words are compared with the base's."""
    path = Path(order["path"])
    file = gguf.GGUFReader(path)
    config = transformers.AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name, **LOCAL)
    # What transformers does not read of every architecture.
    config.head_dim = int(file.fields[f"{text_field(file, 'general.architecture')}.attention.key_length"].contents())
    if any(tensor.name == "rope_freqs.weight" for tensor in file.tensors):
        config.rope_parameters = transformers.AutoConfig.from_pretrained(order["base"], **LOCAL).rope_parameters
    model = load(str(path.parent), order, gguf_file=path.name, config=config)
    said = json.loads((Path(order["base"]) / "tokenizer.json").read_text(encoding="utf-8"))
    known = said["model"]["vocab"] | {token["content"]: token["id"] for token in said["added_tokens"]}
    words = file.fields["tokenizer.ggml.tokens"].contents()
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in said["model"]["merges"]]
    problem = ""
    if any(words[number] != word for word, number in known.items()):
        problem = "its vocabulary is not the tokenizer's"
    elif merges and file.fields["tokenizer.ggml.merges"].contents() != merges:
        problem = "its merges are not the tokenizer's"
    elif order["template"] and text_field(file, "tokenizer.chat_template") != order["template"]:
        problem = "its chat template is not the tokenizer's"
    return model, f"{version('transformers')} and {version('gguf')}", problem


def load(folder: str, order: dict[str, Any], **more: Any) -> Any:
    """The model in `folder`, in fp32."""
    if order["labels"]:
        kind, more = transformers.AutoModelForSequenceClassification, more | {"num_labels": order["labels"]}
        more["ignore_mismatched_sizes"] = True
    else:
        kind = transformers.AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32, **LOCAL, **more)


def grow(model: Any, folder: Path) -> None:
    """Give the base room for tokens that the adapter's tokenizer has beyond its own."""
    if (folder / "tokenizer.json").is_file():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)


def put_on(model: Any, settings: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """What peft would do to the weights, for linear layers, biases, whole modules and rows of embeddings."""
    left = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    if settings.get("target_parameters"):
        cannot("updates of experts")
    for name in [key.removesuffix(".lora_A.weight") for key in left if key.endswith(".lora_A.weight")]:
        a, b = left.pop(f"{name}.lora_A.weight"), left.pop(f"{name}.lora_B.weight")
        if a.ndim != 2:
            cannot("convolutions")
        magnitude = left.pop(f"{name}.lora_magnitude_vector", None)
        weight = model.get_submodule(name).weight
        turn = bool(settings.get("fan_in_fan_out"))
        add(weight, scale(settings, name) * b @ a, turn=turn)
        if magnitude is not None:
            rows = weight.data.t() if turn else weight.data
            rows = rows * (magnitude.flatten() / rows.norm(dim=1))[:, None]
            weight.data = rows.t().contiguous() if turn else rows
    for name, tensor in left.items():
        if name.endswith(TOKENS):
            rows = settings["trainable_token_indices"]
            model.get_parameter(name.removesuffix(TOKENS) + ".weight").data[rows[name.removesuffix(TOKENS)]] = tensor
        elif "lora_" in name:
            cannot("an adapted embedding")
        else:
            model.get_parameter(name.replace(".base_layer.", ".")).data = tensor


def scale(settings: dict[str, Any], module: str) -> float:
    """s of one module: α / r, or α / √r."""
    rank, alpha = (
        next((value for pattern, value in (settings.get(key) or {}).items() if matches(pattern, module)), default)
        for key, default in (("rank_pattern", settings["r"]), ("alpha_pattern", settings["lora_alpha"]))
    )
    return float(alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))


def matches(pattern: str, module: str) -> bool:
    """As peft compares a pattern with a module's name."""
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def add(weight: Tensor, change: Tensor, *, turn: bool) -> None:
    """`change` `[out, in]` on `weight`, which lies as `[in, out]` where it is to be turned."""
    weight.data += change.t() if turn else change


def is_turned(model: Any, module: str) -> bool:
    """Whether that is a Conv1D, whose weight lies as `[in, out]`."""
    return type(model.get_submodule(module)).__name__ == "Conv1D"


def unlaid(change: Tensor, name: str, arch: str, config: Any) -> Tensor:
    """`change` `[out, in]` of llama.cpp's tensor `name` in transformers' order of rows."""
    leaf, width = name.split(".")[-2], change.shape[1]
    heads = config.num_attention_heads
    if arch in ("llama", "smollm3") and leaf in ("attn_q", "attn_k"):
        count = heads if leaf == "attn_q" else config.num_key_value_heads
        return change.view(count, -1, 2, width).transpose(1, 2).reshape(change.shape)
    if leaf == "attn_qkv" and arch in ("gptneox", "bloom", "falcon"):
        groups = heads
        if arch == "falcon" and config.new_decoder_architecture:
            groups = config.num_kv_heads
        elif arch == "falcon" and config.multi_query:
            groups = 1
        size = change.shape[0] // (heads + 2 * groups)
        parts = torch.split(change, [heads * size, groups * size, groups * size])
        return torch.cat([part.view(groups, -1, size, width) for part in parts], dim=1).reshape(change.shape)
    return change


def values(tensor: Any) -> Any:
    """A tensor of a GGUF file in fp32."""
    return gguf.dequantize(tensor.data, tensor.tensor_type).copy()


def text_field(file: Any, name: str) -> str:
    """A string of a GGUF file; empty where it has none."""
    field = file.fields.get(name)
    return str(field.contents()) if field is not None else ""


def version(package: str) -> str:
    """`transformers 5.23.0`."""
    return f"{package} {importlib.metadata.version(package)}"


def cannot(what: str) -> None:
    """End, since only peft could read that."""
    sys.stderr.write(f"it has {what}, which only peft reads, and peft is not installed\n")
    sys.exit(CANNOT)


READERS = {"transformers": whole_model, "peft": adapter, "gguf-adapter": gguf_adapter, "gguf-model": gguf_model}

if __name__ == "__main__":
    main(sys.argv[1])
