"""Each benchmark's results in Markdown, for `docs.performance`: paragraphs and tables, from the result file alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Results = Mapping[str, Any]


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its first column is text, the others are figures."""
    marks = ["---", *["---:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, marks, *rows))


def gigabytes(count: float) -> str:
    """A number of bytes in GB, for a table."""
    return f"{count / 1e9:.2f}"


def training(found: Results) -> list[str]:
    """Speeds and memory of all sides, the settings that were tried for TRL, and how far losses are apart."""
    shared, sides, apart = found["shared"], found["sides"], found["losses"]
    beside = (f"{value:.1e} ({name})" for name, value in apart["bf16"].items())
    return [
        f"{shared['rows']} rows of {shared['tokens'] / shared['rows']:.0f} tokens in the mean,"
        f" {shared['labels'] / shared['tokens']:.0%} of them with a label; {shared['batch_size']} rows a step, rank"
        f" {shared['rank']} on every linear layer. Padded, a token takes {shared['filled_up']:.2f} positions."
        f" All rows begin with the same {shared['shared_beginning']} tokens, the system prompt and the question's first"
        f" words; we compute them once a batch.\n",
        f"TRL at its best is: {found['settings']['TRL at its best']['label']}.\n",
        markdown(
            ("", "tokens a second", "by round", "peak memory, GB"),
            (
                (
                    name,
                    f"{side['tokens_per_second']:.0f}",
                    ", ".join(f"{speed:.0f}" for speed in side["tokens_per_second_by_round"]),
                    gigabytes(side["peak_rss_bytes"]),
                )
                for name, side in sides.items()
            ),
        ),
        "What was tried for TRL, in a short run each. The fastest that trains the same is its best:\n",
        markdown(
            ("setting", "tokens a second", "peak memory, GB"),
            (
                (name, f"{side['tokens_per_second']:.0f}", gigabytes(side["peak_rss_bytes"]))
                for name, side in found["candidates"].items()
            ),
        ),
        *(f"Could not be run: {name} ({why}).\n" for name, why in found["failures"].items()),
        f"Our memory is {found['ratios']['memory_of_leanest']:.2f} of the least that any of these takes.\n",
        "From the same weights on the same rows, the losses of our steps and of TRL's are apart by at most"
        f" {apart['fp32']:.1e} of the loss in fp32; in bf16 by {', '.join(beside)}. Our own bf16 is"
        f" {apart['bf16_beside_fp32']:.1e} from our fp32.\n",
    ]


def floor(found: Results) -> list[str]:
    """Each precision's fraction, and the products that take the most."""
    precisions = {name: part for name, part in found.items() if name != "machine"}
    parts = [
        markdown(
            (
                "",
                "t_measured, s",
                "t_floor, s",
                "of it attention, s",
                "t_floor / t_measured",
                "tokens a second",
                "at most",
            ),
            (
                (
                    name,
                    f"{part['measured_seconds']:.2f}",
                    f"{sum(part['floor_seconds'].values()):.2f}",
                    f"{part['floor_seconds']['attention']:.2f}",
                    f"{part['fraction']:.2f}",
                    f"{part['tokens_per_second']:.0f}",
                    f"{part['floor_tokens_per_second']:.0f}",
                )
                for name, part in precisions.items()
            ),
        )
    ]
    for name, part in precisions.items():
        parts.append(
            f"{name}: a step over rows of {', '.join(map(str, part['row_lengths']))} tokens; the rounds' fractions are"
            f" {', '.join(f'{fraction:.2f}' for fraction in sorted(part['fraction_by_round']))}. The operations of its"
            f" products are {part['recorded_over_formula']:.3f} of the formula's. With operands as they lie in the"
            f" step they take {part['products_as_laid_out_seconds']:.2f} s alone. The dearest, at their best:\n"
        )
        parts.append(
            markdown(
                ("product", "times", "seconds", "GFLOP/s"),
                (
                    (row["product"], str(row["times"]), f"{row['seconds']:.3f}", f"{row['gflops_per_second']:.0f}")
                    for row in part["dearest_products"][:6]
                ),
            )
        )
    return parts


def growth(found: Results) -> list[str]:
    """A table for each thing that grows."""
    parts = []
    for name in ("rows", "rank", "row length"):
        parts.append(
            markdown(
                (name, "ms a token", "times the first", "by FLOPs"),
                (
                    (at, f"{row['seconds_per_token'] * 1e3:.3f}", f"{row['measured']:.3f}", f"{row['by_flops']:.3f}")
                    for at, row in found[name].items()
                ),
            )
        )
    for name in ("batch", "micro-batch", "checkpointing"):
        if name in found:
            parts.append(
                markdown(
                    (name, "tokens a second", "peak memory, GB"),
                    (
                        (at, f"{row['tokens_per_second']:.0f}", gigabytes(row["peak_rss_bytes"]))
                        for at, row in found[name].items()
                    ),
                )
            )
    return parts


def memory_estimate(found: Results) -> list[str]:
    """Every run's peak beside its estimate, and how far they are apart."""
    ratios = found["ratios"]
    return [
        markdown(
            ("base, rank, rows × tokens", "measured, GB", "estimated, GB", "ratio"),
            (
                (
                    f"{run['bits']} bits, rank {run['rank']}, {run['rows']} × {run['length']:,}"
                    f"{', checkpointing' if run['is_checkpointing'] else ''}",
                    gigabytes(run["peak_rss_bytes"]),
                    gigabytes(run["estimated_bytes"]),
                    f"{run['ratio']:.3f}",
                )
                for run in found["runs"]
            ),
        ),
        f"Of {len(found['runs'])} estimates the lowest is {ratios['lowest']:.3f} of what was measured, the highest"
        f" {ratios['highest']:.3f}.\n",
    ]


def profile_rows(found: Results) -> list[str]:
    """The two sides on one file, and what they leave out."""
    sides = (
        ("every row written, with its health", "ours"),
        ('`load_dataset("json")`, empty cache', "datasets"),
        ("all of an upload's way: also near-duplicates and a copy of the file", "intake"),
    )
    return [
        markdown(
            (f"{found['rows']:,} rows, {found['megabytes']:,.0f} MB", "seconds", "of both cores", "peak, GB"),
            (
                (
                    words,
                    f"{found[f'{side}_seconds']:.1f}",
                    f"{found[f'{side}_processor_seconds']:.1f}",
                    gigabytes(found[f"{side}_peak_rss_bytes"]),
                )
                for words, side in sides
                if f"{side}_seconds" in found
            ),
        ),
        f"Near-duplicates are a second pass of {found['near_duplicates_seconds']:.1f} s. Rows that are not plain lines"
        f" of JSON take {found['usual_microseconds_per_row']:.0f} µs each. Others took up to"
        f" {found['others_share']:.0%} of the machine meanwhile.\n",
    ]


CHAT = {
    "one_pane": "one pane",
    "four_panes": "four panes with an adapter each",
    "base_and_three": "the base beside three adapters",
    "transformers": "transformers' generate with peft, the four one after another, A and B in fp32",
    "transformers_16_bit_adapters": "the same, A and B in the base's dtype",
    "one_pane_first_token": "first token, one pane",
    "four_panes_first_token": "first token, four panes",
    "requests_at_once": "sixteen requests at once, a quarter of the tokens each",
    "requests_in_turn": "the same, one after another",
    "second_turn": "a second turn's first token, four panes",
    "second_turn_afresh": "the same, with all of the conversation read again",
}


def chat(found: Results) -> list[str]:
    """Seconds of everything that took turns, and their ratios."""
    seconds, ratios = found["medians"], found["ratios"]
    return [
        f"{found['new_tokens']} tokens a pane, in {found['dtype']}:\n",
        markdown(("", "seconds"), ((words, f"{seconds[name]:.3f}") for name, words in CHAT.items())),
        f"Four panes take {ratios['four_panes_over_one']:.2f} times as long as one, transformers and peft"
        f" {ratios['over_transformers']:.1f} times as long as our four. Sixteen requests at once take"
        f" {1 / ratios['requests_at_once_over_in_turn']:.2f} of what they take one after another."
        f" A second turn's first token takes {ratios['second_turn_over_afresh']:.2f} of what it takes to read the"
        f" conversation again. Of the time between two tokens of one pane, reading the base's weights once would take"
        f" {ratios['floor_of_one_pane']:.2f}.\n",
    ]


def tokenizing(found: Results) -> list[str]:
    """Speeds on one core and two, beside `datasets.map`, and memory by rows."""
    return [
        markdown(
            ("text", "cores", "tokenized, MB/s", "and packed, MB/s", "datasets.map, MB/s", "times its speed"),
            (
                (
                    name.replace("_", " "),
                    cores.partition("_")[0],
                    f"{part['encoded_megabytes_per_second']:.2f}",
                    f"{part['packed_megabytes_per_second']:.2f}",
                    f"{part['datasets_map_megabytes_per_second']:.2f}",
                    f"{part['packed_over_datasets_map']:.2f}",
                )
                for name in ("docstrings", "prose", "new_words")
                for cores, part in found[name].items()
            ),
        ),
        markdown(
            ("rows", "peak memory, MB", "µs a row", "ms to pack a step"),
            (
                (
                    rows,
                    f"{part['peak_rss_bytes'] / 1e6:.0f}",
                    f"{part['microseconds_per_row']:.0f}",
                    f"{part['milliseconds_per_step']:.2f}",
                )
                for rows, part in found["rows"].items()
            ),
        ),
    ]


def four_bit(found: Results) -> list[str]:
    """Both examples' ratios, and what the matrices take."""
    matrices, promised = found["matrices"], found["promised"]
    worst = max(part["eval_loss_ratio"] for part in found["examples"].values())
    is_kept = worst <= promised["eval_loss_ratio"] and matrices["matrices_ratio"] <= promised["matrices_ratio"]
    return [
        markdown(
            ("4 bits over 16", "evaluation loss", "tokens a second", "peak memory"),
            (
                (
                    name,
                    f"{part['eval_loss_ratio']:.3f}",
                    f"{part['tokens_per_second_ratio']:.2f}",
                    f"{part['peak_rss_bytes_ratio']:.2f}",
                )
                for name, part in found["examples"].items()
            ),
        ),
        f"The quantized matrices take {matrices['bits_a_weight']:.3f} bits a weight,"
        f" {matrices['matrices_ratio']:.3f} of what they take in bf16. Promised are at most"
        f" {promised['eval_loss_ratio']} of the loss and {promised['matrices_ratio']} of the bytes:"
        f" {'KEPT' if is_kept else 'BROKEN'}.\n",
    ]


def llama_cpp(found: Results) -> list[str]:
    """What llama.cpp answers with each file, beside what we do."""
    return [
        markdown(
            ("files", "MB", "prompts tokenized alike", "same answers", "same tokens"),
            (
                (
                    name,
                    f"{part['megabytes']:.0f}",
                    f"{part['prompts_tokenized_alike']} of {part['prompts']}",
                    f"{part['same_answers']} of {part['prompts']}",
                    f"{part['same_tokens']} of {part['tokens']}",
                )
                for name, part in found["files"].items()
            ),
        )
    ]


def figures(found: Results) -> list[str]:
    """Every plain figure of a result file, a line each; for benchmarks that need no more."""
    return [markdown(("figure", ""), ((name, f"{value:,.4g}") for name, value in _flat(found) if name))]


def _flat(found: Results, before: str = "") -> Iterable[tuple[str, float]]:
    for name, value in found.items():
        if isinstance(value, Mapping):
            if name != "machine":
                yield from _flat(value, f"{before}{name}: ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{before}{name}".replace("_", " "), value


TABLES: dict[str, Callable[[Results], list[str]]] = {
    "training": training,
    "floor": floor,
    "growth": growth,
    "memory_estimate": memory_estimate,
    "chat": chat,
    "tokenizing": tokenizing,
    "profile_rows": profile_rows,
    "four_bit": four_bit,
    "llama_cpp": llama_cpp,
    "first_light": figures,
    "pages": figures,
}
