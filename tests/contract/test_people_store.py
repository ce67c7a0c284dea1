"""People, links, sessions and tokens, on both databases."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from sqlalchemy import event, select

from qwarden.review.people import links, pseudonym, sessions, tokens, users
from qwarden.review.people.claims import Said
from qwarden.review.people.fields import Preferences
from qwarden.review.person import Person, Role
from qwarden.review.refusals import Conflict, Forbidden, Invalid, NotFound, NotSignedIn
from qwarden.review.store import schema
from qwarden.review.store.database import Database
from qwarden.settings import Review

NOW = 1_800_000_000.0
LIMITS = Review(public_url="https://review.test/")
ISSUER = "https://issuer.test"


async def added(database: Database, name: str = "Anna", **more: Any) -> Person:
    says = {"roles": ["reviewer"], "tenants": ["demo"], "languages": ["en"], **more}
    async with database.writing() as tx:
        return await users.add(tx, name=name, actor="service", now=NOW, **says)


async def acts(database: Database) -> list[str]:
    async with database.reading() as tx:
        found = await tx.execute(select(schema.audit.c.act).order_by(schema.audit.c.number))
        return list(found.scalars())


async def rows(database: Database) -> dict[str, list[Any]]:
    async with database.reading() as tx:
        return {
            table.name: sorted(str(row) for row in await tx.execute(select(table)))
            for table in (schema.users, schema.links, schema.sessions, schema.tokens, schema.audit)
        }


async def test_a_person_comes_back_as_they_were_added(database: Database) -> None:
    anna = await added(database, " Anna\\0 ", roles=["lead", "reviewer"], tenants=["a\0b", "*"])
    assert anna.name == "Anna\\0"
    async with database.reading() as tx:
        assert await users.get(tx, anna.user_id) == anna
        assert await users.named(tx, "Anna\\0") == anna
        assert await users.named(tx, "anna") is None
        (known,) = await users.everybody(tx)
    assert known == users.User(anna, None, True, NOW)
    assert await acts(database) == ["user_added"]


@pytest.mark.parametrize(
    "wrong",
    [{"roles": ["boss"]}, {"roles": []}, {"languages": ["pt-BR"]}, {"tenants": [""]}, {"name": ""}],
)
async def test_a_person_who_cannot_be_meant_is_not_added(
    database: Database, wrong: dict[str, Any]
) -> None:
    before = await rows(database)
    with pytest.raises(Invalid):
        await added(database, **wrong)
    assert await rows(database) == before


async def test_two_people_never_have_one_name_also_when_one_has_left(database: Database) -> None:
    both = await asyncio.gather(
        added(database, "Anna"), added(database, "Anna"), return_exceptions=True
    )
    assert {type(each) for each in both} == {Person, Conflict}
    (anna,) = [each for each in both if isinstance(each, Person)]
    async with database.writing() as tx:
        await users.remove(tx, anna.user_id, actor="service", now=NOW)
    with pytest.raises(Conflict, match="removed"):
        await added(database, "Anna")


async def test_pseudonyms_that_are_drawn_twice_are_drawn_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = iter(["calm-heron-27", "calm-heron-27", "calm-heron-27", "bold-otter-11"])
    monkeypatch.setattr(pseudonym, "drawn", lambda random: next(draws))
    first, second = await added(database, "Anna"), await added(database, "Ben")
    assert (first.pseudonym, second.pseudonym) == ("calm-heron-27", "bold-otter-11")


async def test_a_removed_role_acts_on_the_next_request(database: Database) -> None:
    anna = await added(database, roles=["lead", "reviewer"])
    async with database.writing() as tx:
        begun = await sessions.begin(tx, anna.user_id, by="link", lasts_s=60, now=NOW)
        token = await tokens.make(tx, anna.user_id, "cli", actor=anna.user_id, now=NOW)
        await users.change(tx, anna.user_id, roles=["reviewer"], actor="service", now=NOW)
    async with database.reading() as tx:
        session = await sessions.find(tx, begun.token, now=NOW)
        by_token = await tokens.find(tx, token, now=NOW)
    assert session is not None
    assert by_token is not None
    assert session.person.roles == by_token.roles == {Role.REVIEWER}
    assert session.person.tenants == {"demo"}


async def test_who_is_removed_is_out_by_every_way_at_once(database: Database) -> None:
    anna, ben = await added(database, "Anna"), await added(database, "Ben")
    async with database.writing() as tx:
        begun = await sessions.begin(tx, anna.user_id, by="link", lasts_s=60, now=NOW)
        other = await sessions.begin(tx, ben.user_id, by="link", lasts_s=60, now=NOW)
        token = await tokens.make(tx, anna.user_id, "cli", actor=anna.user_id, now=NOW)
        link = await links.make(tx, anna.user_id, actor="service", now=NOW, limits=LIMITS)
    async with database.writing() as tx:
        await users.remove(tx, anna.user_id, actor=ben.user_id, now=NOW)
    async with database.writing() as tx:
        assert await sessions.find(tx, begun.token, now=NOW) is None
        assert await tokens.find(tx, token, now=NOW) is None
        assert await users.get(tx, anna.user_id) is None
        assert await sessions.find(tx, other.token, now=NOW) is not None
        with pytest.raises(NotSignedIn):
            await links.spend(tx, link, now=NOW)
        for again in (
            users.change(tx, anna.user_id, roles=["lead"], actor="service", now=NOW),
            users.remove(tx, anna.user_id, actor="service", now=NOW),
            links.make(tx, anna.user_id, actor="service", now=NOW, limits=LIMITS),
            tokens.make(tx, anna.user_id, "new", actor="service", now=NOW),
        ):
            with pytest.raises(NotFound):
                await again
    assert "user_removed" in await acts(database)


async def test_a_change_that_changes_nothing_is_not_told(database: Database) -> None:
    anna = await added(database)
    async with database.writing() as tx:
        same = await users.change(tx, anna.user_id, roles=["reviewer"], actor="service", now=NOW)
        await users.change(tx, anna.user_id, languages=["en", "de"], actor="service", now=NOW)
    assert same == anna
    assert await acts(database) == ["user_added", "user_changed"]


async def test_a_link_signs_in_one_browser_and_no_second_one(database: Database) -> None:
    anna = await added(database)
    async with database.writing() as tx:
        token = await links.make(tx, anna.user_id, actor="service", now=NOW, limits=LIMITS)

    async def spend() -> str:
        async with database.writing() as tx:
            return await links.spend(tx, token, now=NOW + 1)

    all_at_once = await asyncio.gather(*(spend() for _ in range(8)), return_exceptions=True)
    assert [each for each in all_at_once if not isinstance(each, NotSignedIn)] == [anna.user_id]


async def test_a_link_that_is_too_old_signs_nobody_in(database: Database) -> None:
    anna = await added(database)
    async with database.writing() as tx:
        token = await links.make(tx, anna.user_id, actor="service", now=NOW, limits=LIMITS)
    for late, outcome in ((LIMITS.link_s + 1, NotSignedIn), (LIMITS.link_s - 1, None)):
        async with database.writing() as tx:
            if outcome is None:
                assert await links.spend(tx, token, now=NOW + late) == anna.user_id
            else:
                with pytest.raises(outcome):
                    await links.spend(tx, token, now=NOW + late)
    assert links.url_of(token, LIMITS) == f"https://review.test/sign-in#{token}"


async def test_what_opens_the_door_stands_nowhere_in_the_database(database: Database) -> None:
    anna = await added(database)
    async with database.writing() as tx:
        link = await links.make(tx, anna.user_id, actor="service", now=NOW, limits=LIMITS)
        token = await tokens.make(tx, anna.user_id, "cli", actor=anna.user_id, now=NOW)
        session = await sessions.begin(tx, anna.user_id, by="link", lasts_s=60, now=NOW)
    stored = str(await rows(database))
    for secret in (link, token, session.token):
        assert len(secret) >= 43
        assert secret not in stored
        assert secret.removeprefix("qw_") not in stored


async def test_a_tool_gets_no_link(database: Database) -> None:
    tool = await added(database, is_tool=True)
    before = await rows(database)
    with pytest.raises(Invalid, match="token"):
        async with database.writing() as tx:
            await links.make(tx, tool.user_id, actor="service", now=NOW, limits=LIMITS)
    assert await rows(database) == before


async def test_a_session_ends_when_its_time_is_over_and_when_one_signs_out(
    database: Database,
) -> None:
    anna = await added(database)
    async with database.writing() as tx:
        first = await sessions.begin(tx, anna.user_id, by="link", lasts_s=60, now=NOW)
        second = await sessions.begin(tx, anna.user_id, by="oidc", lasts_s=90, now=NOW)
    async with database.reading() as tx:
        found = await sessions.find(tx, first.token, now=NOW + 59)
        other = await sessions.find(tx, second.token, now=NOW + 59)
        assert found is not None
        assert other is not None
        assert found.csrf != other.csrf
        assert await sessions.find(tx, first.token, now=NOW + 60) is None
        assert await sessions.find(tx, "", now=NOW) is None
    async with database.writing() as tx:
        await sessions.end(tx, second.token, now=NOW)
        assert await sessions.find(tx, second.token, now=NOW) is None
        await sessions.begin(tx, anna.user_id, by="link", lasts_s=60, now=NOW + 100)
        kept = (await tx.execute(select(schema.sessions))).all()
    assert len(kept) == 1
    assert (await acts(database)).count("signed_out") == 1


async def test_a_request_costs_one_query_to_know_who_asks(database: Database) -> None:
    anna = await added(database)
    async with database.writing() as tx:
        begun = await sessions.begin(tx, anna.user_id, by="link", lasts_s=60, now=NOW)
        token = await tokens.make(tx, anna.user_id, "cli", actor=anna.user_id, now=NOW)
    async with database.reading() as tx:
        asked: list[str] = []
        event.listen(
            tx.sync_connection,
            "before_cursor_execute",
            lambda conn, cursor, statement, *rest: asked.append(statement),
        )
        await sessions.find(tx, begun.token, now=NOW)
        await tokens.find(tx, token, now=NOW)
    assert len(asked) == 2


async def test_a_token_is_good_until_its_end_or_until_it_is_revoked(database: Database) -> None:
    anna = await added(database, is_tool=True)
    async with database.writing() as tx:
        until = await tokens.make(
            tx, anna.user_id, "a", expires_at=NOW + 60, actor="service", now=NOW
        )
        stays = await tokens.make(tx, anna.user_id, "b", actor="service", now=NOW)
        assert until.startswith("qw_")
        assert [each.label for each in await tokens.of(tx, anna.user_id)] == ["a", "b"]
        assert await tokens.find(tx, until, now=NOW + 59) == anna
        assert await tokens.find(tx, until, now=NOW + 60) is None
        assert await tokens.find(tx, stays, now=NOW + 1e9) == anna
        with pytest.raises(Conflict):
            await tokens.make(tx, anna.user_id, "b", actor="service", now=NOW)
        await tokens.revoke(tx, anna.user_id, "b", actor="service", now=NOW)
        assert await tokens.find(tx, stays, now=NOW) is None
        with pytest.raises(NotFound):
            await tokens.revoke(tx, anna.user_id, "b", actor="service", now=NOW)
        await tokens.make(tx, anna.user_id, "a", actor="service", now=NOW + 61)
    assert await acts(database) == [
        "user_added", "token_made", "token_made", "token_revoked", "token_made"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "wrong", [{"label": ""}, {"label": "a\nb"}, {"label": "x" * 101}, {"expires_at": NOW}]
)
async def test_a_token_that_cannot_be_meant_is_not_made(
    database: Database, wrong: dict[str, Any]
) -> None:
    anna = await added(database)
    before = await rows(database)
    with pytest.raises(Invalid):
        async with database.writing() as tx:
            await tokens.make(
                tx, anna.user_id, **{"label": "cli", "actor": "service", "now": NOW, **wrong}
            )
    assert await rows(database) == before


async def test_preferences_are_kept_for_each(database: Database) -> None:
    anna, ben = await added(database, "Anna"), await added(database, "Ben")
    wanted = Preferences(masked=False, blur=["PII"], theme="dark", language="ar")
    async with database.writing() as tx:
        await users.prefer(tx, anna.user_id, wanted)
        assert await users.preferences(tx, anna.user_id) == wanted
        assert await users.preferences(tx, ben.user_id) == Preferences()
        with pytest.raises(NotFound):
            await users.preferences(tx, "0" * 32)


async def test_an_item_is_handed_only_to_who_may_have_it(database: Database) -> None:
    anna = await added(database, "Anna")
    fits = await added(database, "Ben", languages=["*"])
    await added(database, "Cleo", languages=["de"])
    await added(database, "Dan", tenants=["other"])
    await added(database, "Eve", roles=["auditor"])
    await added(database, "Fay", is_tool=True)
    gone = await added(database, "Gus")
    async with database.writing() as tx:
        await users.remove(tx, gone.user_id, actor="service", now=NOW)
        assert await users.colleagues(tx, anna, "demo", "en") == [fits]


SAID = Said("4711", "Anna", frozenset({Role.LEAD}), frozenset({"demo"}), None, NOW)


async def learn(database: Database, said: Said) -> Person | None:
    async with database.writing() as tx:
        return await users.learn(tx, ISSUER, said, now=NOW)


async def test_who_comes_from_the_issuer_is_one_person_however_often(database: Database) -> None:
    at_once = await asyncio.gather(*(learn(database, SAID) for _ in range(5)))
    first = at_once[0]
    assert first is not None
    assert all(each == first for each in at_once)
    assert first.roles == {Role.LEAD}
    assert first.tenants == {"demo"}
    assert not first.languages
    async with database.reading() as tx:
        assert await users.of_issuer(tx, ISSUER, SAID) == first
        assert await users.of_issuer(tx, "https://other.test", SAID) is None
        assert len(await users.everybody(tx)) == 1
    assert await acts(database) == ["user_added"]


async def test_a_name_of_somebody_here_does_not_make_one_that_person(database: Database) -> None:
    ours = await added(database, "Anna", roles=["admin"])
    theirs = await learn(database, SAID)
    third = await learn(database, dataclasses.replace(SAID, subject="other"))
    assert theirs is not None
    assert third is not None
    assert len({ours.user_id, theirs.user_id, third.user_id}) == 3
    assert (theirs.name, third.name) == ("Anna (2)", "Anna (3)")
    assert Role.ADMIN not in theirs.roles


async def test_what_the_issuer_is_not_asked_for_stays_as_we_said(database: Database) -> None:
    anna = await learn(database, SAID)
    assert anna is not None
    async with database.writing() as tx:
        await users.change(tx, anna.user_id, languages=["pt"], actor="service", now=NOW)
    fewer = dataclasses.replace(SAID, roles=frozenset({Role.REVIEWER}), tenants=frozenset())
    again = await learn(database, fewer)
    assert again is not None
    assert again.roles == {Role.REVIEWER}
    assert not again.tenants
    assert again.languages == {"pt"}
    async with database.reading() as tx:
        assert await users.of_issuer(tx, ISSUER, SAID) is None
        assert await users.of_issuer(tx, ISSUER, fewer) == again


async def test_who_has_lost_every_role_is_signed_out_everywhere(database: Database) -> None:
    anna = await learn(database, SAID)
    assert anna is not None
    async with database.writing() as tx:
        begun = await sessions.begin(tx, anna.user_id, by="oidc", lasts_s=60, now=NOW)
    without = dataclasses.replace(SAID, roles=frozenset())
    assert await learn(database, without) is None
    async with database.reading() as tx:
        assert await sessions.find(tx, begun.token, now=NOW) is None
        assert await users.of_issuer(tx, ISSUER, without) is None
    assert await learn(database, SAID) == anna


async def test_an_older_token_gives_a_role_back_that_was_taken_away(database: Database) -> None:
    later = dataclasses.replace(SAID, roles=frozenset({Role.REVIEWER}), at=NOW + 60)
    assert await learn(database, SAID) is not None
    anna = await learn(database, later)
    assert anna is not None
    assert anna.roles == {Role.REVIEWER}
    async with database.reading() as tx:
        assert await users.of_issuer(tx, ISSUER, SAID) == anna
    assert await learn(database, SAID) == anna
    none = dataclasses.replace(SAID, roles=frozenset(), at=NOW + 30)
    assert await learn(database, none) == anna, "an older word has taken a role away"
    gone = dataclasses.replace(none, at=NOW + 90)
    for said in (gone, later):
        assert await learn(database, said) is None
        async with database.reading() as tx:
            assert await users.of_issuer(tx, ISSUER, said) is None


async def test_an_equal_newer_word_lets_an_older_one_act(database: Database) -> None:
    """What is said again is news: something else may have been said in between."""
    again = dataclasses.replace(SAID, at=NOW + 60)
    between = dataclasses.replace(SAID, roles=frozenset({Role.REVIEWER}), at=NOW + 30)
    anna = await learn(database, SAID)
    async with database.reading() as tx:
        assert await users.of_issuer(tx, ISSUER, again) is None
    assert await learn(database, again) == anna
    assert await learn(database, between) == anna
    async with database.reading() as tx:
        assert await users.of_issuer(tx, ISSUER, between) == anna
    assert await acts(database) == ["user_added"]


async def test_a_stranger_without_a_role_leaves_nothing_behind(database: Database) -> None:
    before = await rows(database)
    assert await learn(database, dataclasses.replace(SAID, roles=frozenset())) is None
    assert await rows(database) == before


async def test_who_was_removed_here_does_not_come_back_by_the_issuer(database: Database) -> None:
    anna = await learn(database, SAID)
    assert anna is not None
    async with database.writing() as tx:
        await users.remove(tx, anna.user_id, actor="service", now=NOW)
    with pytest.raises(Forbidden):
        await learn(database, SAID)
