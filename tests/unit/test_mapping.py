"""A record of somebody else's topic as an event: what goes wrong without a word, and what is
refused without saying where."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwarden import bootstrap
from qwarden import settings as settings_module
from qwarden.backoff import Backoff
from qwarden.cli.dlq import group_of
from qwarden.contracts.event import MAX_DEPTH, Event
from qwarden.contracts.mapping import FIELDS, Expression, Topic
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.moderator.case import Case
from qwarden.moderator.sample import UnknownTopic, case_of_sample, described
from qwarden.outcomes.source import Source
from qwarden.policy.document import DocumentError
from qwarden.policy.tenants import Tenants
from qwarden.policy.topics import read_topics
from qwarden.registry.memory import MemoryRegistry
from qwarden.registry.port import RegistryAway, Schema
from qwarden.registry.schemas import Schemas
from qwarden.serving import lacking
from unit.builders import admission, event

COMMENTS = """\
name: shop.comments
tenant: demo
mapping:
  event_id: id
  messages: "thread[].{role: by, content: body}"
  language: lang
  created_at: time_of_ms(at)
  reach: views
  metadata: "{shop: shop.name}"
"""
COMMENT: dict[str, Any] = {
    "id": 17,
    "thread": [{"by": "user", "body": "Is it any good?"}, {"by": "assistant", "body": "It is."}],
    "lang": "",
    "at": 1_740_830_400_000,
    "views": 12,
    "shop": {"name": "north"},
    "price": 9.5,
}


def topic(text: str = COMMENTS, name: str = "shop.comments") -> Topic:
    return read_topics({name: text}, Tenants({}, strict=False))[name]


def taken(value: Any, of: Topic | None = None, *, key: bytes | None = None) -> Case:
    of = of or topic()
    door = replace(admission(), topics={of.name: of})
    data = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    return door.admit(Source(of.name, 2, 7, 1_740_830_400_000, key, data, ()))


def refusal(value: Any, of: Topic | None = None, *, key: bytes | None = None) -> Refused:
    with pytest.raises(Refused) as found:
        taken(value, of, key=key)
    return found.value


def faults(text: str, *, name: str = "shop.comments", strict: bool = False) -> str:
    with pytest.raises(DocumentError) as found:
        read_topics({name: text}, Tenants({}, strict))
    return str(found.value)


def test_somebody_else_s_record_is_not_the_event_that_its_mapping_says() -> None:
    case = taken(COMMENT)
    assert msgspec.to_builtins(case.event) == {
        "event_id": "17", "tenant": "demo", "schema_version": 1, "text": None, "language": None,
        "messages": [
            {"role": "user", "content": "Is it any good?"},
            {"role": "assistant", "content": "It is."},
        ],
        "created_at": "2025-03-01T12:00:00Z", "deadline": None, "policy": None, "reach": 12,
        "subject": None, "origin": "automatic", "reports": [], "context": None, "link": None,
        "metadata": {"shop": "north"}, "edit": 0, "deleted": False,
    }  # fmt: skip
    assert case.displaced_tenant is None


def test_the_value_of_a_mapped_event_is_none_that_the_contract_takes() -> None:
    case = taken(COMMENT)
    assert msgspec.json.decode(case.value, type=Event) == case.event


def test_what_a_mapping_leaves_out_gives_a_verdict_another_id() -> None:
    """A verdict's id hashes the event's value: the order of fields, and fields that nobody reads,
    are no part of it."""
    other = dict(reversed(COMMENT.items())) | {"price": 11.0}
    assert taken(COMMENT).value == taken(other).value
    assert taken(COMMENT).value != taken(COMMENT | {"views": 13}).value


def test_a_producer_names_a_tenant_that_is_not_its_own() -> None:
    own = Topic("content.events", tenant="demo")
    said = taken(event(tenant="rival"), own)
    assert (said.event.tenant, said.displaced_tenant) == ("demo", "rival")
    assert b"rival" not in said.value
    for tenant in ("demo", ..., ""):
        same = taken(event(tenant=tenant), own)
        assert (same.event.tenant, same.displaced_tenant) == ("demo", None)


def test_a_record_without_a_value_is_refused_though_its_topic_says_that_it_withdraws() -> None:
    own = Topic("content.events", tenant="demo", key_is_event_id=True)
    case = taken(None, own, key=b"e1")
    assert (case.event.event_id, case.event.deleted, case.questions) == ("e1", True, ())
    assert case.value == b'{"deleted":true,"event_id":"e1","tenant":"demo"}'


@pytest.mark.parametrize(
    "own",
    [
        Topic("t"),
        Topic("t", tenant="demo"),
        Topic("t", key_is_event_id=True),
    ],
)
def test_a_record_without_a_value_withdraws_where_nobody_said_so(own: Topic) -> None:
    refused = refusal(None, own, key=b"e1")
    assert refused.error_class is ErrorClass.NOT_AN_EVENT
    assert "topics/t.yaml" in refused.reason and "key_is_event_id" in refused.reason


def test_content_has_another_id_than_its_withdrawal_by_key() -> None:
    own = Topic("t", tenant="demo", key_is_event_id=True)
    assert taken(event(event_id="body"), own, key=b"key").event.event_id == "key"


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (None, "it has no key"),
        (b"", "it has no key"),
        (b"\xff", "its key is not UTF-8"),
        (b"\0\0\0\0\x07\x02a", "it holds a zero byte"),
        (b"k" * 257, "has 257 characters"),
    ],
)
def test_a_key_that_is_no_id_becomes_one(key: bytes | None, why: str) -> None:
    own = Topic("t", tenant="demo", key_is_event_id=True)
    for value in (None, event(event_id=...)):
        assert why in refusal(value, own, key=key).reason


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"thread": [{"by": "user", "body": 7}]}, "mapping.messages (thread[].{role: by, content"),
        ({"views": -3}, "mapping.reach (views) gives -3: Expected `int` >= 0"),
        ({"views": "many"}, 'mapping.reach (views) gives "many": Expected `int | null`, got'),
        ({"thread": []}, "mapping.messages (thread[].{role: by, content: body}) gives nothing"),
        ({"thread": 5}, "mapping.messages (thread[].{role: by, content: body}) gives nothing"),
        ({"at": "soon"}, "mapping.created_at (time_of_ms(at)) fails on this record: could not"),
        ({"at": 1e300}, "mapping.created_at (time_of_ms(at)) fails on this record: "),
        ({"at": [1]}, "mapping.created_at (time_of_ms(at)) fails on this record: "),
    ],
)
def test_a_refusal_does_not_say_which_expression_is_to_blame(
    fields: dict[str, Any], says: str
) -> None:
    refused = refusal(COMMENT | fields)
    assert refused.error_class is ErrorClass.NOT_AN_EVENT
    assert f"topics/shop.comments.yaml: {says}" in refused.reason
    assert (refused.event_id, refused.tenant) == ("17", "demo")


def test_a_record_without_an_id_is_refused_by_a_sentence_about_events() -> None:
    assert "mapping.event_id (id) gives nothing" in refusal(COMMENT | {"id": None}).reason
    for identity in (1.5, True, [1]):
        assert "mapping.event_id (id) gives" in refusal(COMMENT | {"id": identity}).reason
    none = topic("name: t\ntenant: demo\nmapping: {text: body}\n", "t")
    assert "mapping.event_id (there is none) gives nothing" in refusal({"body": "b"}, none).reason


def test_what_stands_in_an_envelope_is_not_read() -> None:
    of = topic("name: t\ntenant: demo\nmapping: {text: body}\n", "t")
    headers = (("ce_id", b"e7"), ("ce_time", b"2025-03-01T12:00:00Z"))
    door = replace(admission(), topics={"t": of})
    case = door.admit(Source("t", 0, 1, 0, None, b'{"body": "hello"}', headers))
    assert case.event.event_id == "e7"
    assert case.event.created_at is not None


def test_empty_texts_of_others_are_taken_for_names() -> None:
    """Formats without null say that there is nothing by an empty text."""
    plain = topic(
        "name: t\ntenant: demo\nmapping: {event_id: id, text: body, policy: p, subject: s}\n", "t"
    )
    case = taken({"id": "1", "body": "hello", "p": "", "s": ""}, plain)
    assert (case.event.policy, case.event.subject) == (None, None)
    refused = refusal({"id": "1", "body": "", "p": ""}, plain)
    assert refused.error_class is ErrorClass.CONVERSATION, "the content is empty, not missing"


@pytest.mark.parametrize(
    ("value", "error_class"),
    [
        (b"{", ErrorClass.NOT_JSON),
        (b"[1]", ErrorClass.NOT_AN_EVENT),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, ErrorClass.NOT_AN_EVENT),
        (b'{"id":1,"b":"' + b"x" * 900_000 + b'"}', ErrorClass.TOO_LARGE),
    ],
)
def test_a_broken_value_of_a_mapped_topic_ends_the_moderator(
    value: bytes, error_class: ErrorClass
) -> None:
    assert refusal(value).error_class is error_class


def test_a_mapping_that_repeats_a_text_gets_past_the_limit() -> None:
    twice = topic("name: t\ntenant: demo\nmapping: {event_id: id, text: b, context: b}\n", "t")
    assert refusal({"id": 1, "b": "x" * 500_000}, twice).error_class is ErrorClass.TOO_LARGE


@pytest.mark.parametrize(
    ("expressions", "says"),
    [
        ({"reach": "sum(n)"}, "mapping.reach (sum(n)) gives what cannot be written as JSON"),
        ({"metadata": "{n: sum(n)}"}, "mapping.metadata ({n: sum(n)}) gives what cannot be"),
        ({"event_id": "sum(n)"}, "mapping.event_id (sum(n)) fails on this record: Exceeds"),
    ],
)
def test_a_number_that_python_does_not_write_ends_every_moderator_in_turn(
    expressions: dict[str, str], says: str
) -> None:
    mapping = {"event_id": "id", "text": "b"} | expressions
    of = Topic("t", "demo", mapping={name: Expression(text) for name, text in mapping.items()})
    longest = b"9" * 4300
    refused = refusal(b'{"id":1,"b":"b","n":[' + longest + b"," + longest + b"]}", of)
    assert f"topics/t.yaml: {says}" in refused.reason
    assert refused.tenant == "demo"


def test_a_field_that_cannot_be_written_ends_every_moderator_in_turn() -> None:
    """Without a mapping, and where the whole value is one."""
    of = Topic("t", "demo")
    for document, why in (
        ({"event_id": "1", "text": "a", "n": 10**5000}, "the field 'n' gives what cannot be"),
        ({"event_id": "1", "text": "a", "\ud800": 1}, "a field's name gives what cannot be"),
        ({"event_id": "1", "text": "a", "n": _nested(2000)}, "the value is nested too deeply"),
        (10**5000, "the value is no object with fields (a value of type int)"),
    ):
        with pytest.raises(Refused) as found:
            of.event(document, None, max_bytes=900_000, headers={}, tenants=())
        assert found.value.error_class is ErrorClass.NOT_AN_EVENT
        assert why in found.value.reason


def test_metadata_of_theirs_that_is_nested_too_deeply_is_blamed_on_a_field_that_is_good() -> None:
    of = topic("name: t\ntenant: demo\nmapping: {event_id: id, text: b, metadata: m}\n", "t")
    refused = refusal({"id": 1, "b": "b", "m": {"a": _nested(MAX_DEPTH)}}, of)
    assert refused.reason.startswith("the value is nested too deeply")
    assert (refused.event_id, refused.tenant) == ("1", "demo")


def _nested(levels: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(levels):
        inner = [inner]
    return inner


def test_a_record_without_a_tenant_is_refused_by_a_sentence_about_events() -> None:
    nobodys = Topic("t", mapping={"event_id": Expression("id"), "text": Expression("b")})
    reason = refusal({"id": 1, "b": "b"}, nobodys).reason
    assert reason == "topics/t.yaml: mapping.tenant (there is none) gives nothing for this record"


def test_a_slice_is_taken_for_an_expression_that_cannot_work() -> None:
    of = Topic(
        "t", "demo", mapping={"event_id": Expression("id"), "text": Expression("b[:2] | [0]")}
    )
    assert taken({"id": 1, "b": ["first", "second"]}, of).event.text == "first"


def relayed(topics: dict[str, Topic], *, first: str = "shop.comments/0/7") -> Case:
    headers = [("qw-origin", first.encode())]
    record = Source("content.backlog", 0, 5, 0, b"k", event(tenant="rival"), headers)
    return replace(admission(), topics=topics).admit(Source.of(record))


def test_a_relayed_record_is_judged_for_another_tenant_where_its_topic_has_no_file() -> None:
    """A moderator that was not restarted since the file was added takes the backlog too."""
    shop = {"shop.comments": Topic("shop.comments", "demo")}
    assert relayed(shop).event.tenant == "demo"
    for topics in ({}, {"other": Topic("other", "demo")}):
        with pytest.raises(Refused, match="add it, then replay this record") as found:
            relayed(topics)
        assert "has no topics/shop.comments.yaml here" in found.value.reason


@pytest.mark.parametrize("first", ["content.events/0/7", "content.backlog/0/7", "nothing"])
def test_a_relayed_event_is_refused_for_want_of_a_file(first: str) -> None:
    assert relayed({}, first=first).event.tenant == "rival"


def test_an_event_in_a_file_is_refused_for_what_the_file_is_called() -> None:
    case = admission().admit(Source("shop.comments", 0, 0, 0, None, event(), ()))
    assert case.event.tenant == "demo"


@pytest.mark.long
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False)
        | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*COMMENT, "by", "body", "name"]), inner, max_size=5),
    )
)  # fmt: skip
def test_some_json_is_neither_taken_nor_refused(document: Any) -> None:
    try:
        case = taken(document)
    except Refused:
        return
    assert case.event.tenant == "demo"
    assert msgspec.json.decode(case.value, type=Event) == case.event


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.[", "shop.comments.yaml:4:3: mapping.text: 'a.[' is not JMESPath: "),
        ("shout(a)", "JMESPath has no function 'shout'; known are abs, avg"),
        ("[?join(a)]", "join takes 2 arguments, and has 1"),
        ("to_string(a, b)", "to_string takes 1 arguments, and has 2"),
        ("merge()", "merge takes at least 1 arguments, and has 0"),
        ("&a", "'&' gives no value; only functions such as sort_by and map take one"),
        ("{a: &b}", "'&' gives no value"),
        ("not_null(&a)", "'&' gives no value"),
        ("map(&(&a), b)", "'&' gives no value"),
        ('`[{"\\ud800": 1}]`', "holds half a surrogate pair, which no text can be written"),
        ("'\ud800'", "holds half a surrogate pair"),
        ("(" * 3000 + "a" + ")" * 3000, "the expression is nested too deeply; write it in at most"),
        ("!" * 3000 + "a", "the expression is nested too deeply"),
        ("!" * 101 + "a", "the expression is nested too deeply"),
        ("`" + "[" * 3000 + "]" * 3000 + "`", "the expression is nested too deeply"),
    ],
)
def test_an_expression_that_can_never_work_is_known_at_the_first_record(
    text: str, says: str
) -> None:
    found = faults(f"name: shop.comments\ntenant: a\nmapping:\n  text: {json.dumps(text)}\n")
    assert says in found


def test_an_expression_that_takes_another_is_refused() -> None:
    document = {"a": [{"n": 2}, {"n": 1}]}
    assert Expression("sort_by(a, &n)[0].n").of(document) == 1
    assert Expression("map(&n, a)").of(document) == [2, 1]
    assert Expression("max_by(a, &n).n").of(document) == 2
    assert Expression("!" * 99 + "a").of(document) is False


@given(st.text(st.sampled_from("ab0.[]{}()&|!`'\",:*?<@-\\d8") | st.characters(), max_size=20))
def test_some_text_is_neither_an_expression_nor_said_to_be_none(text: str) -> None:
    try:
        made = Expression(text)
    except ValueError:
        return
    msgspec.json.encode(made.of({"a": {"b": [1, "x", None]}, "b": [{"a": 1.5}]}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: other\n", ":1: name: the file is called shop.comments.yaml"),
        ("name: shop.comments\nmapping:\n  body: a\n", ":3: mapping.body: an event has no field"),
        ("name: shop.comments\nmapping:\n  text: 7\n", ":3: mapping.text: 7 is not text"),
        ("name: shop.comments\nmapping: {text: a}\n", "nothing says whose content it is"),
        (
            "name: shop.comments\ntenant: a\nmapping: {event_id: a}\n",
            "neither text nor messages",
        ),
        (
            "name: shop.comments\ntenant: a\nkey_is_event_id: true\n"
            "mapping: {event_id: a, text: b}\n",
            "both key_is_event_id and mapping.event_id give the id",
        ),
        ("name: shop.comments\ndecoder: avro\n", ":2:1: decoder: Input should be 'json' or 'conf"),
        ("name: shop.comments\nmaping: {}\n", ":2:1: maping: unknown field"),
    ],
)
def test_a_file_of_a_topic_fails_without_its_line(text: str, says: str) -> None:
    found = faults(text)
    assert says in found
    assert found.startswith("topics/shop.comments.yaml:")


def test_a_loss_of_somebody_else_s_topic_is_accepted_for_a_group_that_does_not_read_it() -> None:
    fleet = {"QWARDEN_KAFKA__GROUP_ID": "fleet", "QWARDEN_STREAMER__GROUP_ID": "live"}
    settings = settings_module.load({"QWARDEN_CONTENT_KEY": "ab" * 32, **fleet})
    assert [
        group_of(settings, topic)
        for topic in ("content.events", "content.backlog", "content.chunks", "shop.comments")
    ] == ["fleet", "fleet-backlog", "live", "fleet-shop.comments"]


def test_the_owner_of_a_missing_topic_is_taken_for_the_fleet() -> None:
    own, theirs = "content.events", "shop.comments"
    assert "qwarden topics create" in lacking([own])
    assert "topics create" not in lacking([theirs])
    assert "topics/shop.comments.yaml" in lacking([theirs])
    both = lacking([own, theirs])
    assert both == f"{lacking([own])}; {lacking([theirs])}"


@pytest.mark.parametrize(
    "name",
    ["moderation.verdicts", "moderation.decisions", "content.backlog", "content.chunks"],
)
def test_the_fleet_reads_what_it_wrote_as_content(name: str) -> None:
    assert "is the fleet's own" in faults(f"name: {name}\n", name=name)


@pytest.mark.parametrize("name", ["shop/comments", "läden", "a" * 250])
def test_a_name_that_kafka_does_not_take_is_found_by_its_consumer(name: str) -> None:
    assert f"Kafka has no topic '{name}'" in faults(f"name: {name}\n", name=name)
    assert "content.events" in read_topics(
        {"content.events": "name: content.events\n"}, Tenants({}, strict=False)
    )


def test_a_topic_s_tenant_that_nobody_knows_is_found_by_its_records() -> None:
    text = "name: shop.comments\ntenant: nobody\n"
    assert ":2:1: tenant: no tenant is called 'nobody'" in faults(text, strict=True)
    assert topic(text).tenant == "nobody"


def test_a_field_that_people_read_in_the_schema_cannot_be_mapped() -> None:
    assert {*FIELDS, "schema_version"} == {each.name for each in msgspec.structs.fields(Event)}


def test_time_functions_lose_milliseconds() -> None:
    assert Expression("time_of_ms(at)").of({"at": "1740830400123"}) == (
        "2025-03-01T12:00:00.123000+00:00"
    )
    assert Expression("time_of_s(at)").of({"at": 1740830400}) == "2025-03-01T12:00:00+00:00"
    assert Expression("time_of_s(at)").of({}) is None


def test_a_topic_with_schemas_starts_without_a_registry() -> None:
    settings = settings_module.load({"QWARDEN_CONTENT_KEY": "ab" * 32})
    avro = {"t": Topic("t", is_confluent=True)}
    with pytest.raises(settings_module.SettingsError, match="QWARDEN_REGISTRY__URL: is not set"):
        bootstrap.schemas_of(settings, avro)
    assert bootstrap.schemas_of(settings, {"t": Topic("t")}) is None


@pytest.mark.parametrize(
    "url",
    [
        "registry:8081", "ftp://registry", "http://", "http://u:p@r:1", "http://xn--a",
        "http://r:99999", "http://r:0", "http://r:x", "http://[::1", "http://r\n:1",
        "http://r:1?a=b", "http://r:1#a", "http://r:1?",
    ],
)  # fmt: skip
def test_an_address_of_a_registry_that_cannot_work_is_taken(url: str) -> None:
    with pytest.raises(settings_module.SettingsError, match="QWARDEN_REGISTRY__URL: "):
        settings_module.load({"QWARDEN_CONTENT_KEY": "ab" * 32, "QWARDEN_REGISTRY__URL": url})


@pytest.mark.parametrize(
    "url", ["http://registry:8081", "https://r/apis/ccompat/v7", "http://[::1]:8081", "HTTP://r"]
)
def test_an_address_of_a_registry_is_refused(url: str) -> None:
    env = {"QWARDEN_CONTENT_KEY": "ab" * 32, "QWARDEN_REGISTRY__URL": url}
    assert settings_module.load(env).registry.url == url


def test_a_password_in_the_address_of_a_registry_is_shown() -> None:
    for url in ("http://u:secret@r", "http://u:secret@r:1", "http://u:secret/@r"):
        with pytest.raises(settings_module.SettingsError) as found:
            settings_module.load({"QWARDEN_CONTENT_KEY": "ab" * 32, "QWARDEN_REGISTRY__URL": url})
        assert "secret" not in str(found.value)


async def sampled(value: bytes | None, of: str, **schemas: Any) -> Case:
    own = topic("name: t\ntenant: demo\nkey_is_event_id: true\ndecoder: confluent\n", "t")
    registry = MemoryRegistry({7: Schema("JSON", "{}")})
    registry.is_away = schemas.get("is_away", False)
    learned = Schemas(registry, Backoff(0.01, 0.02))
    door = replace(admission(), topics={"t": own}, readers=learned.readers)
    return await case_of_sample(door, learned, topic=of, value=value, key=b"e1", within_s=0.2)


async def test_a_sample_is_read_otherwise_than_its_topic() -> None:
    case = await sampled(b'\0\0\0\0\x07{"text": "hello", "tenant": "rival"}', "t")
    shown = described(case)
    assert json.loads(shown.partition("\nIt is")[0]) == {
        "event_id": "e1", "tenant": "demo", "text": "hello",
    }  # fmt: skip
    assert "It is judged as prompt." in shown
    assert "The record names the tenant 'rival'; its topic's, 'demo', stands." in shown
    assert "It withdraws this content." in described(await sampled(None, "t"))


async def test_a_sample_that_cannot_be_read_waits_for_ever() -> None:
    with pytest.raises(RegistryAway, match="the registry is away"):
        await sampled(b"\0\0\0\0\x07{}", "t", is_away=True)
    with pytest.raises(Refused, match="the registry has no schema 8"):
        await sampled(b"\0\0\0\0\x08{}", "t")
    with pytest.raises(Refused, match="not in the Confluent wire format"):
        await sampled(b"{}", "t")
    with pytest.raises(UnknownTopic, match=r"no topics/other.yaml .*; there are t"):
        await sampled(b"{}", "other")
