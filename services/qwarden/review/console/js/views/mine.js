/** What this person decided lately; what can still be taken back is on top. */

import { get, post } from "../api.js";
import { data, fill, h } from "../dom.js";
import { table } from "../forms.js";
import * as hands from "../hands.js";
import { trying } from "../news.js";
import { number, t, term } from "../strings.js";
import { ago, clock, now } from "../time.js";
import { reasonOf } from "./item.js";

/** Shows the last hundred. */
export async function show(place) {
  const found = h("section", { class: "card" });
  fill(place, h("div", { class: "page" }, h("h1", {}, t("mine.title")), found));
  const answer = await trying(() => get("/rulings", { limit: 100 }));
  if (!answer) return {};
  fill(
    found,
    table(
      t("mine.title"),
      [
        t("mine.at"),
        t("decision.action"),
        t("decision.reason"),
        t("decision.clause"),
        { figure: t("mine.count") },
        t("undo.take_back"),
      ],
      answer.map((row) => [
        ago(row.decided_at),
        h("b", { class: `act ${row.action}` }, term("action", row.action)),
        reasonOf(row.reason),
        row.clause ? data(row.clause) : "–",
        { figure: number(row.count) },
        row.take_back_until > now()
          ? h(
              "button",
              { class: "plain", on: { click: () => back(row) } },
              t("undo.take_back"),
              clock(row.decided_at, row.take_back_until),
            )
          : "–",
      ]),
      t("mine.none"),
    ),
  );
  return {};
}

async function back(row) {
  const answer = await trying(() =>
    hands.inTurn(async () => hands.hold(await post(`/rulings/${row.ruling_id}/take-back`))),
  );
  if (!answer) return;
  location.hash = `#/desk/${answer.item.item_id}`;
}
