"""The brakes against plain lists of what was done, and when."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from qwarden.contracts.verdict import Action
from qwarden.policy import quotas
from qwarden.policy.policy import Decided, Policy, Reason
from qwarden.policy.quotas import Brakes, Share
from qwarden.policy.sources import load

HOUR = 3600.0
QUEUES = ("general", "harm", "other")


def policy(blocks: int | None, overflow: str, an_hour: int, *, frozen: bool = False) -> Policy:
    quota = f"blocks_an_hour: {blocks}, " if blocks else ""
    text = (
        "name: house\nextends: default\n"
        f"quotas: {{{quota}queues: {{harm: {{an_hour: {an_hour}, overflow: {overflow}}}}}}}\n"
        "fallback: {queue: harm, harm: 5, sla: 1h, meanwhile: hide, on_breach: raise}\n"
    )
    return load({"house": text}).policies["house"].standing(serial=0, frozen=frozen)


def review(of: Policy, queue: str) -> Decided:
    return Decided(Action.REVIEW, "r", of.fallback.model_copy(update={"queue": queue}))


POLICIES = [policy(5, overflow, 4) for overflow in ("allow", "block")]
FROZEN = policy(1, "block", 1, frozen=True)


@dataclass
class Done:
    """What one moderator did."""

    blocks: dict[str, list[float]] = field(default_factory=dict)
    """By tenant."""
    sent: dict[str, list[float]] = field(default_factory=dict)
    """By queue."""


def within(times: list[float], now: float, s: float) -> int:
    return sum(at > now - s for at in times)


def test_a_tenant_without_a_quota_is_braked() -> None:
    brakes, of = Brakes(), policy(None, "allow", 1)
    block = Decided(Action.BLOCK, "unsafe")
    for _ in range(20):
        done = brakes.act(
            of, "demo", block, is_judged=True, share=lambda: Share(1, 1), now_s=1_000_000.0
        )
        assert done is block


def test_what_a_quota_did_has_another_rule_or_reason() -> None:
    reason = Reason("terms", "c", {}, "en")
    for overflow, blocks in (("allow", None), ("block", None), ("block", 1)):
        brakes, of = Brakes(), policy(blocks, overflow, 1)
        sent = replace(review(of, "harm"), reason=reason)
        block = Decided(Action.BLOCK, "unsafe", reason=reason)
        done = [
            brakes.act(of, "demo", each, is_judged=True, share=lambda: Share(1, 1), now_s=at)
            for each, at in ((block, 60.0), (block, 60.0), (sent, 60.0), (sent, 60.0), (sent, 9e3))
        ]
        if blocks:
            braked = Decided(Action.REVIEW, "unsafe", of.fallback, reason)
            assert done == [block, braked, sent, sent, sent]
        else:
            over = Decided(Action(overflow), "r", reason=reason if overflow == "block" else None)
            assert done == [block, block, sent, over, sent]


class BrakesMachine(RuleBasedStateMachine):
    """Blocks and reviews of two tenants under two policies, at any times, while shares change."""

    def __init__(self) -> None:
        super().__init__()
        self.brakes = Brakes()
        self.now = 1_000_000.0
        self.share = Share(1, 1)
        self.done = Done()

    def act(self, decided: Decided, tenant: str, which: int, is_judged: bool = True) -> Decided:
        return self.brakes.act(
            POLICIES[which],
            tenant,
            decided,
            is_judged=is_judged,
            share=lambda: self.share,
            now_s=self.now,
        )

    @rule(s=st.sampled_from([0.1, 1, 59, 60, 61, 600, 3540, 3599, 3600, 3601, 3700]))
    def wait(self, s: float) -> None:
        self.now += s

    @rule(own=st.integers(0, 4))
    def rebalance(self, own: int) -> None:
        self.share = Share(own, 4)

    def blocked(self, tenant: str) -> None:
        times = self.done.blocks.setdefault(tenant, [])
        limit = self.share.of(5)
        assert within(times, self.now, HOUR) < limit, "more blocks in an hour than its share"
        times.append(self.now)

    def braked(self, tenant: str) -> None:
        times = self.done.blocks.get(tenant, [])
        recent = within(times, self.now, HOUR + 60)
        assert recent >= self.share.of(5), "braked before its share was used up"

    @rule(tenant=st.sampled_from("ab"), which=st.integers(0, 1), times=st.integers(1, 7))
    def block(self, tenant: str, which: int, times: int) -> None:
        for _ in range(times):
            decided = Decided(Action.BLOCK, "b")
            done = self.act(decided, tenant, which)
            if done is decided:
                self.blocked(tenant)
                continue
            self.braked(tenant)
            fallback = POLICIES[which].fallback
            assert (done.action, done.rule, done.handling) == (Action.REVIEW, "b", fallback)
            self.done.sent.setdefault(fallback.queue, []).append(self.now)

    @rule(
        tenant=st.sampled_from("ab"),
        which=st.integers(0, 1),
        queue=st.sampled_from(QUEUES),
        is_judged=st.booleans(),
        times=st.integers(1, 6),
    )
    def ask(self, tenant: str, which: int, queue: str, is_judged: bool, times: int) -> None:
        for _ in range(times):
            decided = review(POLICIES[which], queue)
            done = self.act(decided, tenant, which, is_judged)
            sent = self.done.sent.setdefault(queue, [])
            limit = self.share.of(4)
            if done is decided:
                if queue == "harm" and is_judged and within(sent, self.now, HOUR) >= limit:
                    assert which == 1, "more in an hour than its budget's share"
                    self.braked(tenant)  # it would have been blocked
                sent.append(self.now)
                continue
            assert queue == "harm", "a queue without a budget is braked"
            assert is_judged, "what nobody has judged is let go for a queue's sake"
            assert within(sent, self.now, HOUR + 60) >= limit, "braked before it was full"
            assert done.handling is None
            assert done.action is (Action.ALLOW, Action.BLOCK)[which]
            if done.action is Action.BLOCK:
                self.blocked(tenant)

    @rule(tenant=st.sampled_from("ab"), action=st.sampled_from([Action.ALLOW, Action.DISCLAIM]))
    def let_go(self, tenant: str, action: Action) -> None:
        decided = Decided(action, "a")
        assert self.act(decided, tenant, 0) is decided

    @rule(queue=st.sampled_from(QUEUES))
    def under_a_freeze(self, queue: str) -> None:
        for decided in [review(FROZEN, queue)] * 3:
            done = self.brakes.act(
                FROZEN, "a", decided, is_judged=True, share=lambda: Share(1, 1), now_s=self.now
            )
            assert done is decided


TestBrakes = BrakesMachine.TestCase


@given(
    st.integers(1, 1_000_000),
    st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any),
)
def test_the_shares_of_a_topic_are_more_than_the_limit_or_one_has_none(
    limit: int, owned: list[int]
) -> None:
    shares = [Share(own, sum(owned)).of(limit) for own in owned]
    assert min(shares) >= 1
    assert sum(shares) <= limit + shares.count(1)
    assert Share(sum(owned), sum(owned)).of(limit) == limit


def test_made_up_tenants_fill_the_memory() -> None:
    brakes, of = Brakes(), policy(2, "allow", 4)

    def blocks(tenant: str, now_s: float) -> bool:
        decided = Decided(Action.BLOCK, "b")
        return decided is brakes.act(
            of, tenant, decided, is_judged=True, share=lambda: Share(1, 1), now_s=now_s
        )

    most = quotas._COUNTED
    assert all(blocks(f"t{n}", 0) for n in range(most))
    assert [blocks(f"new{n}", 0) for n in range(4)] == [True, True, False, False]
    assert blocks("t0", 0), "those that are counted apart are braked for the others"
    assert len(brakes._blocks._hours) == most + 1
    assert blocks("later", 2 * HOUR)
    assert len(brakes._blocks._hours) == 1, "what is over is kept"


def test_what_is_kept_grows_with_what_is_done() -> None:
    brakes, of = Brakes(), policy(10**6, "allow", 10**6)
    for at in range(20_000):
        brakes.act(
            of,
            "a",
            Decided(Action.BLOCK, "b"),
            is_judged=True,
            share=lambda: Share(1, 1),
            now_s=at,
        )
    assert len(brakes._blocks.of("a", 19_999 // 60)._minutes) == quotas._MINUTES + 1
