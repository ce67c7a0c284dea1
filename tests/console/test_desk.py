"""A reviewer's day at the desk, in a real browser, against the real service."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from typing import Any

from playwright.async_api import Browser, Page, Route, expect
from sqlalchemy import select

import escalated
from consoles import Console, opened
from qwarden.contracts.escalation import Content
from qwarden.contracts.event import Message, Report
from qwarden.review.person import Role
from qwarden.review.store.schema import items, rulings
from reviewing import escalations

PLAIN = "The swimming pool opens at nine, and the bakery next to it at seven."


async def _ready(page: Page) -> None:
    await page.wait_for_selector("#main:not([aria-busy]) :is(.empty, .decision)")


async def _unwished(console: Console, page: Page, wish: str) -> None:
    """Takes one of the reviewer's wishes back, and goes to the desk."""
    await page.goto(f"{console.service.url}/#/wishes")
    await page.get_by_label(wish).uncheck()
    async with page.expect_navigation():
        await page.get_by_role("button", name="Save").click()
    await page.goto(f"{console.service.url}/#/desk")
    await _ready(page)


async def _claim(page: Page) -> str:
    """Takes the next item by key; gives its id."""
    await page.keyboard.press("n")
    await page.wait_for_selector(".decision")
    return _shown(page)


def _shown(page: Page) -> str:
    found = re.search(r"#/desk/([0-9a-f]{32})$", page.url)
    assert found, page.url
    return found[1]


async def _until_other(page: Page, item: str) -> None:
    """Waits until this item is not on the stage any more."""
    await page.wait_for_url(lambda url: item not in url)


async def _rows(console: Console) -> dict[str, Any]:
    """The tenant's items as the database has them, by id."""
    async with console.service.database.reading() as tx:
        found = await tx.execute(select(items).where(items.c.tenant == console.tenant))
        return {row.item_id: row for row in found}


async def _until(console: Console, item: str, so: Callable[[Any], bool]) -> None:
    """Waits until an item's row is so."""
    deadline = time.monotonic() + 60
    while not so((await _rows(console))[item]):
        assert time.monotonic() < deadline, "it never came to that"
        await asyncio.sleep(0.05)


async def _ruled(console: Console) -> list[Any]:
    async with console.service.database.reading() as tx:
        found = await tx.execute(
            select(rulings).where(
                rulings.c.tenant == console.tenant, rulings.c.taken_back_at.is_(None)
            )
        )
        return list(found)


async def _seed(console: Console, count: int, **how: Any) -> None:
    await console.service.seed(
        escalations(count, name=console.tenant, tenant=console.tenant, **how)
    )


async def test_a_link_that_was_looked_at_or_was_used(console: Console) -> None:
    person = await console.person("Ann")
    link = await console.service.link_of(person)
    page = await console.page(person)
    looking = await console.browser.new_context()
    first = await looking.new_page()
    await first.request.get(link)  # as a mail scanner does
    await first.goto(link)
    await expect(first.locator("#bar")).to_contain_text(person.pseudonym)
    assert "#" not in first.url or first.url.split("#")[1].startswith("/")
    assert not await first.evaluate("document.cookie"), "scripts can read the session"
    await page.context.clear_cookies()
    await page.goto("about:blank")
    await page.goto(link)
    await expect(page.get_by_role("alert")).to_contain_text("was used")
    await looking.close()


async def test_two_reviewers_who_get_the_same_item(console: Console) -> None:
    count = 12
    await _seed(console, count)
    pages = [await console.reviewer(name) for name in ("Ann", "Bob")]
    had: list[list[str]] = [[], []]

    async def works(page: Page, mine: list[str]) -> None:
        await _ready(page)
        await _claim(page)
        while await page.locator(".decision").count():
            mine.append(_shown(page))
            for key in ("a", "1", "Enter"):
                await page.keyboard.press(key)
            await _until_other(page, mine[-1])

    await asyncio.gather(*map(works, pages, had))
    assert len(had[0]) + len(had[1]) == count
    assert len(set(had[0]) | set(had[1])) == count
    assert all(had), "one of them had nothing to do"
    assert {row.item_id for row in await _ruled(console)} == set(had[0]) | set(had[1])


async def test_a_lease_that_ends_in_the_middle_of_a_decision(
    make_service: Callable[..., Any], browser: Browser, tenant: str
) -> None:
    words = "They speak of the pool, not of a person."
    async with (
        make_service(QWARDEN_REVIEW__LEASE_S="5") as service,
        opened(service, browser, tenant) as console,
    ):
        await _seed(console, 1)
        bob = await console.person("Bob")
        one, other = await console.reviewer("Ann"), await console.page(bob)
        await _ready(one)
        item = await _claim(one)
        first = (await _rows(console))[item].leased_until
        # Longer than a lease: the page keeps it alive.
        await _until(console, item, lambda row: row.holder and row.leased_until > first + 5)
        await expect(one.locator(".lost")).to_have_count(0)
        for key in ("b", "0"):
            await one.keyboard.press(key)
        await one.keyboard.type(words)
        await one.context.set_offline(True)
        await expect(one.locator(".lost")).to_contain_text("run out")
        await _ready(other)
        await _until(console, item, lambda row: row.holder is None)
        assert await _claim(other) == item
        await one.context.set_offline(False)
        await one.get_by_role("button", name="Take it again").click()
        await expect(one.locator("#alarm")).to_contain_text(bob.pseudonym)
        assert await one.locator(".reasons textarea").input_value() == words
        for key in ("a", "1", "Enter"):
            await other.keyboard.press(key)
        await _until_other(other, item)
        (ruled,) = await _ruled(console)
        assert (ruled.action, ruled.user_id) == ("allow", bob.user_id)


async def test_a_decision_sent_for_an_item_that_somebody_else_has(console: Console) -> None:
    """The page has not heard of it: the service refuses, and the page says who has the item."""
    await _seed(console, 1)
    bob = await console.person("Bob")
    page = await console.reviewer("Ann")
    await _ready(page)
    item = await _claim(page)
    await page.route("**/v1/live", lambda route: route.abort())
    async with console.service.database.writing() as tx:
        await tx.execute(
            items.update()
            .where(items.c.item_id == item)
            .values(holder=bob.user_id, lease="another", fence=items.c.fence + 1)
        )
    for key in ("d", "2", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator(".lost")).to_contain_text(bob.pseudonym)
    await expect(page.locator(".lost")).to_contain_text("still here")
    assert await page.locator("[name=action][value=disclaim]").is_checked()
    assert not await _ruled(console)


async def test_a_whole_day_that_needs_a_mouse_or_more_than_four_keys_an_item(
    console: Console,
) -> None:
    count = 9
    await _seed(console, count)
    page = await console.reviewer()
    await _ready(page)
    await page.evaluate(
        "() => { window.pressed = 0; window.clicked = 0;"
        " addEventListener('keydown', () => window.pressed++, true);"
        " addEventListener('pointerdown', () => window.clicked++, true); }"
    )
    await page.keyboard.press("n")
    seen = []
    for number in range(count):
        await page.wait_for_selector(".decision")
        seen.append(_shown(page))
        for key in (("a", "1"), ("b", "2"), ("d", "3"))[number % 3]:
            await page.keyboard.press(key)
        await page.keyboard.press("Enter")
        await _until_other(page, seen[-1])
    await expect(page.locator(".empty h1")).to_contain_text("Nothing to do")
    assert await page.evaluate("window.pressed") <= 4 * count
    assert await page.evaluate("window.clicked") == 0
    ruled = {row.item_id: row for row in await _ruled(console)}
    assert set(ruled) == set(seen)
    assert len(ruled) == count
    for number, item in enumerate(seen):
        action, reason = (
            ("allow", "no_violation"), ("block", "illegal"), ("disclaim", "needs_context"),
        )[number % 3]  # fmt: skip
        assert (ruled[item].action, ruled[item].reason) == (action, reason)
        assert bool(ruled[item].clause) == (action != "allow")


async def _decides(page: Page, *keys: str) -> None:
    for key in (*(keys or ("a", "1")), "Enter"):
        await page.keyboard.press(key)


async def _held_claim(page: Page) -> Callable[[], None]:
    """Holds back the answer to the next claim; gives what lets it go."""
    goes = asyncio.Event()

    async def late(route: Route) -> None:
        answer = await route.fetch()
        await goes.wait()
        await route.fulfill(response=answer)

    await page.route("**/v1/claims", late, times=1)
    return goes.set


async def test_an_item_that_comes_back_though_it_is_decided(console: Console) -> None:
    """The live line tells of a claim before its answer is here. Taken for an item that a colleague
    has handed over, it was held twice, and the second one stood where the next item should."""
    await _seed(console, 2)
    page = await console.reviewer()
    asked, typed = asyncio.Event(), asyncio.Event()

    async def late(route: Route) -> None:
        answer = await route.fetch()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asked.wait(), 4)
        await route.fulfill(response=answer)

    async def later(route: Route) -> None:
        asked.set()
        await typed.wait()
        await route.continue_()

    await _ready(page)
    await page.route("**/v1/claims", late, times=1)
    await page.route("**/v1/items/*", later)
    first = await _claim(page)
    await page.keyboard.press("a")
    typed.set()
    await _decides(page, "1")
    await _until_other(page, first)
    await _decides(page)
    await expect(page.locator(".empty h1")).to_contain_text("Nothing to do")
    assert len(await _ruled(console)) == 2


async def test_keys_that_are_lost_between_two_items_without_a_word(console: Console) -> None:
    await _seed(console, 2)
    page = await console.reviewer()
    await _ready(page)
    first = await _claim(page)
    let_go = await _held_claim(page)
    await _decides(page)
    await expect(page.locator("#undo")).to_contain_text("Allowed")
    for key in ("b", "1", "Enter", "s", "x"):
        await page.keyboard.press(key)
        await expect(page.locator("#lacks")).to_contain_text("not taken")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert _shown(page) == first
    let_go()
    await _until_other(page, first)
    await expect(page.locator("#lacks")).to_be_empty()
    await expect(page.locator("[name=action]:checked")).to_have_count(0)
    second = _shown(page)
    await _decides(page)
    await _until_other(page, second)
    ruled = await _ruled(console)
    assert {(row.item_id, row.action) for row in ruled} == {(first, "allow"), (second, "allow")}


async def test_keys_that_decide_an_item_that_is_not_on_the_page(console: Console) -> None:
    """One goes away and back before the next item is here: its answer took the keys."""
    await _seed(console, 2)
    page = await console.reviewer()
    await _ready(page)
    first = await _claim(page)
    let_go = await _held_claim(page)
    await _decides(page)
    await expect(page.locator("#undo")).to_contain_text("Allowed")
    await page.keyboard.press("g")
    await page.keyboard.press("q")
    await expect(page.locator("h1")).to_have_text("Queues")
    await page.keyboard.press("g")
    await page.keyboard.press("w")
    await page.wait_for_selector(".empty")
    async with page.expect_request_finished(lambda request: request.url.endswith("/claims")):
        let_go()
    await _decides(page, "d", "2")
    assert await _claim(page) != first
    await expect(page.locator("[name=action]:checked")).to_have_count(0)
    assert {row.item_id for row in await _ruled(console)} == {first}


async def test_an_enter_that_is_swallowed_while_the_text_is_asked_for(console: Console) -> None:
    await _seed(console, 1)
    page = await console.reviewer()
    await _unwished(console, page, "Hide text until I ask for it")
    goes = asyncio.Event()

    async def late(route: Route) -> None:
        await goes.wait()
        await route.continue_()

    await page.route("**/reveal", late)
    item = await _claim(page)
    await _decides(page)
    await _until_other(page, item)
    goes.set()
    assert len(await _ruled(console)) == 1


async def test_what_one_does_beside_deciding_needs_a_mouse(console: Console) -> None:
    await _seed(console, 5)
    bob = await console.person("Bob")
    page, other = await console.reviewer("Ann"), await console.page(bob)
    await _ready(page)
    await _ready(other)

    skipped = await _claim(page)
    await page.keyboard.press("s")
    await page.keyboard.press("2")
    await expect(page.locator("#news")).to_have_text("Skipped.")

    urgent = await _claim(page)
    assert urgent != skipped
    await page.keyboard.press("u")
    await page.keyboard.press("1")
    await expect(page.locator("#news")).to_contain_text("urgent queue")

    handed = await _claim(page)
    await page.keyboard.press("r")
    await expect(page.locator("#news")).to_have_text("The text is shown.")
    await page.keyboard.press("e")
    await page.keyboard.type("See the whole thread.")
    await page.keyboard.press("Enter")
    await expect(page.locator(".notes .lines")).to_contain_text("See the whole thread.")
    await page.keyboard.press("Escape")
    await page.keyboard.press("h")
    await page.get_by_role("dialog").get_by_text(bob.pseudonym).wait_for()
    await page.keyboard.press("1")
    await expect(page.locator("#news")).to_have_text("Handed over.")
    await expect(other.locator(".decision")).to_have_count(1)
    assert _shown(other) == handed
    await expect(other.locator(".notes .lines")).to_contain_text("••• ••• ••••• ••••••.")
    await other.keyboard.press("r")
    await expect(other.locator(".notes .lines")).to_contain_text("See the whole thread.")

    back = await _claim(page)
    await page.keyboard.press("x")
    await expect(page.locator("#news")).to_have_text("Put back.")

    await page.keyboard.press("/")
    assert await page.evaluate("document.activeElement.id") == "wanted-queue"
    await page.locator("h1").first.focus()
    await page.keyboard.press("j")
    assert await page.evaluate("document.activeElement.matches('.row')")
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_contain_text("Take the next item")
    await page.keyboard.press("Escape")
    await page.keyboard.press("g")
    await page.keyboard.press("q")
    await expect(page.locator("h1")).to_have_text("Queues")

    rows = await _rows(console)
    assert rows[urgent].queue == "urgent"
    assert rows[handed].holder == bob.user_id
    assert rows[back].holder is None
    assert rows[skipped].holder is None


async def test_a_decision_that_cannot_be_taken_back(console: Console) -> None:
    await _seed(console, 2)
    page = await console.reviewer()
    await _ready(page)
    item = await _claim(page)
    for key in ("b", "0"):
        await page.keyboard.press(key)
    await page.keyboard.type("It says who lives where.")
    await page.keyboard.press("Enter")
    await _until_other(page, item)
    await page.wait_for_selector(".decision")
    await expect(page.locator("#undo")).to_contain_text("Blocked")
    await page.keyboard.press("z")
    await page.wait_for_url(lambda url: item in url)
    await expect(page.locator(".reasons textarea")).to_have_value("It says who lives where.")
    await expect(page.locator(".held li")).to_have_count(1)
    assert not await _ruled(console)
    await page.keyboard.press("a")
    await page.keyboard.press("5")
    await page.keyboard.press("Enter")
    await _until_other(page, item)
    (ruled,) = await _ruled(console)
    assert (ruled.item_id, ruled.action, ruled.reason) == (item, "allow", "guard_mistaken")
    await page.wait_for_selector(".decision")
    await expect(page.locator(".held li")).to_have_count(0)


async def test_a_page_loaded_again_that_forgets_what_one_holds(console: Console) -> None:
    await _seed(console, 1)
    page = await console.reviewer()
    await _ready(page)
    item = await _claim(page)
    await page.reload()
    await page.wait_for_selector(".decision")
    assert _shown(page) == item
    for key in ("a", "1", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator(".empty h1")).to_contain_text("Nothing to do")
    assert len(await _ruled(console)) == 1


async def test_content_deleted_under_ones_eyes(console: Console) -> None:
    made = escalations(1, name=console.tenant, tenant=console.tenant)
    await console.service.seed(made)
    page = await console.reviewer()
    await _ready(page)
    await _claim(page)
    gone = made[0].said.verdict
    withdrawn = escalated.withdrawal(
        f"{console.tenant}-gone", event_id=gone.event_id, tenant=console.tenant, edit=1
    )
    await console.service.seed([escalated.closing(withdrawn)])
    await expect(page.locator(".lost")).to_contain_text("deleted or edited")
    await page.keyboard.press("a")
    await page.keyboard.press("1")
    assert await page.locator(".decision .primary").is_disabled()


async def test_an_appeal_decided_without_what_it_is_against(
    make_service: Callable[..., Any], browser: Browser, tenant: str
) -> None:
    async with (
        make_service(QWARDEN_REVIEW__TAKE_BACK_S="0") as service,
        opened(service, browser, tenant) as console,
    ):
        await _appeals(console)


async def _appeals(console: Console) -> None:
    made = escalations(1, name=console.tenant, tenant=console.tenant)
    await console.service.seed(made)
    ann = await console.person("Ann")
    lead = await console.person("Lou", Role.LEAD)
    first = await console.page(ann)
    await _ready(first)
    item = await _claim(first)
    for key in ("b", "1", "Enter"):
        await first.keyboard.press(key)
    await _until_other(first, item)
    page = await console.page(lead)
    await page.goto(f"{console.service.url}/#/ledger")
    await page.get_by_label("Tenant").fill(console.tenant)
    await page.get_by_label("Event").fill(made[0].said.verdict.event_id)
    await page.get_by_role("button", name="Find").click()
    await expect(page.locator(".page-parts .card").first).to_contain_text("block")
    await page.get_by_role("button", name="Statement of reasons").click()
    await expect(page.locator(".statement")).not_to_be_empty()
    await page.get_by_role("button", name="Take an appeal").click()
    await page.get_by_label("What the user says").fill("It was a quotation of the mayor.")
    await page.get_by_role("button", name="File the appeal").click()
    await expect(page.locator("#news")).to_contain_text("The appeal is filed")

    await first.keyboard.press("n")
    await expect(first.locator("#news")).to_contain_text("Nothing to do")
    await page.goto(f"{console.service.url}/#/desk")
    await _ready(page)
    appeal = await _claim(page)
    await expect(page.locator(".appeal")).to_contain_text("•• ••• • ••••••••• •• ••• •••••.")
    await page.keyboard.press("r")
    await expect(page.locator(".appeal")).to_contain_text("It was a quotation of the mayor.")
    await expect(page.locator(".appeal")).to_contain_text("Violates the terms")
    await expect(page.locator(".choice.block")).to_contain_text("upholds")
    for key in ("a", "3", "Enter"):
        await page.keyboard.press(key)
    await _until_other(page, appeal)
    said = {row.kind: row for row in await _ruled(console)}
    assert (said["appeal"].action, said["appeal"].user_id) == ("allow", lead.user_id)


HOSTILE = (
    "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    "<svg/onload=document.title='taken'><a href=\"javascript:document.title='taken'\">x</a>"
    "</textarea></style><style>body{display:none}</style>{{constructor.constructor('x')()}}"
)


async def test_content_that_becomes_part_of_the_page(console: Console) -> None:
    content = Content(
        messages=[
            Message(role="user", content=HOSTILE),
            Message(role="assistant", content=HOSTILE, reasoning=HOSTILE),
        ],
        context=HOSTILE,
        link="javascript:document.title='taken'",
        reports=[Report(reason=HOSTILE)],
        metadata={HOSTILE: HOSTILE, "list": [HOSTILE]},
    )
    await _seed(console, 1, content=content)
    page = await console.reviewer()
    await _ready(page)
    item = await _claim(page)
    await page.keyboard.press("e")
    await page.keyboard.type(HOSTILE)
    await page.keyboard.press("Enter")
    await expect(page.locator(".notes .lines .said")).to_have_count(1)
    await page.locator("h1").focus()
    await page.keyboard.press("r")
    await expect(page.locator(".notes .lines .said")).to_have_text(HOSTILE)
    await expect(page.locator(".turn.is-last > .said")).to_have_text(HOSTILE)
    for summary in await page.locator(".conversation summary").all():
        await summary.click()
    assert await page.locator(".conversation .said").filter(has_text="<script>").count() >= 6
    inside = page.locator(".item script, .item img, .item style, .item [onload], .item [onerror]")
    assert await inside.count() == 0
    assert await page.locator(".item a").count() == 0, "that link must not be one"
    await page.locator("h1").focus()
    for key in ("b", "0"):
        await page.keyboard.press(key)
    await page.keyboard.type(HOSTILE[:400])
    await page.keyboard.press("Enter")
    await _until_other(page, item)
    await page.goto(f"{console.service.url}/#/mine")
    await expect(page.locator("td").filter(has_text="<script>")).to_have_count(1)
    assert "taken" not in await page.title()


async def test_text_from_right_to_left_or_without_end_that_breaks_the_page(
    console: Console,
) -> None:
    long = "نص طويل جدا " * 1500 + "x" * 5000
    content = Content(
        messages=[Message(role="user", content=long)], link="https://forum.example/" + "y" * 1500
    )
    await _seed(console, 1, language="ar", content=content)
    page = await console.reviewer()
    await _ready(page)
    await _claim(page)
    await page.keyboard.press("r")
    said = page.locator(".turn.is-last > .said")
    await expect(said).to_contain_text("نص طويل")
    assert await said.evaluate("e => getComputedStyle(e).direction") == "rtl"
    for width in (1440, 720, 390):
        await page.set_viewport_size({"width": width, "height": 844})
        assert await page.evaluate(
            "() => document.documentElement.scrollWidth <= innerWidth"
            " && document.querySelector('.stage').scrollWidth"
            " <= document.querySelector('.stage').clientWidth"
        ), width
    await expect(page.locator(".decision")).to_be_visible()
    for key in ("a", "1", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator(".empty")).to_be_visible()
    assert len(await _ruled(console)) == 1


async def test_text_that_is_seen_before_it_is_asked_for(console: Console) -> None:
    content = Content(messages=[Message(role="user", content=PLAIN)])
    await _seed(console, 1, content=content)
    page = await console.reviewer()
    await page.goto(f"{console.service.url}/#/wishes")
    await page.get_by_label("Politically sensitive").check()
    async with page.expect_navigation():
        await page.get_by_role("button", name="Save").click()
    await page.goto(f"{console.service.url}/#/desk")
    await _ready(page)
    await _claim(page)
    said = page.locator(".turn.is-last > .said")
    area = page.locator(".conversation")
    assert not re.search(r"\w", await said.inner_text())
    await page.keyboard.press("r")
    await expect(area).to_have_attribute("data-state", "blurred")
    assert "blur" in await said.evaluate("e => getComputedStyle(e).filter")
    await page.keyboard.press("r")
    await expect(area).to_have_attribute("data-state", "clear")
    await expect(said).to_have_text(PLAIN)
    await page.keyboard.press("r")
    await expect(area).to_have_attribute("data-state", "masked")
    assert not re.search(r"\w", await said.inner_text())


async def test_keys_that_act_where_one_does_not_want_them(console: Console) -> None:
    await _seed(console, 1)
    page = await console.reviewer()
    await _unwished(console, page, "Single keys act")
    await page.keyboard.press("n")
    await page.get_by_role("button", name="Take the next item").click()
    await page.wait_for_selector(".decision")
    await page.keyboard.press("a")
    assert await page.locator("[name=action]:checked").count() == 0
    await page.locator("[name=action][value=allow]").check()
    await page.get_by_label("No violation").check()
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator(".empty")).to_be_visible()
    assert len(await _ruled(console)) == 1
