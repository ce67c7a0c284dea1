/** The last decision, for as long as it can be taken back. */

import { post } from "../api.js";
import { fill, h, key } from "../dom.js";
import * as hands from "../hands.js";
import { tell, trying } from "../news.js";
import { t, term } from "../strings.js";
import { clock, now } from "../time.js";

let decided = [];

/** Remembers a decision: `{rulingId, until, action}`. `back` is called with the answer to taking it
 * back. */
export function remember(decision, back) {
  decided.push({ ...decision, from: now(), back });
  show();
}

/** Takes the last one back, if there still is one: its item is held again as it was. */
export function takeBack() {
  return trying(() => hands.inTurn(takeLastBack));
}

async function takeLastBack() {
  const last = standing().at(-1);
  if (!last) {
    tell(t("undo.none"));
    return;
  }
  const answer = await post(`/rulings/${last.rulingId}/take-back`);
  decided = decided.filter((one) => one !== last);
  show();
  tell(t("undo.taken_back"));
  last.back(answer);
}

/** Hides what is over; called each second. */
export function pass() {
  if (decided.length !== standing().length) show();
}

function standing() {
  return decided.filter(({ until }) => until > now());
}

function show() {
  decided = standing();
  const place = document.getElementById("undo");
  const last = decided.at(-1);
  place.hidden = !last;
  if (!last) return;
  place.setAttribute("aria-label", t("undo.title"));
  fill(
    place,
    h("b", { class: `act ${last.action}` }, term("done", last.action)),
    h("button", { class: "plain", on: { click: takeBack } }, t("undo.take_back"), key("Z")),
    clock(last.from, last.until),
  );
}
