/** Where reviewers work: one item on the stage, what waits beside it, the decision at hand. */

import { Refused, get, post } from "../api.js";
import { choose } from "../choosing.js";
import { data, fill, h, key } from "../dom.js";
import { said } from "../draft.js";
import * as hands from "../hands.js";
import * as keyboard from "../keys.js";
import { tell, trying } from "../news.js";
import { t, term } from "../strings.js";
import { panel } from "./decision.js";
import { stage } from "./item.js";
import * as undo from "./undo.js";
import { waiting, wanted } from "./waiting.js";

const SKIPS = ["language", "unclear", "involved", "distressing", "other"];
const URGENT = ["threat_to_life", "child_abuse", "other"];

let hand = null;

/** Shows the desk; `itemId` is one to look at, or to take up. */
export async function show(place, me, itemId) {
  const { decides } = me;
  const leads = me.roles.includes("lead");
  let side = null;
  let looked = null;
  let isBusy = false;
  const list = waiting(me, { open });
  const middle = h("section", { class: "stage", "aria-label": t("desk.item") });
  const right = h("aside", { class: "panel", "aria-label": t("decision.title") });
  const desk = h("div", { class: "desk" }, list.element, middle, right);
  fill(place, desk);

  const acts = {
    reveal,
    note: (text) =>
      trying(async () => {
        const id = current().item_id;
        await post(`/items/${id}/notes`, { text });
        await renewed(id);
        return true;
      }),
    send: whenFree(send),
    skip: whenFree(() => away("skip", SKIPS, ({ value }) => ({ reason: value }))),
    urgent: whenFree(() =>
      away(
        "urgent",
        URGENT,
        ({ value, words }) => ({ why: value, note: words || null }),
        t("urgent.note"),
      ),
    ),
    handOver: whenFree(handOver),
    release: whenFree(() => leave(hand, "release", {})),
    again: whenFree(() => claim({ item_id: hand.item.item_id })),
    leave: whenFree(() => {
      hands.drop(hand);
      stay();
    }),
  };

  function current() {
    return hand?.item ?? looked;
  }

  /** Draws the item that is held, or looked at, or the way to one. */
  function draw({ focus = true } = {}) {
    const item = current();
    desk.dataset.has = item ? "item" : "none";
    list.mark(item?.item_id ?? null);
    if (!item) {
      side = null;
      fill(middle, empty());
      fill(right);
      right.hidden = true;
      bind();
      return;
    }
    drawItem();
    side = hand ? panel(hand, me, acts) : null;
    right.hidden = !hand;
    fill(right, side?.element, others());
    middle.scrollTop = 0;
    if (focus) document.getElementById("item-title").focus();
    bind();
  }

  function drawItem() {
    const item = current();
    const before = middle.querySelector("#note")?.value ?? "";
    fill(
      middle,
      h("button", { class: "plain back", on: { click: toList } }, t("desk.back")),
      !hand &&
        h(
          "p",
          { class: "looking" },
          item.lease?.holder ? t("desk.held", { holder: item.lease.holder }) : t("desk.looking"),
          decides &&
            !item.lease?.holder &&
            item.state !== "decided" &&
            h(
              "button",
              { class: "plain", on: { click: () => claim({ item_id: item.item_id }) } },
              t("desk.take"),
            ),
        ),
      leads && h("button", { class: "plain move", on: { click: move } }, t("move.title"), key("M")),
      stage(
        {
          item,
          revealed: shown().revealed,
          isClear: shown().isClear,
          isMine: Boolean(hand) || decides,
          masks: {
            blurs: (item.verdict.categories ?? []).some((name) =>
              me.preferences.blur.includes(name),
            ),
          },
        },
        acts,
      ),
    );
    const note = middle.querySelector("#note");
    if (note) note.value = before;
  }

  const looks = { revealed: null, isClear: false };
  function shown() {
    return hand ?? looks;
  }

  function empty() {
    return h(
      "div",
      { class: "empty" },
      h("img", { src: "/console/icons/calm.svg", alt: "", width: 120, height: 90 }),
      h("h1", { id: "item-title", tabindex: -1 }, t(decides ? "desk.ready" : "desk.pick")),
      decides && h("button", { class: "primary", on: { click: next } }, t("desk.next"), key("N")),
      h("p", { class: "quiet" }, t("desk.help"), " ", key("?")),
    );
  }

  function others() {
    const rest = hands.all().filter((one) => one !== hand);
    return (
      rest.length > 0 &&
      h(
        "section",
        { class: "held" },
        h("h2", {}, t("desk.also")),
        h(
          "ul",
          {},
          rest.map((one) =>
            h(
              "li",
              {},
              h(
                "button",
                { class: "plain", on: { click: () => turn(one) } },
                one.item.category
                  ? term("category", one.item.category)
                  : term("task", one.item.task),
                one.lost && ` (${t("desk.lost")})`,
              ),
            ),
          ),
        ),
      )
    );
  }

  function bind() {
    keyboard.bind("list", list.keys);
    keyboard.bind(
      "item",
      current()
        ? [
            { keys: "r", says: t("content.reveal"), run: reveal },
            { keys: "e", says: t("notes.add"), run: () => middle.querySelector("#note")?.focus() },
            ...(leads ? [{ keys: "m", says: t("move.title"), run: move }] : []),
          ]
        : [],
    );
    keyboard.bind(
      "decision",
      (side?.keys ?? []).map((one) => ({ ...one, run: whenFree(one.run) })),
    );
    keyboard.bind(
      "desk",
      decides
        ? [
            { keys: "n", says: t("desk.next"), run: next },
            { keys: "c", run: next },
            { keys: "z", says: t("undo.take_back"), run: undo.takeBack },
          ]
        : [],
    );
  }

  /** What does nothing, and says so, until what was sent is answered: a key that is meant for the
   * next item must not act on the one before it, nor on one that nobody has seen yet. */
  function whenFree(run) {
    return (...given) => (isBusy ? side?.say(t("desk.wait")) : run(...given));
  }

  /** Does one thing at a time: a key that is pressed twice does not claim twice. */
  async function once(work) {
    if (isBusy) return;
    isBusy = true;
    desk.setAttribute("aria-busy", "true");
    try {
      await trying(() => hands.inTurn(work));
    } finally {
      isBusy = false;
      desk.removeAttribute("aria-busy");
    }
  }

  /** Shows one that is held, or one to look at, or none. An answer that comes when somebody has
   * gone to another page must not take its address, nor its keys. */
  function turn(to, seen = null) {
    if (!desk.isConnected) return;
    hand = to;
    looked = seen;
    Object.assign(looks, { revealed: null, isClear: false });
    const item = current();
    history.replaceState(null, "", item ? `#/desk/${item.item_id}` : "#/desk");
    draw();
  }

  function another() {
    return hands.all().find((one) => one !== hand && !one.lost);
  }

  function next() {
    if (hand && !hand.lost && !another()) tell(t("desk.decide_first"));
    else once(goOn);
  }

  async function goOn() {
    const held = another();
    if (held) turn(held);
    else await claimed(Object.fromEntries(Object.entries(wanted).filter(([, value]) => value)));
  }

  function claim(what) {
    return once(() => claimed(what));
  }

  async function claimed(what) {
    const answer = await post("/claims", what);
    if (!answer) {
      tell(t("desk.nothing"));
      if (hand?.lost || !desk.isConnected) return;
      turn(null);
      fill(document.getElementById("item-title"), t("desk.nothing"));
      return;
    }
    const got = hands.hold(answer);
    turn(got);
    if (hand !== got) return;
    tell(t("desk.claimed", { queue: answer.item.queue }));
    if (!me.preferences.masked) reveal();
  }

  async function open(row) {
    const held = hands.of(row.item_id);
    if (held) {
      turn(held);
      return;
    }
    if (decides && (!row.holder || row.holder === me.pseudonym)) {
      await claim({ item_id: row.item_id });
      return;
    }
    await look(row.item_id);
  }

  async function look(id) {
    const item = await trying(() => get(`/items/${id}`));
    if (item) turn(null, item);
  }

  async function renewed(id) {
    const item = await get(`/items/${id}`);
    const held = hands.of(id);
    if (held) held.item = item;
    else if (looked?.item_id === id) looked = item;
    const view = held ?? looks;
    // What was written meanwhile is masked in the item itself.
    view.revealed &&= item.content && (await post(`/items/${id}/reveal`));
    if (current()?.item_id === id) drawItem();
  }

  async function reveal() {
    const item = current();
    if (!item?.content) return;
    const view = shown();
    const seen = view.revealed?.content ?? item.content;
    const blurs = (item.verdict.categories ?? []).some((name) =>
      me.preferences.blur.includes(name),
    );
    if (seen.is_masked) {
      const answer = await trying(() => post(`/items/${item.item_id}/reveal`));
      if (!answer) return;
      view.revealed = answer;
      view.isClear = !blurs;
    } else if (blurs && !view.isClear) {
      view.isClear = true;
    } else {
      view.revealed = item.content.is_masked ? null : view.revealed;
      view.isClear = false;
      if (!item.content.is_masked && !blurs) return;
    }
    if (current() !== item) return;
    drawItem();
    const after = view.revealed?.content ?? item.content;
    tell(t(after.is_masked ? "content.is_hidden" : "content.is_shown"));
  }

  function send(goesOn) {
    const sent = hand;
    const { draft, item } = sent;
    return once(async () => {
      sent.isSending = true;
      const ruled = await under(sent, "decide", said(draft));
      sent.isSending = false;
      if (!ruled) return;
      hands.drop(sent);
      undo.remember(
        { rulingId: ruled.ruling_id, until: ruled.take_back_until, action: draft.action },
        (answer) => {
          hands.hold(answer, draft);
          location.hash = `#/desk/${item.item_id}`;
        },
      );
      tell(t("desk.decided", { action: term("done", draft.action) }));
      try {
        if (goesOn) await goOn();
      } finally {
        if (hand === sent) turn(null);
      }
    });
  }

  /** Does something under a lease: gives the answer, or null where the item is not ours any more. */
  async function under(held, act, body) {
    try {
      const sent = { lease: held.lease.token, ...body };
      return (await post(`/items/${held.item.item_id}/${act}`, sent)) ?? {};
    } catch (error) {
      held.isSending = false;
      if (!(error instanceof Refused) || error.status !== 409) throw error;
      if (await hands.renew(held)) throw error;
      return null;
    }
  }

  async function away(act, values, body, note) {
    const left = hand;
    if (left.lost) return;
    const answer = await choose({
      title: t(`${act}.title`),
      about: t(`${act}.about`),
      answers: values.map((value) => ({ value, says: t(`${act}.${value}`) })),
      note,
    });
    if (answer) await leave(left, act, body(answer));
  }

  async function handOver() {
    const left = hand;
    if (left.lost) return;
    const list = await trying(() => get("/colleagues", { item_id: left.item.item_id }));
    if (!list || hand !== left) return;
    const answers = list.colleagues.map(({ user_id: value, pseudonym: says }) => ({ value, says }));
    const answer = await choose({
      title: t("handover.title"),
      about: t(answers.length ? "handover.about" : "handover.nobody"),
      answers,
    });
    if (answer) await leave(left, "handover", { to: answer.value });
  }

  /** A lead puts an item, held or looked at, into another queue that there is. */
  async function move() {
    const item = current();
    const all = await trying(() => get("/queues"));
    if (!item || !all) return;
    const answers = all.queues
      .map(({ queue }) => queue)
      .filter((queue) => queue !== item.queue)
      .map((queue) => ({ value: queue, says: data(queue) }));
    const answer = await choose({
      title: t("move.title"),
      about: t(answers.length ? "move.about" : "move.nowhere"),
      answers,
    });
    if (!answer) return;
    await once(async () => {
      await post(`/items/${item.item_id}/move`, { queue: answer.value });
      tell(t("move.done"));
      const held = hands.of(item.item_id);
      if (held && !(await hands.renew(held))) hands.drop(held);
      if (held && !hands.of(item.item_id)) stay();
      else await renewed(item.item_id);
    });
  }

  function leave(left, act, body) {
    if (left.lost) return undefined;
    return once(async () => {
      if (!(await under(left, act, body))) return;
      hands.drop(left);
      tell(t(`${act}.done`));
      stay();
    });
  }

  /** Shows another item that is held, or none. */
  function stay() {
    turn(hands.all().find(({ lost }) => !lost) ?? null);
  }

  function toList() {
    if (hand) {
      desk.dataset.has = "none";
      return;
    }
    turn(null);
  }

  /** A lease of ours was made: where this page has not asked for it, a colleague has handed over an
   * item. */
  async function given(lease) {
    const got = await trying(() => hands.given(lease));
    if (!got?.length) return;
    tell(t("desk.given"));
    if (!desk.isConnected) return;
    if (!current()) turn(got[0]);
    else fill(right, side?.element, others());
  }

  hand &&= hands.of(hand.item.item_id);
  const asked = itemId && hands.of(itemId);
  if (asked) turn(asked);
  else if (itemId) await look(itemId);
  else turn(hand ?? hands.all().find(({ lost }) => !lost) ?? null);
  if (!current()) turn(null);
  list.load();

  return {
    close: () => ["list", "item", "decision", "desk"].forEach((part) => keyboard.bind(part, [])),
    queues: list.queues,
    load: () => list.load(),
    item(event) {
      list.item(event);
      const held = hands.of(event.item_id);
      if (!held || held.isSending || held.lost) return;
      if (event.state === "closed") hands.lose(held, "closed");
      else if (event.state === "open" && event.holder && event.holder !== me.pseudonym)
        hands.lose(held, "conflict", event.holder);
    },
    lease: given,
    lost(changed) {
      if (changed === hand) {
        side?.refresh();
        alarmLost(changed);
      }
    },
    tick: () => side?.refresh(),
  };

  function alarmLost({ lost }) {
    tell(lost.holder ? t("lease.held", { holder: lost.holder }) : t("lease.ran_out"));
  }
}
