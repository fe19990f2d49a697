"""Rows on their way into a table: fitted to its schema, some at once, and compared with what was written."""

from collections.abc import Iterator

import pyarrow as pa


def chunks(rows: pa.Table | pa.RecordBatchReader, schema: pa.Schema, most: int) -> Iterator[pa.Table]:
    """`rows` in tables of at most `most` rows (or one batch), their columns in the order and types of `schema`."""
    reader = rows.to_reader(max_chunksize=most) if isinstance(rows, pa.Table) else rows
    if set(reader.schema.names) != set(schema.names):
        raise ValueError(f"rows have columns {sorted(reader.schema.names)}, the table has {sorted(schema.names)}")
    held: list[pa.RecordBatch] = []
    for batch in reader:
        if held and sum(len(each) for each in held) + len(batch) > most:
            yield _fitted(held, schema)
            held = []
        held.append(batch)
    if sum(len(each) for each in held):
        yield _fitted(held, schema)


def bits(column: pa.ChunkedArray) -> bytes:
    """What a column holds; NaNs of the same bits are equal."""
    values = column.combine_chunks()
    if pa.types.is_string(values.type):
        return "\0".join(values.to_pylist()).encode()
    lengths = b"" if pa.types.is_fixed_size_list(values.type) else values.value_lengths().to_numpy().tobytes()
    return lengths + bytes(values.flatten().to_numpy(zero_copy_only=False).tobytes())


def _fitted(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    try:
        return pa.Table.from_batches(batches).select(schema.names).cast(schema)
    except pa.ArrowException as error:
        raise ValueError(f"rows don't fit the vector table: {error}") from error
