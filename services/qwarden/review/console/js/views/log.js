/** The log of who saw, claimed and decided what, and the proof that nobody changed it. */

import { get } from "../api.js";
import { data, fill, h } from "../dom.js";
import { field, form, line, select, table } from "../forms.js";
import { trying } from "../news.js";
import { isKnown, number, t, term } from "../strings.js";
import { when } from "../time.js";

const ACTS = [
  "signed_in",
  "signed_out",
  "saw",
  "claimed",
  "released",
  "expired",
  "handed_over",
  "skipped",
  "revealed",
  "noted",
  "decided",
  "took_back",
  "breached",
  "closed",
  "moved",
  "sent_to_urgent",
  "decided_in_bulk",
  "undid_bulk",
  "appealed",
  "stated",
  "checked",
  "golden_added",
  "golden_retired",
  "erased",
  "exported",
  "user_added",
  "user_changed",
  "user_removed",
  "link_made",
  "token_made",
  "token_revoked",
  "override_ended",
];

/** Shows it, the newest first. */
export async function show(place) {
  let rows = [];
  let next = null;
  const [actor, item] = [line({ translate: "no" }), line({ translate: "no", maxlength: 32 })];
  const act = select([
    ["", t("log.every_act")],
    ...ACTS.map((name) => [name, term("act_done", name)]),
  ]);
  const found = h("div", {});
  const proof = h("p", { class: "proof", role: "status" });
  const more = h(
    "button",
    { class: "plain", hidden: true, on: { click: () => ask(true) } },
    t("waiting.more"),
  );
  fill(
    place,
    h(
      "div",
      { class: "page" },
      h(
        "div",
        { class: "section-head" },
        h("h1", {}, t("log.title")),
        h(
          "div",
          { class: "buttons" },
          h("button", { on: { click: verify } }, t("log.verify")),
          h(
            "a",
            { class: "button", href: "/v1/audit/export", download: "audit.ndjson" },
            t("log.export"),
          ),
        ),
      ),
      proof,
      form(
        { class: "filters" },
        () => ask(),
        field(t("log.actor"), actor),
        field(t("log.item"), item),
        field(t("log.act"), act),
        h("button", {}, t("act.filter")),
      ),
      h("section", { class: "card" }, found, more),
    ),
  );

  async function ask(goesOn = false) {
    const page = await trying(() =>
      get("/audit", {
        actor: actor.value.trim(),
        item_id: item.value.trim(),
        act: act.value,
        limit: 100,
        after: goesOn ? next : "",
      }),
    );
    if (!page) return;
    rows = goesOn ? rows.concat(page.rows) : page.rows;
    next = page.next;
    more.hidden = next === null;
    fill(
      found,
      table(
        t("log.title"),
        [
          { figure: t("log.number") },
          t("log.at"),
          t("log.actor"),
          t("log.act"),
          t("log.item"),
          t("log.about"),
        ],
        rows.map((row) => [
          { figure: number(row.number) },
          when(row.at),
          data(row.actor),
          term("act_done", row.act),
          row.item_id
            ? h("a", { href: `#/desk/${row.item_id}`, translate: "no" }, row.item_id.slice(-8))
            : "–",
          data(aboutOf(row.about), "span", { class: "about" }),
        ]),
        t("log.none"),
      ),
    );
  }

  async function verify() {
    proof.textContent = t("log.verifying");
    const said = await trying(() => get("/audit/verify"));
    if (!said) {
      proof.textContent = "";
      return;
    }
    const isWhole = said.broken_at === null;
    proof.className = `proof ${isWhole ? "is-whole" : "is-broken"}`;
    proof.textContent = isWhole
      ? t("log.whole", { count: said.rows, unsealed: number(said.unsealed) })
      : t("log.broken", { at: number(said.broken_at) });
  }

  await ask();
  return {};
}

function aboutOf(about) {
  return Object.entries(about)
    .map(([name, value]) => `${isKnown(`about.${name}`) ? t(`about.${name}`) : name}: ${value}`)
    .join(", ");
}
