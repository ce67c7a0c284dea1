/** One event, verdict or subject: what was decided of it, why, and the appeals against it. */

import { get, post, remove } from "../api.js";
import { data, fill, h } from "../dom.js";
import { field, form, line, table } from "../forms.js";
import { tell, trying } from "../news.js";
import { languageName, t, term } from "../strings.js";
import { when } from "../time.js";

/** Shows the search; the rest follows from what it finds. */
export async function show(place, me) {
  const names = ["tenant", "event_id", "verdict_id", "subject"];
  const lines = Object.fromEntries(
    names.map((name) => [
      name,
      line({
        translate: "no",
        value:
          name === "tenant" && me.tenants.length === 1 && me.tenants[0] !== "*"
            ? me.tenants[0]
            : "",
      }),
    ]),
  );
  const found = h("div", { class: "page-parts" });
  fill(
    place,
    h(
      "div",
      { class: "page" },
      h("h1", {}, t("ledger.title")),
      form(
        { class: "filters" },
        ask,
        names.map((name) => field(t(`ledger.${name}`), lines[name])),
        h("button", { class: "primary" }, t("ledger.find")),
      ),
      found,
    ),
  );

  async function ask() {
    const query = Object.fromEntries(names.map((name) => [name, lines[name].value.trim()]));
    const [answer, made] = await Promise.all([
      trying(() => get("/ledger", query)),
      query.event_id
        ? trying(() => get("/appeals", { tenant: query.tenant, event_id: query.event_id }))
        : null,
    ]);
    if (!answer) return;
    const { rows } = answer;
    fill(
      found,
      rows.length ? rows.map(entry) : h("p", { class: "quiet" }, t("ledger.none")),
      made && rows.length > 0 && appeals(made.appeals, me),
    );
  }

  function entry(row) {
    const texts = h("ol", { class: "turns" });
    const content = (shown) =>
      fill(
        texts,
        (shown?.messages ?? []).map((one) =>
          h(
            "li",
            { class: "turn" },
            h("span", { class: "role" }, term("role", one.role)),
            data(one.content, "p", { class: "said" }),
          ),
        ),
      );
    content(row.content);
    const id = row.verdict_id;
    const extra = h("div", {});
    return h(
      "section",
      { class: "card" },
      h(
        "h2",
        {},
        h(
          "b",
          { class: `act ${row.decision ?? row.action}` },
          term("action", row.decision ?? row.action),
        ),
        row.decision && ` ${t("subject.by_person")}`,
        ` · ${term("task", row.task)} · ${languageName(row.language)}`,
      ),
      h(
        "p",
        { class: "quiet" },
        when(row.arrived_at),
        " · ",
        data(row.event_id),
        " · ",
        t("why.rule"),
        " ",
        data(row.rule),
      ),
      texts,
      h(
        "div",
        { class: "buttons" },
        row.content &&
          h(
            "button",
            {
              class: "plain",
              on: {
                click: async () => {
                  const answer = await trying(() => post(`/ledger/${id}/reveal`));
                  if (answer) content(answer.content);
                },
              },
            },
            t("content.reveal"),
          ),
        h(
          "button",
          { class: "plain", on: { click: () => statement(row, extra) } },
          t("ledger.statement"),
        ),
        me.decides &&
          h(
            "button",
            { class: "plain", on: { click: () => appeal(row, extra) } },
            t("ledger.appeal"),
          ),
        me.roles.includes("admin") &&
          h(
            "button",
            { class: "plain danger", on: { click: () => erase(row, extra) } },
            t("ledger.erase"),
          ),
      ),
      extra,
    );
  }

  async function statement(row, extra) {
    const answer = await trying(() =>
      get("/statements", {
        tenant: row.tenant,
        event_id: row.event_id,
        task: row.task,
        language: document.documentElement.lang,
      }),
    );
    if (answer) fill(extra, data(answer.text, "pre", { class: "said statement" }));
  }

  function appeal(row, extra) {
    const words = h("textarea", { rows: 4, maxlength: 8000, required: true });
    fill(
      extra,
      form(
        {},
        async () => {
          const made = await trying(() =>
            post("/appeals", {
              tenant: row.tenant,
              event_id: row.event_id,
              task: row.task,
              statement: words.value.trim(),
            }),
          );
          if (made) {
            tell(t("ledger.appealed"));
            fill(extra, h("p", {}, t("ledger.appealed")));
          }
        },
        field(t("ledger.says"), words),
        h("button", {}, t("ledger.send_appeal")),
      ),
    );
    words.focus();
  }

  function erase(row, extra) {
    fill(
      extra,
      form(
        {},
        async () => {
          await trying(() => remove("/contents", { tenant: row.tenant, event_id: row.event_id }));
          tell(t("ledger.erased"));
          ask();
        },
        h("p", {}, t("ledger.erase_about")),
        h("button", { class: "danger" }, t("ledger.erase")),
      ),
    );
  }
  return {};
}

function appeals(rows, me) {
  return h(
    "section",
    { class: "card" },
    h("h2", {}, t("ledger.appeals")),
    table(
      t("ledger.appeals"),
      [t("ledger.made"), t("ledger.says"), t("ledger.outcome")],
      rows.map((row) => [
        when(row.made_at),
        says(row, me),
        row.outcome ? term("outcome", row.outcome) : t("ledger.open"),
      ]),
      t("ledger.no_appeals"),
    ),
  );
}

/** What a user says: masked, and shown to who may see its item and asks for it, which is logged. */
function says(row, me) {
  const words = h("div", {}, data(row.statement, "p", { class: "said" }));
  const reveal = async () => {
    const answer = await trying(() => post(`/items/${row.item_id}/reveal`));
    if (answer) fill(words, data(answer.statement, "p", { class: "said" }));
  };
  if (row.statement && row.may_see && me.reads)
    words.append(h("button", { class: "plain", on: { click: reveal } }, t("content.reveal")));
  return words;
}
