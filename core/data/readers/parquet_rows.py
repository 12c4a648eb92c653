"""Rows out of Parquet, numbered from 1, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from core.data.readers.sources import BLOCK_BYTES, MAX_ROW_BYTES, Source, too_much
from core.data.readers.texts import Rows, too_long
from core.data.rows import Row
from core.errors import DataError

_ROWS = 1024


def parquet_rows(source: Source) -> Rows:
    """The rows of a Parquet file; what it unpacks to is counted before it is.

    Raises:
        DataError: it is damaged, or unpacks to more than the source may hold; perhaps only after some rows.
    """
    import pyarrow  # lazily: few files need it, and it is large

    number = 0
    try:
        for batch in _batches(source):
            for rows in _portions(batch):
                if rows is None:
                    number += 1
                    yield too_long(number, source.name, "Row")
                    continue
                for values in rows.to_pylist():
                    number += 1
                    yield Row(number=number, values=values)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = f"after row {number}: {error}"
        raise DataError(f"{source.name} is damaged", reason, "Write the Parquet file again") from None


def _batches(source: Source) -> Iterator[Any]:
    """Some rows at a time, with text as the dictionaries that it lies in."""
    from pyarrow import parquet

    from core.data.readers.unpacked import text_columns, unpacked_bytes

    size = 0
    with source.anywhere() as file:
        if not file.seek(0, 2):
            return
        file.seek(0)
        metadata = parquet.ParquetFile(file)
        groups = range(metadata.metadata.num_row_groups)
        if sum(metadata.metadata.row_group(group).total_byte_size for group in groups) > source.max_bytes:
            raise too_much(source.name, source.max_bytes)
        opened = parquet.ParquetFile(file, read_dictionary=text_columns(metadata), buffer_size=BLOCK_BYTES)
        for group in groups:  # one by one, or the dictionaries of all of them would be kept to the end
            for batch in opened.iter_batches(batch_size=_ROWS, row_groups=[group], use_threads=False):
                size += sum(unpacked_bytes(column) for column in batch.columns)
                if size > source.max_bytes:
                    raise too_much(source.name, source.max_bytes)
                yield batch


def _portions(batch: Any) -> Iterator[Any]:
    """`batch` in parts of at most `MAX_ROW_BYTES` once unpacked; None for a single row that is more."""
    from core.data.readers.unpacked import unpacked_bytes

    if sum(unpacked_bytes(column) for column in batch.columns) <= MAX_ROW_BYTES:
        yield batch
    elif batch.num_rows == 1:
        yield None
    else:
        half = batch.num_rows // 2
        yield from _portions(batch.slice(0, half))
        yield from _portions(batch.slice(half))
