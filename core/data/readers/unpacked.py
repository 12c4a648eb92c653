"""What the values of an Arrow array take once no two share any.

A Parquet file tells how large its pages are, but not how often a value of a dictionary is referred to: 600 bytes on
disk are 3 GB as soon as three thousand rows are each given their own copy of a megabyte. So text is read as the
dictionaries that it lies in, and counted before any copy is made.
"""

from __future__ import annotations

from typing import Any

import pyarrow
import pyarrow.compute as compute


def unpacked_bytes(array: Any) -> int:
    """Bytes of the values of `array`, each counted as often as it occurs; at least one for each place."""
    kind = array.type
    if pyarrow.types.is_dictionary(kind):
        return max(len(array), _referred_bytes(array))
    if pyarrow.types.is_struct(kind):
        return len(array) + sum(map(unpacked_bytes, array.flatten()))
    if pyarrow.types.is_nested(kind):
        return len(array) + unpacked_bytes(array.flatten())
    return max(len(array), int(array.nbytes))


def text_columns(file: Any) -> list[str]:
    """The paths of a Parquet file's columns that hold text or bytes, to be read as dictionaries."""
    columns = (file.schema.column(number) for number in range(len(file.schema.names)))
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def _referred_bytes(array: Any) -> int:
    """Of an array of indices into text, what the texts would take one behind the other."""
    sizes = compute.cast(compute.binary_length(array.dictionary), pyarrow.int64())
    return int(compute.sum(sizes.take(array.indices)).as_py() or 0)
