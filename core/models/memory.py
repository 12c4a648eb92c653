"""What training takes in memory, by part, before anything is loaded: from a model's shapes alone, without torch.

The peak is in the forward pass of the largest micro-batch or right behind it, when all that the backward pass needs is
kept and the first logits lie beside it. T tokens go through at once, in numbers of e bytes (2 in bf16, 4 in fp32):

    weights       e a number; a matrix quantized in blocks takes what `core.models.block_bits` says
    adapter       4 bytes a trained number: fp32 masters, whatever the base is in
    gradients     4 more
    optimizer     8 more: AdamW's two moments, there from before the first step
    activations   what the blocks keep for the backward pass (below), and what the heap loses between
    logits        chunks of `CHUNK_ROWS` rows (`core.kernels.cross_entropy`), two of them for a moment, and a buffer;
                  all T · V of them where the head is trained, in their own dtype and twice in fp32
    process       the interpreter, torch and its libraries, the tokenizer, oneDNN's compiled products: measured

A block of Llama's shape, every linear layer adapted, keeps T · e · (4d + 2 d_kv + 2f) (`core.kernels.recompute`), the
thin T · r of each adapted layer, and attention's probabilities where a block of queries sees few keys
(`core.kernels.packed_attention`). With gradient checkpointing T · e · d a block, and one block's rest at a time. Blocks
below the lowest adapted one keep nothing.

Between tensors that stay, a block makes others that go, and glibc hands out a hole only for what is smaller than what
left it: an aligned request needs more room than it gets. So a heap is larger than what lives in it, by a share of what
plain blocks keep without checkpointing: `LOST` of it, and `LOST_CHECKPOINTED` of it with checkpointing. Both were
measured on the starter, in bf16 and with 512 and 1,024 tokens at once (`benchmarks.memory_estimate`), and held with
2,048 tokens, in 8 bits, for dropout, DoRA and full fine-tuning: what these keep besides does not go, and so leaves no
holes. These two and the process are all that is measured; the rest is counted.

On a GPU the same parts live in its memory, but the process's, which stays beside it. Nothing there was measured, and
its allocator loses less; the estimate is then an upper bound as far as we know.

Of architectures this knows what `ModelShape` says. What it does not know, such as a mixture's routing or an attention
that keeps every score, it does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from core.config import QuantConfig, RunConfig
from core.models.block_bits import matrix_bytes

FP32, BF16 = 4, 2  # bytes a number
# As in `core.kernels`, whose modules import torch; tests hold them equal.
CHUNK_ROWS, LOSS_BUFFER_BYTES = 256, 16 * 2**20
BLOCK, KEPT_KEYS = 64, 256

HEADER_SHARE = 0.01  # of a file, at most

# The interpreter with all libraries and a tokenizer, as long as nothing is computed; and what it grows by until the
# first steps are done: compiled products, memory of threads, code that was not touched before.
STARTED_BYTES, COMPUTING_BYTES = 450_000_000, 60_000_000
LOST, LOST_CHECKPOINTED = 0.6, 0.33


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What a base model's memory depends on, in numbers.

    `width` is d, `inner` f, `query` and `key` the widths of all heads' queries and keys together. `matrices` are
    `[out, in]` of the layers that quantization takes, by name, and `stored_bytes` what the files hold. `positions` is
    how many tokens a row may have by the model, 0 where that is not said. `is_lean` says that its norms are RMS norms
    and its feed-forward layers gated, which our kernels compute again; `is_packed` that rows go through our attention,
    without padding.
    """

    width: int
    inner: int
    heads: int
    query: int
    key: int
    blocks: int
    vocabulary: int
    parameters: int
    matrices: Mapping[str, tuple[int, int]]
    stored_bytes: int
    positions: int = 0
    is_lean: bool = True
    is_packed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What is trained: how many numbers, `idle` more that an update carries along unchanged (A₀ and B₀ of a start), and
    what it keeps for the backward pass.

    `thin` is the sum of all ranks, `inside` and `outside` are the sums of in and out of all adapted layers.
    `first_block` is the lowest block with anything trained in it; `is_head_plain` says that the output head is frozen
    and has no update.
    """

    parameters: int
    idle: int = 0
    thin: int = 0
    inside: int = 0
    outside: int = 0
    first_block: int = 0
    is_head_plain: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AtOnce:
    """The largest micro-batch: `tokens` in rows of at most `longest`."""

    tokens: int
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes by part at the peak of training. `loading` is what the process takes at most before that; it is the
    larger one where a file is converted or quantized and rows are short.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    process: int
    loading: int = 0

    @property
    def parts(self) -> dict[str, int]:
        """All of them by name; they add up to `training`."""
        return {part.name: getattr(self, part.name) for part in fields(self) if part.name != "loading"}

    @property
    def training(self) -> int:
        """The peak from the first step on."""
        return sum(self.parts.values())

    @property
    def total(self) -> int:
        """The peak of it all."""
        return max(self.training, self.loading)

    @property
    def on_device(self) -> int:
        """What of it lies in a GPU's memory, where there is one."""
        return self.training - self.process


def at_once(config: RunConfig, longest: int) -> AtOnce:
    """The largest micro-batch that rows of at most `longest` tokens can make."""
    longest = min(longest, config.data.max_tokens)
    whole = config.optim.batch_size * longest
    return AtOnce(tokens=max(longest, min(whole, config.optim.micro_tokens)), longest=longest)


def estimate_memory(
    config: RunConfig, shape: ModelShape, trained: Trained, batch: AtOnce, *, computes_in_bf16: bool
) -> MemoryEstimate:
    """What a run with `config` takes at most.

    Args:
        computes_in_bf16: whether the machine's faster dtype is bf16; asked for 32 bits, a run computes in fp32.
    """
    number = BF16 if computes_in_bf16 and config.quant.bits != 32 else FP32
    is_full = config.method == "full"
    weights = _weights(config, shape, FP32 if is_full else number)
    if is_full and number == BF16:  # autocast keeps a copy of each while the backward pass may need it
        weights += BF16 * shape.parameters
    adapter = 0 if is_full else FP32 * (trained.parameters + trained.idle)
    return MemoryEstimate(
        weights=weights,
        adapter=adapter,
        gradients=FP32 * trained.parameters,
        optimizer=2 * FP32 * trained.parameters,
        activations=_activations(config, shape, trained, batch, number),
        logits=_logits(config, shape, trained, batch, number),
        process=STARTED_BYTES + COMPUTING_BYTES,
        loading=STARTED_BYTES + weights + (0 if _is_mapped(config, shape, number) else shape.stored_bytes),
    )


def _is_mapped(config: RunConfig, shape: ModelShape, number: int) -> bool:
    """Whether the weights stay as they lie in the file, so that there is no second copy while they are loaded."""
    is_alike = abs(shape.stored_bytes - number * shape.parameters) < HEADER_SHARE * shape.stored_bytes
    return is_alike and config.method != "full" and config.quant.bits in (16, 32)


def _weights(config: RunConfig, shape: ModelShape, number: int) -> int:
    if config.method == "full" or config.quant.bits in (16, 32):
        return number * shape.parameters
    taken = [sizes for name, sizes in shape.matrices.items() if not _is_skipped(name, config.quant)]
    quantized = sum(out * inside for out, inside in taken)
    return number * (shape.parameters - quantized) + sum(matrix_bytes(config.quant, *sizes) for sizes in taken)


def _is_skipped(name: str, quant: QuantConfig) -> bool:
    return any(name == pattern or name.endswith(f".{pattern}") for pattern in quant.skip)


def _activations(config: RunConfig, shape: ModelShape, trained: Trained, batch: AtOnce, number: int) -> int:
    kept, blocks = kept_bytes(config, shape, trained, batch, number), max(0, shape.blocks - trained.first_block)
    made = blocks * (_plain(shape, number) * batch.tokens + _probabilities(shape, batch, number))
    if not config.optim.checkpointing:
        return kept + _passing(shape, batch, number) + int(LOST * made)
    inputs = number * shape.width * batch.tokens * shape.blocks
    return inputs + kept // max(1, blocks) + _passing(shape, batch, number) + int(LOST_CHECKPOINTED * made)


def kept_bytes(config: RunConfig, shape: ModelShape, trained: Trained, batch: AtOnce, number: int) -> int:
    """What all blocks, and the norm behind them, keep for the backward pass without checkpointing, `number` bytes a
    number.
    """
    blocks = max(0, shape.blocks - trained.first_block)
    a_block = _kept_a_token(config, shape, number) * batch.tokens + _probabilities(shape, batch, number)
    beside = number * shape.width + _kept_by_updates(config, trained, number)
    return blocks * a_block + beside * batch.tokens


def _plain(shape: ModelShape, number: int) -> int:
    """Bytes that a block of Llama's shape keeps of a token: inputs of its norms; queries, keys, values and what
    attention answers; gate and up.
    """
    return number * (2 * shape.width + 2 * shape.query + 2 * shape.key + 2 * shape.inner)


def _kept_a_token(config: RunConfig, shape: ModelShape, number: int) -> int:
    """Bytes that a block keeps of a token, updates and attention's probabilities aside."""
    d, f, plain = shape.width, shape.inner, _plain(shape, number)
    if config.method == "full":
        # norms take the residual stream, in fp32, and each linear layer a copy of its input in its own dtype
        return plain + 2 * (FP32 - number) * d + number * (5 * d + f)
    if config.method == "lora" and config.lora.use_dora:  # nothing is computed again
        return plain + number * (2 * d + f)
    return plain if shape.is_lean else plain + number * 2 * d


def _kept_by_updates(config: RunConfig, trained: Trained, number: int) -> int:
    """Bytes that all adapted layers together keep of a token for their own sake."""
    thin = trained.thin * number
    dora = trained.outside * number if config.lora.use_dora and config.method == "lora" else 0
    dropped = 2 * trained.inside * number if config.lora.dropout and config.method == "lora" else 0
    return thin + dora + dropped


def _probabilities(shape: ModelShape, batch: AtOnce, number: int) -> int:
    """What attention of one block keeps: of each row the first few blocks of queries, with the keys that they see."""
    if not shape.is_packed:
        return 0
    rows = max(1, batch.tokens // batch.longest)
    groups = min(-(-batch.longest // BLOCK), KEPT_KEYS // BLOCK)
    seen = sum(BLOCK * (number_of + 1) for number_of in range(groups))
    return rows * shape.heads * BLOCK * seen * number


def _passing(shape: ModelShape, batch: AtOnce, number: int) -> int:
    """What a block holds for a moment in its backward pass: gradients of its hidden units, and a dequantized matrix."""
    largest = max((out * inside for out, inside in shape.matrices.values()), default=0)
    return number * (2 * shape.inner * batch.tokens + largest)


def _logits(config: RunConfig, shape: ModelShape, trained: Trained, batch: AtOnce, number: int) -> int:
    if config.task == "classification":
        return 0
    if not trained.is_head_plain:
        return batch.tokens * shape.vocabulary * (number + 2 * FP32)
    chunk = min(batch.tokens, CHUNK_ROWS) * shape.vocabulary * number
    return (2 if batch.tokens > CHUNK_ROWS else 1) * chunk + LOSS_BUFFER_BYTES
