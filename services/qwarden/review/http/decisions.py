"""Decisions of somebody else's review tool."""

from __future__ import annotations

from fastapi import APIRouter

from qwarden import telemetry
from qwarden.review.http.access import Reviewer
from qwarden.review.http.answers import ToolRuled
from qwarden.review.http.bodies import ToolDecision
from qwarden.review.http.served import Serves, Writing
from qwarden.review.ruling import ToolSaid
from qwarden.review.store import tools

router = APIRouter(prefix="/v1", tags=["decisions"])


@router.post("/decisions")
async def decide(body: ToolDecision, tx: Writing, person: Reviewer, served: Serves) -> ToolRuled:
    """Decides a verdict without a lease, for a tool's token alone: 409 while a person holds its
    item, and where a decision stands that `supersedes` does not name."""
    ruled = await tools.decide(
        tx,
        person,
        ToolSaid(
            tenant=body.tenant,
            event_id=body.event_id,
            task=body.task,
            verdict_id=body.verdict_id,
            said=body.said,
            supersedes=body.supersedes,
            decision_key=body.decision_key,
            reviewer=body.reviewer,
        ),
        served.clock(),
        served.limits,
    )
    telemetry.REVIEW_DECISIONS.labels(body.action, "tool").inc(ruled.is_new)
    return ToolRuled(
        ruling_id=ruled.ruling_id,
        decisions=list(ruled.decisions),
        take_back_until=ruled.take_back_until,
    )
