"""The rows that the benchmarks train on: English prose in the shape of the Alpaca dataset, as many as are asked for.

The text is Python's own language reference, which comes with every Python as `pydoc_data.topics`: real English with
some code in it, there without a download. A row asks about one of its topics and is answered by the text from one of
its paragraphs on. How long answers are follows a log-normal distribution, as in Alpaca: most are short, a few are
long. With the starter's tokenizer and chat template a row has 196 tokens in the mean, 74 % of them the answer's.

Rows are drawn one after the other, so a million of them need no more memory than one. The same seed gives the same
rows under the same version of Python (another one has another reference).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

SHORTEST_PARAGRAPH = 60  # characters; what is shorter are headings
LOG_MEAN, LOG_DEVIATION = 4.755, 0.7  # of an answer's length in tokens, before it is cut at a word
CHARACTERS_PER_TOKEN = 4.2
LONGEST = 3000  # characters of an answer
_DOCSTRING = re.compile(r'"""(.*?)"""', re.DOTALL)


def rows(count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """`count` rows with the columns `instruction` and `output`."""
    generator = random.Random(seed)
    text, starts = _reference()
    for _ in range(count):
        topic, start = generator.choice(starts)
        length = int(min(generator.lognormvariate(LOG_MEAN, LOG_DEVIATION) * CHARACTERS_PER_TOKEN, LONGEST))
        answer = text[start : start + length].rsplit(" ", 1)[0]
        question = f"Explain what Python's reference says about {topic}, for a first reader, in {length} letters."
        yield {"instruction": question, "output": answer}


def _reference() -> tuple[str, list[tuple[str, int]]]:
    """All paragraphs in one line, and for each its topic and its first character."""
    paragraphs: list[str] = []
    starts: list[tuple[str, int]] = []
    position = 0
    for topic, page in sorted(topics.items()):
        for paragraph in page.split("\n\n"):
            words = " ".join(paragraph.split())
            if len(words) >= SHORTEST_PARAGRAPH and "***" not in words:
                starts.append((topic, position))
                paragraphs.append(words)
                position += len(words) + 1
    text = " ".join(paragraphs)
    return text, [(topic, start) for topic, start in starts if start + LONGEST <= len(text)]


def new_words(count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """`count` rows of like length, of words made of syllables, hardly one of which comes twice."""
    generator = random.Random(seed)
    for row in rows(count, seed):
        output = " ".join(_word(generator) for _ in row["output"].split())
        yield {"instruction": row["instruction"], "output": output}


def docstrings(count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """At most `count` rows of like length, of English that does not repeat itself: no passage comes twice.

    It is what the programs of two installed packages say of themselves; the same versions give the same rows.
    """
    generator = random.Random(seed)
    text = " ".join(_docstrings())
    place = 0
    for _ in range(count):
        length = int(min(generator.lognormvariate(LOG_MEAN, LOG_DEVIATION) * CHARACTERS_PER_TOKEN, LONGEST))
        if place + length > len(text):
            return
        yield {
            "instruction": f"Go on for {length} letters from passage {place}.",
            "output": text[place : place + length],
        }
        place += length


def _docstrings() -> Iterator[str]:
    """Every one that is long enough, once, in one line."""
    seen: set[int] = set()
    for package in ("transformers", "torch"):
        found = find_spec(package)
        assert found is not None and found.origin is not None
        for path in sorted(Path(found.origin).parent.rglob("*.py")):
            for docstring in _DOCSTRING.findall(path.read_text(encoding="utf-8", errors="replace")):
                words = " ".join(docstring.split())
                if len(words) >= SHORTEST_PARAGRAPH and hash(words) not in seen:
                    seen.add(hash(words))
                    yield words


def _word(generator: random.Random) -> str:
    syllables = (generator.choice("bcdfghklmnprstvwz") + generator.choice("aeiou") for _ in range(4))
    return "".join(syllables)
