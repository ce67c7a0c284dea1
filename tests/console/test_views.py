"""Every page of the console: whether everybody can use it, in every light, size and language."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, Route, expect
from sqlalchemy import select

import escalated
import qwarden.review
from consoles import Console
from qwarden.contracts.verdict import Action, Verdict
from qwarden.review.person import Person, Role
from qwarden.review.store.audit import Act
from qwarden.review.store.schema import audit, items, users
from reviewing import escalations

STRINGS = Path(qwarden.review.__file__).parent / "console" / "strings"
VIEWS = ("desk", "queues", "mine", "bulk", "quality", "ledger", "log", "people", "wishes")
SIZES = {"wide": (1440, 900), "phone": (390, 844)}
ZOOMED = (720, 450)
"""What a window of 1440 by 900 shows at 200 %."""


async def _everybody(console: Console) -> Person:
    """One who sees all pages."""
    return await console.service.add(f"Eve of {console.tenant}", *Role, tenants=[console.tenant])


async def _seed(console: Console, count: int, **how: Any) -> list[str]:
    made = escalations(count, name=console.tenant, tenant=console.tenant, **how)
    await console.service.seed(made)
    return [each.said.verdict.event_id for each in made]


async def _go(page: Page, console: Console, view: str) -> None:
    await page.goto(f"{console.service.url}/#/{view}")
    await page.wait_for_selector(f'#main[data-view="{view}"]:not([aria-busy]) h1')


async def _find(page: Page, console: Console, event: str) -> None:
    """Has the ledger say what it has of an event."""
    await page.get_by_label("Tenant").fill(console.tenant)
    await page.get_by_label("Event").fill(event)
    await page.get_by_role("button", name="Find").click()
    await page.wait_for_selector(".page-parts .card")


async def _open_all(page: Page) -> None:
    """Opens what is folded together, so that it is looked at too."""
    await page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")


async def _decide_one(page: Page) -> None:
    """Leaves a decision behind, with its bar to take it back, and holds the next item."""
    await page.wait_for_selector(".empty")
    await page.keyboard.press("n")
    await page.wait_for_selector(".decision")
    before = page.url
    for key in ("b", "1", "Enter"):
        await page.keyboard.press(key)
    await page.wait_for_url(lambda url: url != before)
    await page.wait_for_selector(".decision")


async def _check(page: Page, what: str) -> None:
    found = await Axe().run(page)
    said = [
        f"{each['id']}: {each['nodes'][0]['target']} {each['nodes'][0]['failureSummary']}"
        for each in found.response["violations"]
    ]
    assert not said, (what, said)


async def _fits(page: Page) -> bool:
    return bool(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


# Colours depend on the one and the order of things on the other: each is seen, not each with each.
@pytest.mark.parametrize(("scheme", "size"), [("light", "wide"), ("dark", "phone")])
async def test_a_page_that_somebody_cannot_use(console: Console, scheme: str, size: str) -> None:
    await _seed(console, 4)
    width, height = SIZES[size]
    page = await console.page(
        await _everybody(console), width=width, height=height, color_scheme=scheme
    )
    await _decide_one(page)
    await page.keyboard.press("r")
    await page.keyboard.press("d")
    await expect(page.locator(".conversation")).to_have_attribute("data-state", "clear")
    await _open_all(page)
    await _check(page, "an item")
    assert await _fits(page)
    for key in ("?", "s", "u"):
        await page.keyboard.press(key)
        await page.wait_for_selector("dialog[open]")
        await _check(page, f"the dialog of {key}")
        await page.keyboard.press("Escape")
        await expect(page.locator("dialog")).to_have_count(0)
    for view in VIEWS[1:]:
        await _go(page, console, view)
        await _check(page, view)
        assert await _fits(page), view


async def test_a_page_that_scrolls_sideways_at_twice_its_size(console: Console) -> None:
    (event, _) = await _seed(console, 2)
    width, height = ZOOMED
    page = await console.page(
        await _everybody(console), width=width, height=height, device_scale_factor=2
    )
    await _decide_one(page)
    await _open_all(page)
    for view in VIEWS:
        await _go(page, console, view)
        if view == "ledger":
            await _find(page, console, event)
            await _check(page, "the ledger's rows")
        assert await _fits(page), view


async def test_words_of_ours_outside_the_strings_file(console: Console) -> None:
    """Every string is served with its letters changed: what still has plain letters on the page is
    data, and marked as such, or was written into a script."""

    def changed(said: str) -> str:
        pieces = re.split(r"(\{\w+\})", said)
        return "".join(
            piece if piece.startswith("{") else re.sub(r"[A-Za-z]", "ж", piece) for piece in pieces
        )

    async def answer(route: Route) -> None:
        said = json.loads((STRINGS / "en.json").read_text())
        await route.fulfill(json={key: changed(value) for key, value in said.items()})

    await _seed(console, 3)
    page = await console.page(await _everybody(console))
    await page.route("**/console/strings/*.json", answer)
    await page.reload()
    await _decide_one(page)
    await page.keyboard.press("b")
    await _open_all(page)
    plain = """() => {
      const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      const found = [];
      for (let node; (node = walk.nextNode());) {
        const by = node.parentElement;
        // Data, and what the browser itself says: names of languages, moments and units of time.
        if (by.closest('[translate=no], time, script, .clock')) continue;
        if (/[A-Za-z]/.test(node.textContent)) found.push(node.textContent);
      }
      for (const name of ['title', 'aria-label', 'placeholder', 'alt']) {
        for (const by of document.body.querySelectorAll(`[${name}]`)) {
          if (by.closest('time, .due')) continue;
          if (/[A-Za-z]/.test(by.getAttribute(name))) found.push(by.getAttribute(name));
        }
      }
      return found;
    }"""
    others = re.compile("English|German|general")  # the browser's names, and the queue's
    for view in VIEWS:
        await _go(page, console, view)
        if view == "desk":
            await page.keyboard.press("?")
        found = [
            text
            for text in await page.evaluate(plain)
            if re.search("[A-Za-z]", others.sub("", text))
        ]
        assert not found, (view, found)
        if view == "desk":
            await page.keyboard.press("Escape")


async def test_a_german_who_is_spoken_to_in_english(console: Console) -> None:
    await _seed(console, 1)
    page = await console.reviewer(locale="de-AT")
    await page.wait_for_selector(".empty")
    assert await page.evaluate("document.documentElement.lang") == "de"
    await page.keyboard.press("n")
    await expect(page.locator(".choice.act").first).to_contain_text("Zulassen")
    await expect(page.locator(".scores").first).to_contain_text("11,2")


async def test_a_bulk_decision_that_nobody_looked_over_or_can_undo(console: Console) -> None:
    await _seed(console, 6)
    page = await console.page(await console.person("Lou", Role.LEAD))
    await _go(page, console, "bulk")
    await page.get_by_label("Tenant").fill(console.tenant)
    await page.get_by_role("button", name="Preview").click()
    await expect(page.locator(".page-parts h2").first).to_have_text("6 items")
    await page.get_by_label("Action").select_option("block")
    await page.get_by_label("Reason").select_option("spam")
    await page.get_by_label("Clause").fill("3.1 Spam")
    async with page.expect_response("**/v1/bulk") as waiting:
        await page.get_by_role("button", name="Decide 6 items").click()
    answer = await waiting.value
    assert answer.ok, await answer.text()
    await expect(page.locator(".page-parts h2")).to_have_text("6 items decided")
    assert await _states(console) == {"decided": 6}
    await page.get_by_role("button", name="Undo all of it").click()
    await expect(page.locator(".page-parts h2")).to_have_text("6 items are open again")
    assert await _states(console) == {"open": 6}


async def _states(console: Console) -> dict[str, int]:
    async with console.service.database.reading() as tx:
        found = await tx.execute(select(items.c.state).where(items.c.tenant == console.tenant))
        states = list(found.scalars())
    return {state: states.count(state) for state in states}


async def test_an_account_that_an_admin_cannot_make_or_end(console: Console) -> None:
    admin = await console.service.add(f"Ada of {console.tenant}", Role.ADMIN)
    page = await console.page(admin)
    await _go(page, console, "people")
    name = f"New one of {console.tenant}"
    await page.get_by_label("Name").fill(name)
    await page.get_by_role("button", name="Add", exact=True).click()
    row = page.locator("tr").filter(has_text=name)
    await row.get_by_role("button", name="Sign-in link").click()
    link = await page.locator(".made input").input_value()
    other = await console.browser.new_context()
    seen = await other.new_page()
    await seen.goto(link)
    await expect(seen.locator("#bar")).to_be_visible()
    await other.close()
    await row.get_by_role("button", name="Tokens").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("What it is for").fill("their tool")
    await dialog.get_by_role("button", name="Make a token").click()
    await expect(page.locator(".made input")).to_have_value(re.compile("^qw_"))
    await row.get_by_role("button", name="Remove").click()
    await dialog.get_by_role("button", name="Remove").click()
    await expect(row).to_contain_text("removed")
    async with console.service.database.reading() as tx:
        assert not await tx.scalar(select(users.c.is_active).where(users.c.name == name))


async def test_a_log_that_an_auditor_cannot_read_or_prove(console: Console) -> None:
    await _seed(console, 1)
    reviewer = await console.reviewer()
    await reviewer.wait_for_selector(".empty")
    await reviewer.keyboard.press("n")
    await reviewer.wait_for_selector(".decision")
    auditor = await console.service.add(f"Al of {console.tenant}", Role.AUDITOR)
    page = await console.page(auditor)
    await _go(page, console, "log")
    await page.get_by_label("What", exact=True).select_option("claimed")
    await page.get_by_role("button", name="Filter").click()
    await expect(page.locator("tbody tr").first).to_contain_text("claimed")
    await page.get_by_role("button", name="Verify").click()
    await expect(page.locator(".proof")).to_contain_text("The log is whole")
    async with page.expect_download() as waiting:
        await page.get_by_role("link", name="Export").click()
    exported = await (await waiting.value).path()
    assert '"claimed"' in Path(exported).read_text()


async def _found(console: Console, person: Person, event: str) -> Page:
    """The ledger, with what it has of an event."""
    page = await console.page(person)
    await _go(page, console, "ledger")
    await _find(page, console, event)
    return page


async def _appealed(console: Console, lead: Person, statement: str) -> tuple[Verdict, str]:
    """A verdict that blocks, and the item of an appeal against it."""
    verdict = escalated.verdict(
        console.tenant, tenant=console.tenant, action=Action.BLOCK, safety="Unsafe"
    )
    await console.service.seed([escalated.evidence(verdict, time.time())])
    client = await console.service.client_of(lead)
    made = await client.post(
        "/v1/appeals",
        json={"tenant": console.tenant, "event_id": verdict.event_id, "statement": statement},
    )
    assert made.status_code == 200, made.text
    return verdict, made.json()["item_id"]


async def _revealed(console: Console) -> list[tuple[str, dict[str, Any]]]:
    """Who was shown what: the item, or what stands about it."""
    async with console.service.database.reading() as tx:
        rows = await tx.execute(
            select(audit)
            .where(audit.c.tenant == console.tenant, audit.c.act == Act.REVEALED)
            .order_by(audit.c.number)
        )
        return [
            (row.actor, {"item_id": row.item_id} if row.item_id else json.loads(row.about))
            for row in rows
        ]


async def test_the_ledger_shows_text_that_nobody_asked_for_or_the_log_lacks(
    console: Console,
) -> None:
    lead = await console.person("Lou", Role.LEAD)
    words = "It was a quotation of the mayor."
    verdict, item = await _appealed(console, lead, words)
    page = await _found(console, lead, verdict.event_id)
    entry, appeal = (page.locator(".page-parts .card").nth(at) for at in (0, 1))
    shown = [(entry, "Where can I read more about it?"), (appeal, words)]
    for card, text in shown:
        await expect(card).to_contain_text("••")
        await expect(card).not_to_contain_text(text)
    assert await _revealed(console) == []
    for card, text in shown:
        await card.get_by_role("button", name="Show the text").click()
        await expect(card).to_contain_text(text)
    assert await _revealed(console) == [
        (lead.user_id, {"verdict_id": verdict.verdict_id}),
        (lead.user_id, {"item_id": item}),
    ]


async def test_an_admin_is_offered_what_is_refused(console: Console) -> None:
    """Content of the ledger is theirs to see, items and what stands in them are not."""
    lead = await console.person("Lou", Role.LEAD)
    verdict, _ = await _appealed(console, lead, "It was a joke.")
    page = await _found(console, await console.person("Ada", Role.ADMIN), verdict.event_id)
    appeal = page.locator(".page-parts .card").nth(1)
    await expect(appeal).to_contain_text("•• ••• • ••••.")
    await expect(appeal.get_by_role("button")).to_have_count(0)
    refusals: list[str] = []
    page.on("response", lambda each: refusals.append(each.url) if each.status == 403 else None)
    await page.get_by_role("button", name="Show the text").click()
    await expect(page.locator(".page-parts .card").first).to_contain_text("Where can I read more")
    await page.get_by_role("button", name="Statement of reasons").click()
    await expect(page.locator(".statement")).not_to_be_empty()
    assert not refusals


async def test_a_lead_who_does_not_see_what_waits(console: Console) -> None:
    await _seed(console, 3, queue="general")
    await console.service.seed(
        escalations(2, name=f"{console.tenant}-late", tenant=console.tenant, queue="late",
                    sla_s=1, age_s=60)
    )  # fmt: skip
    page = await console.page(await console.person("Lou", Role.LEAD))
    await _go(page, console, "queues")
    card = page.locator(".queue-cards .card").filter(has_text="general")
    await expect(card).to_contain_text("3 open")
    await expect(card.locator("svg.columns")).to_have_attribute(
        "aria-label", re.compile("Arrived: 3")
    )
    reviewer = await console.reviewer()
    await reviewer.wait_for_selector(".empty")
    await reviewer.locator("#wanted-queue").select_option("general")
    await reviewer.keyboard.press("n")
    await expect(card).to_contain_text("1 with people")  # without a reload


async def test_an_item_in_the_wrong_queue_that_a_lead_cannot_move(console: Console) -> None:
    await _seed(console, 1, queue="general")
    await console.service.seed(
        escalations(1, name=f"{console.tenant}-other", tenant=console.tenant, queue="other")
    )
    page = await console.page(await console.person("Lou", Role.LEAD))
    await page.wait_for_selector(".empty")
    await page.locator("#wanted-queue").select_option("general")
    await page.locator("h1").focus()
    await page.keyboard.press("n")
    await page.wait_for_selector(".decision")
    await page.keyboard.press("m")
    await page.get_by_role("dialog").get_by_role("button", name="other").click()
    await expect(page.locator("#news")).to_have_text("Moved.")
    async with console.service.database.reading() as tx:
        found = await tx.execute(select(items.c.queue).where(items.c.tenant == console.tenant))
        assert list(found.scalars()) == ["other", "other"]
