"""Golden items: content whose right answer is known, given to reviewers among the others, unseen.

What one gets looks like the item that would have come next: its times, harm, reach, rule and policy
are that one's. Each person gets each golden item once at most, and nobody the ones they added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from sqlalchemy import Row, Select, exists, func, insert, literal, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.escalation import Content
from qwarden.contracts.event import ROLES, Message
from qwarden.contracts.topics import MAX_EVENT_BYTES
from qwarden.contracts.values import Name
from qwarden.contracts.verdict import (
    Action,
    Basis,
    CategoryScore,
    Facts,
    PolicyUsed,
    Scores,
    Verdict,
    decode_verdict,
    encode,
)
from qwarden.guard.conversation import Task
from qwarden.guard.taxonomy import categories_of
from qwarden.policy.file import NAME
from qwarden.policy.sources import BUILT_IN
from qwarden.review.identity import new_id
from qwarden.review.person import EVERY, UNDETERMINED, Person
from qwarden.review.refusals import Invalid, NotFound
from qwarden.review.sampling import takes
from qwarden.review.store import asking, audit, closing, ledger
from qwarden.review.store.asking import APPEALS, QUALITY, URGENT
from qwarden.review.store.audit import Act
from qwarden.review.store.conflict import insert as conflicting
from qwarden.review.store.schema import checks, exclusions, goldens, is_free, items, rulings, users
from qwarden.review.store.schema import ledger as kept
from qwarden.review.store.scope import is_open
from qwarden.settings import Review

if TYPE_CHECKING:
    from qwarden.review.store.leases import Wanted

_ERRORS = 20
"""Lines of a file that a refusal names: whoever made it sees what they all have wrong."""
_CHOICE = 100
"""Golden items that one is chosen from."""

_HARM, _SLA_S, _RULE = 3, 86_400.0, "controversial"
"""Of one that comes to an empty queue: as the built-in policy `default` sends them."""

_CLOCKS_APART_S = 5.0
"""How far those of two processes may be: one still takes back what the other would give anew."""

_RECENT = 1000
"""Verdicts that are looked through for a tenant's latest: in the order of an index, however many
are kept and however few of them are the tenant's."""

_GIVEN = "given"
_RETIRED = "The item was taken out of use."


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One golden item as people write it."""

    tenant: Name
    queue: Annotated[str, msgspec.Meta(pattern=NAME)]
    action: Literal["allow", "disclaim", "block"]
    """The right answer."""
    messages: list[Message] | None = None
    text: str | None = None
    """The short form of one user turn."""
    context: str | None = None
    link: str | None = None
    """Where platforms send these two with their events, an item without them tells what it is."""
    language: str | None = None
    category: str | None = None
    task: Literal["prompt", "response", "thinking"] | None = None
    """By default what the last turn is judged as."""
    note: Annotated[str, msgspec.Meta(max_length=4000)] | None = None
    """Why it is the right answer; reviewers never see it."""
    verdict: Verdict | None = None
    """What the guard says of this content, as `qwarden moderate` writes it. Without it the item
    shows scores that are made up, close to those of what is unclear."""


@dataclass(frozen=True, slots=True)
class Golden:
    """One in use. `given`: how often somebody decided it, and `right` how often as it says: one
    that most get wrong is wrong itself. `added_at`: seconds since 1970."""

    golden_id: str
    tenant: str
    queue: str
    language: str
    category: str
    task: str
    action: str
    note: str | None
    added_by: str
    added_at: float
    given: int
    right: int


class _Kept(Verdict, frozen=True, kw_only=True):
    """What an item shows, with the note beside it."""

    note: str | None = None


async def add(
    tx: AsyncConnection,
    lines: Sequence[bytes],
    *,
    actor: str,
    now: float,
    person: Person | None = None,
) -> list[str]:
    """Adds golden items, `Line`s in JSON, and returns the ids of those that were not there; blank
    lines are none. `actor`: a user_id, or whoever runs a command; `person`: whose tenants alone
    they may be of.

    Raises `Invalid` with a sentence for each bad line, by its number from 1; nothing is added then.
    """
    read: list[tuple[int, Line]] = []
    errors: list[str] = []
    for number, data in enumerate(lines, 1):
        if data.strip():
            try:
                line = line_of(data)
            except Invalid as error:
                errors.append(f"line {number}: {error}")
                continue
            if person is not None and not person.sees(line.tenant):
                errors.append(f"line {number}: tenant: it is none of yours")
            read.append((number, line))
    if not read and not errors:
        raise Invalid("there are no golden items in it; write one a line, as JSON")
    known = await _in_use(tx, {line.tenant for _, line in read})
    new: dict[tuple[str, str, bytes], Line] = {}
    for number, line in read:
        place = (line.tenant, line.queue, encode(_content(line)))
        twin = new[place].action if place in new else known.get(place)
        if twin is None:
            new[place] = line
        elif twin != line.action:
            errors.append(
                f"line {number}: the same content is there with the action {twin}; remove one, or "
                "retire the other"
            )
    if errors:
        more = len(errors) - _ERRORS
        left = [f"and {more} more lines"] if more > 0 else []
        raise Invalid("\n".join(errors[:_ERRORS] + left))
    rows = [_row(line, actor, now) for line in new.values()]
    if rows:
        await tx.execute(insert(goldens).inline(), rows)
        await audit.put(
            tx,
            [
                audit.entry(
                    Act.GOLDEN_ADDED,
                    actor=actor,
                    at=now,
                    tenant=row["tenant"],
                    golden_id=row["golden_id"],
                )
                for row in rows
            ],
        )
    return [row["golden_id"] for row in rows]


async def retire(tx: AsyncConnection, golden_id: str, *, actor: str, now: float) -> None:
    """Takes one out of use; what was decided of it stays counted. Raises `NotFound`."""
    retired = await tx.execute(
        update(goldens)
        .where(goldens.c.golden_id == golden_id, goldens.c.retired_at.is_(None))
        .values(retired_at=now)
        .returning(goldens.c.tenant)
    )
    tenant = retired.scalar_one_or_none()
    if tenant is None:
        raise NotFound("no golden item in use has this id; list those that are")
    given = select(items).where(items.c.golden_id == golden_id, is_open).with_for_update()
    rows = (await tx.execute(given)).all()
    await closing.end(tx, [(row, _RETIRED) for row in rows], now)
    await audit.write(
        tx, Act.GOLDEN_RETIRED, actor=actor, at=now, tenant=tenant, golden_id=golden_id
    )


async def in_use(tx: AsyncConnection, person: Person | None = None) -> list[Golden]:
    """Those in use, of this person's tenants or of all, the latest first; without content."""
    counted = (
        select(
            checks.c.against,
            func.count().label("given"),
            func.count().filter(checks.c.said == checks.c.expected).label("right"),
        )
        .where(checks.c.kind == "golden")
        .group_by(checks.c.against)
        .subquery()
    )
    wanted = (
        select(goldens, counted.c.given, counted.c.right)
        .outerjoin(counted, counted.c.against == goldens.c.golden_id)
        .where(goldens.c.retired_at.is_(None))
        .order_by(goldens.c.added_at.desc(), goldens.c.golden_id)
    )
    return [
        Golden(
            golden_id=row.golden_id,
            tenant=row.tenant,
            queue=row.queue,
            language=row.language,
            category=row.category,
            task=row.task,
            action=row.action,
            note=msgspec.json.decode(row.verdict, type=_Kept).note,
            added_by=row.added_by,
            added_at=row.added_at,
            given=row.given or 0,
            right=row.right or 0,
        )
        for row in await tx.execute(wanted)
        if person is None or person.sees(row.tenant)
    ]


async def for_claim(
    tx: AsyncConnection, person: Person, wanted: Wanted, now: float, limits: Review
) -> str | None:
    """The id of a golden item to give this person instead of the next one, or None; nobody else can
    claim it, and the caller has this one claim it in the same transaction.

    Which claims get one is told by a hash of the person, the next item and the golden one: a share
    `golden_share` of them, the same whenever it is asked, so that nobody can fish for one.
    """
    if limits.golden_share <= 0 or wanted.item_id is not None:
        return None
    golden = await _choose(tx, person, wanted, now, limits)
    if golden is None or await _is_urgent(tx):
        return None
    model = await _next(tx, golden.queue, wanted.rule)
    if model is None and wanted.rule is not None:
        return None
    stands_in_for = "" if model is None else model.item_id
    name = f"golden/{person.user_id}/{stands_in_for}/{golden.golden_id}"
    if not takes(name, limits.golden_share):
        return None
    return await _open(tx, person, golden, model, now)


def line_of(data: bytes) -> Line:
    """One golden item. Raises `Invalid` with a sentence, which holds nothing of its content."""
    try:
        line = msgspec.json.decode(data, type=Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Invalid(f"not a golden item: {reason}") from None
    if line.queue in (URGENT, QUALITY, APPEALS):
        raise Invalid(f"the queue {line.queue} has no golden items; name one of a policy's")
    if line.language is not None and ledger.primary(line.language) == UNDETERMINED:
        raise Invalid("language: no language has this tag; write one such as en or pt-BR")
    if (line.text is None) == (line.messages is None):
        raise Invalid("it has messages, or text, and not both")
    content = _content(line)
    written = encode(content)
    if len(written) > MAX_EVENT_BYTES:
        raise Invalid(
            f"the content has {len(written):,} bytes; at most {MAX_EVENT_BYTES:,} are kept"
        )
    if not content.messages or any(each.role not in ROLES for each in content.messages):
        raise Invalid(f"messages: at least one, each with a role of {', '.join(ROLES)}")
    last = content.messages[-1]
    if last.role not in ("user", "assistant") or not (last.content or last.reasoning):
        raise Invalid("the last message is what is judged: a user's or an assistant's, not empty")
    task = _task(line)
    if (task is Task.PROMPT) != (last.role == "user"):
        raise Invalid(f"task: a {task.value} does not end with a turn of the {last.role}")
    if line.category is not None and line.category not in categories_of(task):
        raise Invalid(f"category: one of {', '.join(categories_of(task))}")
    return line


def _content(line: Line) -> Content:
    return Content(
        messages=line.messages or [Message(role="user", content=line.text or "")],
        context=line.context,
        link=line.link,
    )


def _task(line: Line) -> Task:
    if line.task is not None:
        return Task(line.task)
    last = _content(line).messages[-1]
    if last.role == "user":
        return Task.PROMPT
    return Task.RESPONSE if last.content else Task.THINKING


def _row(line: Line, actor: str, now: float) -> dict[str, Any]:
    golden_id = new_id(now)
    given = line.verdict
    category = line.category or (given.categories[0] if given and given.categories else "")
    language = line.language or (given.language if given else None)
    shown = _shown(line, golden_id, category, language)
    return {
        "golden_id": golden_id,
        "tenant": line.tenant,
        "queue": line.queue,
        "language": ledger.primary(language),
        "category": category,
        "task": _task(line).value,
        "action": line.action,
        "verdict": encode(_Kept(**msgspec.structs.asdict(shown), note=line.note)),
        "content": encode(_content(line)),
        "added_by": actor,
        "added_at": now,
    }


def _shown(line: Line, golden_id: str, category: str, language: str | None) -> Verdict:
    """What the item shows of a verdict: the guard's own where it was given."""
    made = Verdict(
        verdict_id=golden_id,
        event_id=golden_id,
        edit=0,
        tenant=line.tenant,
        subject=None,
        task=_task(line).value,
        safety="Controversial",
        scores=_scores(golden_id),
        categories=[category] if category else [],
        category_scores=[CategoryScore(category, _scores(golden_id).controversial)]
        if category
        else None,
        refusal=None if _task(line) is Task.PROMPT else False,
        language=language,
        content_hash=None,
        facts=Facts(),
        action=Action.REVIEW,
        meanwhile="hide",
        notice=None,
        basis=Basis.GUARD,
        cause=None,
        guard=None,
        policy=PolicyUsed("default", BUILT_IN["default"].version, 0, _RULE),
        dropped=[],
    )
    if line.verdict is None:
        return made
    its = (
        "safety",
        "scores",
        "categories",
        "category_scores",
        "refusal",
        "views",
        "guard",
        "dropped",
    )
    return msgspec.structs.replace(made, **{name: getattr(line.verdict, name) for name in its})


def _scores(golden_id: str) -> Scores:
    """Made up, and the same for one item: the middle one between 0.40 and 0.85, as the guard has it
    of most that it cannot tell; the rest falls to either side."""
    digits = hashlib.blake2b(golden_id.encode(), digest_size=2, person=b"qwarden.scores").digest()
    middle = round(0.40 + 0.45 * digits[0] / 255, 3)
    unsafe = round((1 - middle) * (0.2 + 0.6 * digits[1] / 255), 3)
    return Scores(round(1 - middle - unsafe, 3), middle, unsafe)


async def _in_use(tx: AsyncConnection, tenants: set[str]) -> dict[tuple[str, str, bytes], str]:
    """The right answers that are known of content."""
    found = await tx.execute(
        select(goldens.c.tenant, goldens.c.queue, goldens.c.content, goldens.c.action).where(
            goldens.c.retired_at.is_(None), goldens.c.tenant.in_(tenants)
        )
    )
    return {(row.tenant, row.queue, row.content): row.action for row in found}


async def _choose(
    tx: AsyncConnection, person: Person, wanted: Wanted, now: float, limits: Review
) -> Row[Any] | None:
    """The golden item that this person gets next, of those that fit: each in an order of its own,
    so that nobody knows from a colleague what comes."""
    of = goldens.c
    conditions = [
        of.retired_at.is_(None),
        of.added_by != person.user_id,
        ~exists().where(
            exclusions.c.item_id == of.golden_id, exclusions.c.user_id == person.user_id
        ),
        ~exists().where(items.c.golden_id == of.golden_id, is_open),
        of.golden_id.not_in(_just_decided(now, limits)),
    ]
    if EVERY not in person.tenants:
        conditions.append(of.tenant.in_(sorted(person.tenants)))
    if EVERY not in person.languages:
        conditions.append(of.language.in_(sorted({*person.languages, UNDETERMINED})))
    for column, value in (
        (of.queue, wanted.queue),
        (of.language, wanted.language),
        (of.category, wanted.category),
        (of.tenant, wanted.tenant),
    ):
        if value is not None:
            conditions.append(column == value)
    # Not what they show: contents are large, and most claims get a real item.
    names = ("golden_id", "tenant", "queue", "language", "category", "task", "added_by")
    found = await tx.execute(
        select(*(of[name] for name in names)).where(*conditions).limit(_CHOICE)
    )
    return min(found, key=lambda row: _rank(person, row.golden_id), default=None)


def _just_decided(now: float, limits: Review) -> Select[Any]:
    """Those that may be taken back, and are open again then: of each only one can be."""
    since = now - limits.take_back_s - _CLOCKS_APART_S
    return (
        select(items.c.golden_id)
        .join_from(rulings, items, items.c.item_id == rulings.c.item_id)
        .where(rulings.c.decided_at > since, items.c.golden_id.is_not(None))
    )


def _rank(person: Person, golden_id: str) -> bytes:
    return hashlib.blake2b(f"{person.user_id}/{golden_id}".encode(), digest_size=8).digest()


async def _is_urgent(tx: AsyncConnection) -> bool:
    """Whether something cannot wait until somebody's eye was tested."""
    waiting = select(items.c.item_id).where(is_free, items.c.queue == URGENT).limit(1)
    return (await tx.execute(waiting)).first() is not None


async def _next(tx: AsyncConnection, queue: str, rule: str | None) -> Row[Any] | None:
    """The item that is next in a queue, as people see it there, with what the ledger has of it."""
    wanted = (
        select(items, kept.c.verdict.label("said"))
        .outerjoin(kept, kept.c.verdict_id == items.c.verdict_id)
        .where(is_free, items.c.queue == queue, items.c.kind == text("'review'"))
        .order_by(items.c.due_at)
        .limit(1)
    )
    if rule is not None:
        wanted = wanted.where(items.c.rule == rule)
    return (await tx.execute(wanted)).one_or_none()


async def _open(
    tx: AsyncConnection, person: Person, golden: Row[Any], model: Row[Any] | None, now: float
) -> str | None:
    """Opens the item; None where another one is getting it in this moment."""
    about = {
        name: getattr(golden, name) for name in ("tenant", "queue", "language", "category", "task")
    }
    rule = _RULE if model is None else model.rule
    opened = asking.row(
        "golden",
        # A little before the other one, so that it is really the next.
        arrived_at=now if model is None else model.arrived_at - _jitter_s(golden.golden_id),
        sla_s=_SLA_S if model is None else model.breach_at - model.arrived_at,
        harm=_HARM if model is None else model.harm,
        reach=0 if model is None else model.reach,
        golden_id=golden.golden_id,
        rule=rule,
        **about,
    )
    written = await tx.execute(conflicting(tx, items).values(opened).on_conflict_do_nothing())
    if written.rowcount != 1:
        return None
    item_id: str = opened["item_id"]
    await _show_as(tx, golden, model)
    await asking.exclude(tx, golden.golden_id, [person.user_id], _GIVEN)
    await _keep_off(tx, item_id, golden, person)
    return item_id


def _jitter_s(golden_id: str) -> float:
    return 0.1 + 0.8 * int(golden_id[-4:], 16) / 0xFFFF


async def _show_as(tx: AsyncConnection, golden: Row[Any], model: Row[Any] | None) -> None:
    """Has the golden one show the guard, origin and reach of the other, and the policy where their
    tenant is one; where nothing waits, the guard that judges now."""
    of = goldens.c.golden_id == golden.golden_id
    stored = (await tx.execute(select(goldens.c.verdict).where(of))).scalar_one()
    shown = msgspec.json.decode(stored, type=_Kept)
    if model is not None and model.said is not None:
        said = decode_verdict(model.said)
        facts = Facts(origin=said.facts.origin, reach=said.facts.reach)
        shown = msgspec.structs.replace(shown, guard=said.guard, facts=facts)
        if model.tenant == golden.tenant:
            shown = msgspec.structs.replace(
                shown, policy=said.policy, notice=said.notice, meanwhile=said.meanwhile
            )
    elif (latest := await _latest(tx, golden.tenant)) is not None:
        guard = decode_verdict(latest).guard
        shown = msgspec.structs.replace(shown, guard=guard, facts=Facts())
    await tx.execute(update(goldens).where(of).values(verdict=encode(shown)))


async def _latest(tx: AsyncConnection, tenant: str) -> bytes | None:
    """The latest verdict of a guard that is kept of this tenant, or else of another one: all are
    judged by the same in most installations."""
    recent = select(kept).order_by(kept.c.kept_until.desc()).limit(_RECENT).subquery()
    wanted = (
        select(recent.c.verdict)
        .where(recent.c.basis == Basis.GUARD)
        .order_by((recent.c.tenant == tenant).desc(), recent.c.arrived_at.desc())
        .limit(1)
    )
    found: bytes | None = (await tx.execute(wanted)).scalar_one_or_none()
    return found


async def _keep_off(tx: AsyncConnection, item_id: str, golden: Row[Any], person: Person) -> None:
    """Nobody can hand it over to one who has had it, or who knows the answer."""
    of = exclusions.c
    known = select(literal(item_id), of.user_id, literal(_GIVEN)).where(
        of.item_id == golden.golden_id, of.user_id != person.user_id
    )
    author = select(literal(item_id), users.c.user_id, literal(_GIVEN)).where(
        users.c.user_id == golden.added_by
    )
    for each in (known, author):
        await tx.execute(
            conflicting(tx, exclusions)
            .from_select(["item_id", "user_id", "why"], each)
            .on_conflict_do_nothing()
        )
