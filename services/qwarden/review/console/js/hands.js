/**
 * What this person holds: items, the leases on them, and the decisions begun. Leases are renewed
 * while the page is seen and the person does something, so that an item which somebody has walked
 * away from goes to the next one.
 */

import { Refused, get, post } from "./api.js";
import { begun } from "./draft.js";
import { now } from "./time.js";

/** How long one may read without touching anything. */
const STILL_S = 300;

let held = [];
let before = Promise.resolve();
let changed = () => {};
let touchedAt = Date.now();

/** Begins: renews every third of a lease, and takes up again what a reloaded page held. `onChange`
 * is called with a hand that is lost. */
export async function begin(leaseS, onChange) {
  changed = onChange;
  for (const event of ["keydown", "pointerdown", "pointermove", "wheel", "touchstart"]) {
    document.addEventListener(event, () => (touchedAt = Date.now()), { passive: true });
  }
  document.addEventListener("visibilitychange", renewAll);
  setInterval(renewAll, (leaseS * 1000) / 3);
  setInterval(expire, 1000);
  await takeUp();
}

/** Does what changes who holds what, after all that was begun before it: what this page has asked
 * for and not been told yet is not taken for something that it does not know of. */
export function inTurn(work) {
  const done = before.then(work);
  before = done.catch(() => {});
  return done;
}

/** Takes up a lease of ours that this page has not asked for: gives the new hands. */
export function given({ item_id: id, fence }) {
  return inTurn(() => (of(id)?.lease.fence >= fence ? [] : takeUp()));
}

/** Takes up what this person holds and this page does not know of: gives the new hands. */
async function takeUp() {
  const { leases } = await get("/leases");
  const unknown = leases.filter(({ item_id: id, fence }) => of(id)?.lease.fence !== fence);
  const items = await Promise.all(unknown.map(({ item_id: id }) => get(`/items/${id}`)));
  return unknown.map(({ token, fence, until }, at) =>
    hold({ item: items[at], lease: { token, fence, until } }),
  );
}

/** All of them, the oldest first. A hand is `{item, lease, draft, revealed, isClear, lost}`:
 * `revealed` is what was masked, `lost` is null or `{why, holder}`. */
export function all() {
  return held;
}

export function of(itemId) {
  return held.find(({ item }) => item.item_id === itemId) ?? null;
}

/** Holds an item that was just claimed. What was typed on it before is still there. */
export function hold({ item, lease }, draft = null) {
  const known = of(item.item_id);
  const hand = {
    item,
    lease,
    draft: draft ?? known?.draft ?? begun(item),
    revealed: known?.revealed ?? null,
    isClear: known?.isClear ?? false,
    lost: null,
  };
  held = held.filter((one) => one !== known).concat(hand);
  return hand;
}

export function drop(hand) {
  held = held.filter((one) => one !== hand);
}

/** Marks an item as somebody else's now, or nobody's; what was typed stays. */
export function lose(hand, why, holder = null) {
  if (hand.lost && !holder) return;
  hand.lost = { why, holder };
  changed(hand);
}

/** Gives a sign of life for all that is held, and so learns of what is not any more. */
export async function renewAll() {
  if (document.hidden || Date.now() - touchedAt > STILL_S * 1000) return;
  await Promise.all(held.filter(({ lost }) => !lost).map(renew));
}

/** Renews one lease; gives whether the item is still this person's. */
export async function renew(hand) {
  try {
    const { until } = await post(`/items/${hand.item.item_id}/renew`, { lease: hand.lease.token });
    hand.lease = { ...hand.lease, until };
    return true;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (![404, 409].includes(error.status)) return true;
    const isClosed = error.code === "conflict" && !error.holder;
    if (held.includes(hand)) lose(hand, isClosed ? "closed" : error.code, error.holder);
    return false;
  }
}

function expire() {
  for (const hand of held) {
    if (!hand.lost && now() > hand.lease.until) lose(hand, "ran_out");
  }
}
