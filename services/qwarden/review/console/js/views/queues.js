/** All queues at a glance: what waits, how long, and whether it is answered in time. */

import { get } from "../api.js";
import { data, fill, h } from "../dom.js";
import { table } from "../forms.js";
import { trying } from "../news.js";
import { columns, parts } from "../plots.js";
import { languageName, number, percent, t, term } from "../strings.js";
import { clock, span } from "../time.js";
import { wanted } from "./waiting.js";

const DAYS = 7;
const NEUTRAL = ["tone-1", "tone-2", "tone-3", "tone-4", "tone-5"];

/** Shows them. Leads and auditors see load and history too. */
export async function show(place, me) {
  const seesAll = me.roles.some((role) => role === "lead" || role === "auditor");
  const sums = h("div", { class: "sums" });
  const cards = h("div", { class: "queue-cards" });
  const load = h("section", { class: "card" });
  fill(
    place,
    h("div", { class: "page" }, h("h1", {}, t("queues.title")), sums, cards, seesAll && load),
  );
  let history = new Map();

  function queues({ queues: all }) {
    const sum = (name) => all.reduce((before, queue) => before + queue[name], 0);
    fill(
      sums,
      [
        ["open", "queues.open"],
        ["held", "queues.held"],
        ["breached", "queues.breached"],
      ].map(([name, says]) =>
        h(
          "div",
          { class: ["sum", name === "breached" && sum(name) > 0 && "is-bad"] },
          h("b", {}, number(sum(name))),
          h("span", {}, t(says)),
        ),
      ),
    );
    fill(cards, all.length ? all.map(card) : h("p", { class: "quiet" }, t("queues.none")));
  }

  function card(queue) {
    const past = history.get(queue.queue);
    return h(
      "section",
      { class: "card" },
      h(
        "div",
        { class: "section-head" },
        h("h2", {}, data(queue.queue)),
        h(
          "a",
          {
            class: "plain",
            href: "#/desk",
            on: {
              click: () =>
                Object.assign(wanted, { queue: queue.queue, language: "", category: "" }),
            },
          },
          t("queues.work"),
          h("span", { class: "unseen" }, " ", data(queue.queue)),
        ),
      ),
      h(
        "div",
        { class: "figures" },
        h("span", {}, h("b", {}, number(queue.open)), ` ${t("queues.open")}`),
        h("span", {}, h("b", {}, number(queue.held)), ` ${t("queues.held")}`),
        queue.breached > 0 &&
          h(
            "span",
            { class: "is-bad" },
            h("b", {}, number(queue.breached)),
            ` ${t("queues.breached")}`,
          ),
        queue.next_breach_at !== null &&
          queue.open > 0 &&
          h(
            "span",
            {},
            `${t("queues.next_breach")} `,
            clock(queue.oldest_arrived_at ?? queue.next_breach_at - 3600, queue.next_breach_at),
          ),
      ),
      past &&
        h(
          "div",
          {},
          columns(
            past.arrived,
            past.decided,
            t("queues.plot", {
              came: past.arrived.reduce((a, b) => a + b, 0),
              done: past.decided.reduce((a, b) => a + b, 0),
            }),
          ),
          h(
            "ul",
            { class: "legend" },
            h("li", {}, h("i", { class: "dot came" }), t("queues.arrived")),
            h("li", {}, h("i", { class: "dot done" }), t("queues.decided")),
          ),
          h(
            "p",
            { class: "quiet" },
            past.sla_kept !== null && t("queues.kept", { share: percent(past.sla_kept) }),
            " ",
            past.median_wait_s !== null && t("queues.wait", { span: span(past.median_wait_s) }),
          ),
        ),
      spread(t("queues.languages"), queue.languages, languageName),
      spread(t("queues.categories"), queue.categories, (name) =>
        name ? term("category", name) : t("queues.no_category"),
      ),
    );
  }

  async function ask() {
    const now = await trying(() => get("/queues"));
    if (now) queues(now);
  }

  await ask();
  if (seesAll) {
    const statistics = await trying(() => get("/statistics", { days: DAYS }));
    if (statistics) {
      history = new Map(statistics.queues.map((queue) => [queue.queue, queue]));
      fill(load, h("h2", {}, t("load.title", { count: DAYS })), reviewers(statistics.reviewers));
      await ask();
    }
  }
  return { queues };
}

function reviewers(rows) {
  return table(
    t("load.title", { count: DAYS }),
    [
      t("load.reviewer"),
      { figure: t("load.decided") },
      { figure: t("load.per_hour") },
      { figure: t("load.held") },
      { figure: t("load.skipped") },
    ],
    rows.map((row) => [
      data(row.pseudonym),
      { figure: number(row.decided) },
      { figure: number(row.per_hour ?? 0, 1) },
      { figure: row.median_held_s === null ? "–" : span(row.median_held_s) },
      { figure: number(row.skipped) },
    ]),
    t("load.none"),
  );
}

function spread(title, counts, name) {
  const sorted = Object.entries(counts ?? {}).sort(([, one], [, other]) => other - one);
  if (!sorted.length) return null;
  const shown = sorted
    .slice(0, 4)
    .map(([word, count], at) => ({ says: name(word), count, tone: NEUTRAL[at] }));
  const rest = sorted.slice(4).reduce((sum, [, count]) => sum + count, 0);
  if (rest) shown.push({ says: t("queues.others"), count: rest, tone: NEUTRAL[4] });
  return h("div", { class: "spread" }, h("h3", {}, title), parts(shown));
}
