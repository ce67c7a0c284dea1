"""Values in the Confluent wire format, written by the libraries' own encoders: what is misread, and
what ends the process that reads it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import fastavro
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from hypothesis import given
from hypothesis import strategies as st

from qwarden.contracts.confluent import message_indexes, not_framed, schema_id, unknown_schema
from qwarden.contracts.refusal import Refused
from qwarden.registry.port import Schema
from qwarden.registry.reader import reader_of

COMMENT = {
    "type": "record", "name": "Comment", "namespace": "shop",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "body", "type": ["null", "string"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "price", "type": {
            "type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}},
        {"name": "uuid", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "raw", "type": "bytes"},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["GOOD", "BAD"]}},
        {"name": "tags", "type": {"type": "map", "values": "string"}},
    ],
}  # fmt: skip


def head(identity: int = 7) -> bytes:
    return b"\0" + identity.to_bytes(4, "big")


def avro(schema: Any, record: Any, named: dict[str, Any] | None = None) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema, named or {}), record)
    return head() + out.getvalue()


def read(schema: Schema, value: bytes) -> Any:
    return reader_of(schema, 7)(value)


def avro_schema(schema: Any, *imports: tuple[str, Any]) -> Schema:
    return Schema(
        "AVRO", json.dumps(schema), tuple((name, json.dumps(each)) for name, each in imports)
    )


def refusal(schema: Schema, value: bytes) -> str:
    with pytest.raises(Refused) as found:
        read(schema, value)
    return found.value.reason


def test_an_avro_value_is_not_what_json_would_hold() -> None:
    record = {
        "id": 17, "body": "hello", "at": datetime(2025, 3, 1, 12, tzinfo=UTC),
        "day": date(2025, 3, 1), "price": Decimal("9.50"),
        "uuid": UUID("12345678-1234-5678-1234-567812345678"), "raw": b"\0\xff", "kind": "BAD",
        "tags": {"a": "b"},
    }  # fmt: skip
    assert read(avro_schema(COMMENT), avro(COMMENT, record)) == {
        "id": 17, "body": "hello", "at": "2025-03-01T12:00:00Z", "day": "2025-03-01",
        "price": "9.50", "uuid": "12345678-1234-5678-1234-567812345678", "raw": "AP8=",
        "kind": "BAD", "tags": {"a": "b"},
    }  # fmt: skip


LINE = {"type": "record", "name": "shop.Line", "fields": [{"name": "of", "type": "shop.Item"}]}
ITEM = {"type": "record", "name": "shop.Item", "fields": [{"name": "n", "type": "int"}]}


@pytest.mark.parametrize("top", [["shop.Item", "shop.Line"], "shop.Line"])
def test_an_avro_schema_that_refers_to_others_cannot_be_used(top: Any) -> None:
    """Several kinds of records in one topic are a union of imports, which is no record itself."""
    named: dict[str, Any] = {}
    fastavro.parse_schema(ITEM, named)
    line = avro(LINE, {"of": {"n": 5}}, named)
    value = head() + (b"\x02" if isinstance(top, list) else b"") + line[5:]
    schema = avro_schema(top, ("item", ITEM), ("line", LINE))
    assert read(schema, value) == {"of": {"n": 5}}


AUTHOR_RECORD = {"type": "record", "name": "Author", "fields": [{"name": "n", "type": "string"}]}


@pytest.mark.parametrize(
    ("top", "value"),
    [
        (
            {"type": "record", "name": "Comment", "fields": [{"name": "by", "type": "Author"}]},
            b"\x02a",
        ),
        (["null", "Author"], b"\x02\x02a"),
        ("Author", b"\x02a"),
    ],
)
def test_an_import_without_a_namespace_is_looked_for_in_ours(top: Any, value: bytes) -> None:
    found = read(avro_schema(top, ("Author", AUTHOR_RECORD)), head() + value)
    assert found in ({"by": {"n": "a"}}, {"n": "a"})


NODE = {
    "type": "record", "name": "Node",
    "fields": [{"name": "next", "type": ["null", "Node"]}],
}  # fmt: skip


def test_a_deep_avro_value_ends_the_process() -> None:
    assert read(avro_schema(NODE), head() + b"\x02" * 20 + b"\0")["next"]["next"] is not None
    reason = refusal(avro_schema(NODE), head() + b"\x02" * 800_000 + b"\0")
    assert "the value is not what its schema 7 (AVRO) says: maximum recursion depth" in reason


def test_a_long_number_in_a_value_stops_all_other_records_for_a_minute() -> None:
    """By their lengths, both are read in time of their squares."""
    fields = [{"name": "n", "type": "long"}, *NODE["fields"]]
    schema = avro_schema({**NODE, "fields": fields})
    assert read(schema, head() + b"\xff" * 9 + b"\x01" + b"\0") == {"n": -(2**63), "next": None}
    for value in (b"\xff" * 800_000 + b"\x01\0", b"\xff" * 10 + b"\x01\0"):
        assert "a whole number has more than ten bytes" in refusal(schema, head() + value)
    for length in range(3):
        assert "it ends too early" in refusal(schema, head() + b"\xff" * length)


@pytest.mark.parametrize("is_recursive", [False, True])
def test_a_long_decimal_in_a_value_stops_all_other_records_for_a_minute(
    is_recursive: bool,
) -> None:
    price = {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}
    fields = [{"name": "price", "type": price}, *(NODE["fields"] if is_recursive else ())]
    schema = {**NODE, "fields": fields}
    value = avro(schema, {"price": Decimal("9.50"), "next": None})
    assert read(avro_schema(schema), value)["price"] == "9.50"
    long = head() + b"\x80\xea\x30" + b"\x7f" * 400_000 + b"\0" * is_recursive
    assert "a decimal has 400,000 bytes, and at most 1,000" in refusal(avro_schema(schema), long)


@pytest.mark.parametrize(
    "items",
    [
        "null",
        {"type": "record", "name": "Empty", "fields": []},
        {"type": "record", "name": "Nulls", "fields": [{"name": "a", "type": "null"}]},
        {"type": "fixed", "name": "Nothing", "size": 0},
    ],
)
def test_ten_bytes_of_avro_fill_the_memory(items: Any) -> None:
    schema = avro_schema({"type": "array", "items": items})
    reason = refusal(schema, head() + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f")
    assert "the schema 7 of this value cannot be used: it has an array of what takes" in reason


@pytest.mark.parametrize("length", range(12))
def test_an_avro_value_that_is_cut_or_too_long_is_read_all_the_same(length: int) -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "string"}]}
    value = avro(schema, {"a": "hello"})
    cut = value[:length] if length < len(value) else value + b"\0"
    if len(cut) < 5:
        assert schema_id(cut) is None
        return
    assert "the value is not what its schema 7 (AVRO) says" in refusal(avro_schema(schema), cut)


@given(st.binary(max_size=60))
def test_some_bytes_of_avro_are_neither_read_nor_refused(body: bytes) -> None:
    try:
        json.dumps(read(avro_schema(COMMENT), head() + body))
    except Refused:
        return


def file(name: str, *messages: Any, package: str = "shop", uses: Sequence[str] = ()) -> Any:
    return descriptor_pb2.FileDescriptorProto(
        name=name, package=package, syntax="proto3", dependency=uses, message_type=messages
    )


def field(name: str, number: int, kind: Any, **more: Any) -> Field:
    return Field(name=name, number=number, type=kind, label=Field.LABEL_OPTIONAL, **more)


AUTHOR = file(
    "shop/author.proto",
    descriptor_pb2.DescriptorProto(name="Author", field=[field("nick", 1, Field.TYPE_STRING)]),
)
INNER = descriptor_pb2.DescriptorProto(name="Inner", field=[field("x", 1, Field.TYPE_INT32)])
REVIEW = file(
    "shop/review.proto",
    descriptor_pb2.DescriptorProto(name="First", field=[field("a", 1, Field.TYPE_STRING)]),
    descriptor_pb2.DescriptorProto(
        name="Review",
        nested_type=[
            descriptor_pb2.DescriptorProto(name="Other"),
            INNER,
        ],
        field=[
            field("body_text", 1, Field.TYPE_STRING),
            field("stars", 2, Field.TYPE_INT64),
            field("at", 3, Field.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp"),
            field("by", 4, Field.TYPE_MESSAGE, type_name=".shop.Author"),
            field("is_hidden", 5, Field.TYPE_BOOL),
        ],
    ),
    uses=["google/protobuf/timestamp.proto", "shop/author.proto"],
)


def serialized(proto: Any) -> str:
    return base64.b64encode(proto.SerializeToString()).decode()


def proto_schema() -> Schema:
    return Schema("PROTOBUF", serialized(REVIEW), (("shop/author.proto", serialized(AUTHOR)),))


def message(name: str, **fields: Any) -> Any:
    pool = descriptor_pool.DescriptorPool()
    stamp = descriptor_pb2.FileDescriptorProto.FromString(timestamp_pb2.DESCRIPTOR.serialized_pb)
    for each in (stamp, AUTHOR, REVIEW):
        pool.Add(each)  # type: ignore[no-untyped-call]
    found = pool.FindMessageTypeByName(name)  # type: ignore[no-untyped-call]
    return message_factory.GetMessageClass(found)(**fields)


def test_a_protobuf_value_is_not_what_its_json_mapping_says() -> None:
    made = message("shop.Review", body_text="hello", stars=5, by={"nick": "ann"})
    made.at.FromJsonString("2025-03-01T12:00:00Z")
    value = head() + b"\x02\x02" + made.SerializeToString()
    assert read(proto_schema(), value) == {
        "body_text": "hello", "stars": "5", "at": "2025-03-01T12:00:00Z", "by": {"nick": "ann"},
        "is_hidden": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "name", "fields"),
    [
        (b"\0", "shop.First", {"a": "one"}),
        (b"\x02\0", "shop.First", {"a": "one"}),
        (b"\x04\x02\x02", "shop.Review.Inner", {"x": 3}),
    ],
)
def test_a_protobuf_value_is_read_as_another_message(
    path: bytes, name: str, fields: dict[str, Any]
) -> None:
    value = head() + path + message(name, **fields).SerializeToString()
    assert read(proto_schema(), value) == fields


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (b"", "it ends within the path"),
        (b"\x80", "it ends within the path"),
        (b"\x02", "it ends within the path"),
        (b"\x02\x08", "names what is not there"),
        (b"\x04\x02\x08", "names what is not there"),
        (b"\x01", "nested -1 deep"),
        (b"\xfe\xff\xff\xff\x0f", "nested 2147483647 deep"),
        (b"\x02\x01", "the message type -1"),
        (b"\0\x0a\xff", "Error parsing message"),
        (b"\0\x0a\x01\xff", "Error parsing message"),
    ],
)
def test_a_broken_protobuf_value_is_read(path: bytes, says: str) -> None:
    reason = refusal(proto_schema(), head() + path)
    assert "the value is not what its schema 7 (PROTOBUF) says: " in reason
    assert says in reason


@given(st.binary(max_size=40))
def test_some_bytes_of_protobuf_are_neither_read_nor_refused(body: bytes) -> None:
    try:
        json.dumps(read(proto_schema(), head() + body))
    except Refused:
        return


@given(st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple), st.binary(max_size=5))
def test_a_path_to_a_message_is_read_wrongly(path: tuple[int, ...], rest: bytes) -> None:
    def varint(number: int) -> bytes:
        number *= 2
        out = b""
        while number >= 0x80:
            out += bytes([number & 0x7F | 0x80])
            number >>= 7
        return out + bytes([number])

    head = b"".join(map(varint, (len(path), *path)))
    assert message_indexes(head + rest) == (path or (0,), len(head))


def test_a_value_under_a_json_schema_is_not_its_json() -> None:
    assert read(Schema("JSON", "{}"), head() + b'{"a": [1]}') == {"a": [1]}
    assert "(JSON) says" in refusal(Schema("JSON", "{}"), head() + b"{")
    assert "(JSON) says" in refusal(Schema("JSON", "{}"), head() + b"[" * 100_000)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (Schema("THRIFT", ""), "its kind is 'THRIFT'; known are AVRO, JSON, PROTOBUF"),
        (Schema("AVRO", "{"), "cannot be used"),
        (Schema("AVRO", '{"type": "record"}'), "cannot be used"),
        (Schema("AVRO", '"shop.Unknown"'), "shop.Unknown"),
        (Schema("PROTOBUF", "message A {}"), "cannot be used"),
        (Schema("PROTOBUF", serialized(REVIEW)), "cannot be used"),
    ],
)
def test_a_schema_that_cannot_be_used_ends_the_moderator(schema: Schema, says: str) -> None:
    reason = refusal(schema, head() + b"\0")
    assert "the schema 7 of this value cannot be used: " in reason
    assert says in reason


@pytest.mark.parametrize("value", [b"", b"\0\0\0\0", b'{"a": 1}', b"\x01" + b"g" * 16])
def test_a_value_in_no_wire_format_names_a_schema(value: bytes) -> None:
    assert schema_id(value) is None
    assert "decoder: json" in not_framed(value).reason


def test_a_schema_s_id_is_read_from_the_wrong_end() -> None:
    assert schema_id(b"\0\0\0\x01\x02rest") == 258
    assert "no schema 258" in unknown_schema(258).reason
