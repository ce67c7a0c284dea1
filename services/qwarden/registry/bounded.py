"""Readers of Avro with the bounds that fastavro's own lack (1.13): numbers whose length is the
value's, in time of its square, so that 900 kB would stop all other records for a minute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from fastavro import _read_py as in_python
from fastavro.io.binary_decoder import BinaryDecoder
from fastavro.read import LOGICAL_READERS

MAX_DECIMAL_BYTES = 1000
"""2,400 digits, which are read in 0.1 ms; a hundred times as many take 5 s."""
_LONG_BITS = 70
"""Of ten bytes with seven bits each, which 64 bits fit in."""


def read_recursive(stream: IO[bytes], schema: Any, named: Mapping[str, Any]) -> Any:
    """A value of a type that holds itself. Ends at Python's own depth, with `RecursionError`: the
    compiled reader has no bound, and ends the process. `named`: the schema's types by name."""
    decoder: Any = _Decoder(stream)  # type: ignore[no-untyped-call]
    types = {"writer": named, "reader": {}}
    return in_python.read_data(decoder, schema, types)  # type: ignore[no-untyped-call]


def read_decimal(data: bytes, writer_schema: Any, reader_schema: Any = None) -> Any:
    """A decimal of as many bytes as its value says. Raises `ValueError`."""
    if len(data) > MAX_DECIMAL_BYTES:
        raise ValueError(f"a decimal has {len(data):,} bytes, and at most {MAX_DECIMAL_BYTES:,}")
    return LOGICAL_READERS["fixed-decimal"](data, writer_schema, reader_schema)


class _Decoder(BinaryDecoder):
    def read_long(self) -> int:
        number = 0
        for shift in range(0, _LONG_BITS, 7):
            byte: bytes = self.fo.read(1)
            if not byte:
                raise EOFError
            number |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return (number >> 1) ^ -(number & 1)
        raise ValueError("a whole number has more than ten bytes")

    read_int = read_long
