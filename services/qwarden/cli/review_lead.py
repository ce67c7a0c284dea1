"""What a lead does daily, on a terminal, over the review service's REST interface."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from qwarden.cli.environment import client_settings
from qwarden.cli.options import AsJson, DryRun
from qwarden.cli.terminal import MISSING, NO, WRONG_USE, end, err, show, show_rows, write_json

Queue = Annotated[str | None, typer.Option(help="Only of this queue.")]
Tenant = Annotated[str | None, typer.Option(help="Only of this tenant.")]
Language = Annotated[str | None, typer.Option(help="Only in this language, such as `pt`.")]
Category = Annotated[str | None, typer.Option(help="Only of this category.")]
Rule = Annotated[str | None, typer.Option(help="Only what this rule sent.")]
Days = Annotated[int, typer.Option(min=1, help="Of so many days.")]

_TIMEOUT_S = 30.0
"""Of one answer: over what a bulk of 1,000 takes, under what a person waits without a word."""


def asked(method: str, path: str, *, query: dict[str, Any] | None = None, body: Any = None) -> Any:
    """What the service answers, decoded. A refusal ends the command with its sentence."""
    import httpx

    review = client_settings().review
    if review.token is None:
        end(
            WRONG_USE,
            "QWARDEN_REVIEW__TOKEN: is not set; make one with: qwarden review token add NAME",
        )
    try:
        answer = httpx.request(
            method,
            review.public_url.rstrip("/") + path,
            params={key: value for key, value in (query or {}).items() if value is not None},
            json=body,
            headers={"Authorization": f"Bearer {review.token.get_secret_value()}"},
            timeout=_TIMEOUT_S,
        )
    except httpx.TransportError as error:
        end(
            MISSING,
            f"the review service at {review.public_url} does not answer ({type(error).__name__}); "
            "is QWARDEN_REVIEW__PUBLIC_URL right, and the service up?",
        )
    if answer.is_success:
        return answer.json() if answer.content else None
    try:
        sentence = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        sentence = f"{review.public_url} answers {answer.status_code}; is it the review service?"
    return end(MISSING if answer.status_code >= 500 else NO, sentence)


def queues(*, as_json: AsJson = False) -> None:
    """Show the queues: how much waits, how much is held, and how late the oldest is.

    \b
    qwarden review queues
    """
    found = asked("GET", "/v1/queues")
    if as_json:
        write_json(found)
        return
    rows = [
        (
            each["queue"],
            str(each["open"]),
            str(each["held"]),
            str(each["breached"]),
            _age(found["now"] - each["oldest_arrived_at"]),
            " ".join(f"{name} {count}" for name, count in sorted(each["languages"].items())),
        )
        for each in found["queues"]
    ]
    show_rows(("queue", "open", "held", "late", "oldest", "languages"), rows)


def items(
    *,
    queue: Queue = None,
    tenant: Tenant = None,
    language: Language = None,
    category: Category = None,
    rule: Rule = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List what waits, the most urgent first.

    \b
    qwarden review items --queue urgent
    """
    query = _given(queue=queue, tenant=tenant, language=language, category=category, rule=rule)
    found = asked("GET", "/v1/items", query={**query, "limit": limit})
    if as_json:
        write_json(found)
        return
    now = time.time()
    rows = [
        (
            each["item_id"],
            each["queue"],
            each["tenant"],
            each["language"],
            each["category"] or "-",
            each["rule"],
            f"in {_age(each['breach_at'] - now)}"
            if each["breach_at"] > now
            else f"{_age(now - each['breach_at'])} late",
            each["holder"] or "",
        )
        for each in found["items"]
    ]
    head = ("item", "queue", "tenant", "language", "category", "rule", "due", "holder")
    show_rows(head, rows)
    if found["next"]:
        err.print(f"there are more than {limit}; --limit shows up to 200")


def decide_in_bulk(
    action: Annotated[str, typer.Argument(help="allow, disclaim or block.")],
    *,
    reason: Annotated[str, typer.Option(help="Why; never quote the content.")],
    ground: Annotated[str | None, typer.Option(help="law or terms, unless you allow.")] = None,
    clause: Annotated[str | None, typer.Option(help="Which, unless you allow.")] = None,
    queue: Queue = None,
    tenant: Tenant = None,
    language: Language = None,
    category: Category = None,
    rule: Rule = None,
    subject: Annotated[str | None, typer.Option(help="Only of this author.")] = None,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Decide all items that match, at most a thousand decisions (`review.bulk_items`). Shows them
    first.

    For half a minute `qwarden review undo` takes it back; then it is published.

    \b
    qwarden review bulk allow --reason not_a_violation --queue general --rule new-phrase
    """
    wanted = _given(
        queue=queue,
        tenant=tenant,
        language=language,
        category=category,
        rule=rule,
        subject=subject,
    )
    preview = asked("POST", "/v1/bulk/preview", body=wanted)
    for each in () if as_json else preview["sample"]:
        show(f"{each['item_id']}  {each['queue']}  {each['language']}  {each['category']}")
    err.print(
        f"items: {preview['count']}; decisions: {preview['decisions']}; held by somebody and left "
        f"alone: {preview['held']}"
    )
    if dry_run or not preview["count"]:
        if as_json:
            write_json(preview)
        return
    if not yes:
        typer.confirm(f"{action} all of them?", abort=True, err=True)
    said = {"action": action, "reason": reason, "ground": ground, "clause": clause}
    done = asked(
        "POST",
        "/v1/bulk",
        body={"preview": preview["preview"], "of": wanted, **said, "categories": []},
    )
    left = max(0, done["take_back_until"] - time.time())
    if as_json:
        write_json(done)
    else:
        show(f"{done['bulk_id']}: decided {done['decided']}, left alone {done['skipped']}")
    err.print(f"for {left:.0f} s: qwarden review undo {done['bulk_id']}", markup=False)


def undo(bulk_id: Annotated[str, typer.Argument(help="As `qwarden review bulk` said it.")]) -> None:
    """Take back what was decided in bulk, as long as none of it is published.

    \b
    qwarden review undo 7c1e90d2a4b8
    """
    asked("POST", f"/v1/bulk/{bulk_id}/undo")
    err.print("taken back; the items are open again")


def quality(*, days: Days = 30, as_json: AsJson = False) -> None:
    """Show how far reviewers agree, and how often what was automatic is wrong."""
    found = asked("GET", "/v1/quality", query={"days": days})
    if as_json:
        write_json(found)
        return
    show_rows(
        ("reviewer", "decisions", "goldens right", "agreed", "kappa"),
        [
            (
                each["pseudonym"],
                str(each["decisions"]),
                f"{each['golden_right']} of {each['goldens']}",
                _share(each["agreed"]),
                _number(each["kappa"]),
            )
            for each in found["reviewers"]
        ],
    )
    show_rows(
        ("category", "pairs", "kappa"),
        [
            (each["category"] or "-", str(each["pairs"]), _number(each["kappa"]))
            for each in found["categories"]
        ],
    )
    show_rows(
        ("automatic", "language or category", "looked at", "wrong", "share", "95 %"),
        [
            (
                each["action"],
                each["language"] or each["category"] or "all",
                str(each["reviewed"]),
                str(each["wrong"]),
                _share(each["share"]),
                f"{_share(each['low'])} to {_share(each['high'])}",
            )
            for each in found["errors"]
        ],
    )


def appeal(
    tenant: Annotated[str, typer.Argument(help="Whose content.")],
    event_id: Annotated[str, typer.Argument(help="Of which event.")],
    statement: Annotated[str, typer.Argument(help="What the user says.")],
    *,
    task: Annotated[str | None, typer.Option(help="prompt, response or thinking.")] = None,
    as_json: AsJson = False,
) -> None:
    """Have a restriction looked at again, by somebody who has not decided it.

    \b
    qwarden review appeal forum post-17 "I only asked when it opens."
    """
    found = asked(
        "POST",
        "/v1/appeals",
        body={"tenant": tenant, "event_id": event_id, "task": task, "statement": statement},
    )
    if as_json:
        write_json(found)
    else:
        show(f"appeal {found['appeal_id']}, item {found['item_id']}")


def statement(
    tenant: Annotated[str, typer.Argument(help="Whose content.")],
    event_id: Annotated[str, typer.Argument(help="Of which event.")],
    *,
    task: Annotated[str | None, typer.Option(help="prompt, response or thinking.")] = None,
    language: Annotated[str | None, typer.Option(help="Of our own sentences.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the reasons for a restriction as a user or a regulator gets them.

    \b
    qwarden review statement forum post-17 --language de
    """
    query = {"tenant": tenant, "event_id": event_id, "task": task, "language": language}
    found = asked("GET", "/v1/statements", query=query)
    show(json.dumps(found["statement"], indent=2, ensure_ascii=False) if as_json else found["text"])


COMMANDS: dict[str, Callable[..., None]] = {
    "queues": queues,
    "items": items,
    "bulk": decide_in_bulk,
    "undo": undo,
    "quality": quality,
    "appeal": appeal,
    "statement": statement,
}


def _given(**fields: str | None) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
