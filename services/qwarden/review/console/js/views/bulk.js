/** Many items decided at once: which, how many, what of them; then the decision, and its undo. */

import { post } from "../api.js";
import { data, fill, h } from "../dom.js";
import { field, form, line, select, table } from "../forms.js";
import { tell, trying } from "../news.js";
import { languageName, number, t, term } from "../strings.js";
import { clock, now } from "../time.js";
import { ACTIONS } from "../draft.js";

const SET = ["tenant", "queue", "language", "category", "rule", "subject", "content_hash"];

/** Shows the form of the set; the rest follows from what it finds. */
export async function show(place, me) {
  const lines = Object.fromEntries(
    SET.map((name) => [
      name,
      name === "category"
        ? select([
            ["", t("waiting.every_category")],
            ...me.categories.map((one) => [one, term("category", one)]),
          ])
        : line({ translate: "no" }),
    ]),
  );
  const result = h("div", { class: "page-parts", role: "status" });
  fill(
    place,
    h(
      "div",
      { class: "page" },
      h("h1", {}, t("bulk.title")),
      h("p", { class: "quiet" }, t("bulk.about", { count: me.limits.bulk_items })),
      form(
        { class: "filters" },
        preview,
        SET.map((name) => field(t(`bulk.${name}`), lines[name])),
        h("button", { class: "primary" }, t("bulk.preview")),
      ),
      result,
    ),
  );

  async function preview() {
    const of = Object.fromEntries(
      SET.map((name) => [name, lines[name].value.trim()]).filter(([, value]) => value),
    );
    const found = await trying(() => post("/bulk/preview", of));
    if (!found) return;
    fill(
      result,
      h(
        "section",
        { class: "card" },
        h("h2", {}, t("bulk.found", { count: found.count })),
        found.decisions > found.count &&
          h("p", { class: "quiet" }, t("bulk.decisions", { count: found.decisions })),
        found.held > 0 && h("p", { class: "quiet" }, t("bulk.held", { count: found.held })),
        table(
          t("bulk.sample"),
          [
            t("bulk.queue"),
            t("bulk.category"),
            t("bulk.language"),
            t("bulk.tenant"),
            t("bulk.due"),
          ],
          found.sample.map((row) => [
            data(row.queue),
            row.category ? term("category", row.category) : "–",
            languageName(row.language),
            data(row.tenant),
            clock(row.arrived_at, row.breach_at),
          ]),
          t("bulk.nothing"),
        ),
      ),
      found.count > 0 && decision(of, found),
    );
  }

  function decision(of, found) {
    const action = select(
      ACTIONS.map((one) => [one, term("do", one)]),
      { on: { change: () => lay() } },
    );
    const reason = select([]);
    const ground = select(["terms", "law"].map((one) => [one, term("ground", one)]));
    const clause = line({ maxlength: 200, translate: "no" });
    const restricts = h(
      "div",
      { class: "filters" },
      field(t("decision.ground"), ground),
      field(t("decision.clause"), clause),
    );
    function lay() {
      fill(
        reason,
        me.reasons[action.value].map((code) => h("option", { value: code }, term("reason", code))),
      );
      restricts.hidden = action.value === "allow";
      clause.required = !restricts.hidden;
    }
    lay();
    return form(
      { class: "card" },
      async () => {
        const hasClause = action.value !== "allow";
        const done = await trying(() =>
          post("/bulk", {
            preview: found.preview,
            of,
            action: action.value,
            reason: reason.value,
            categories: [],
            ground: hasClause ? ground.value : null,
            clause: hasClause ? clause.value.trim() : null,
          }),
        );
        if (done) decided(done);
      },
      h("h2", {}, t("decision.title")),
      h(
        "div",
        { class: "filters" },
        field(t("decision.action"), action),
        field(t("decision.reason"), reason),
      ),
      restricts,
      h("button", { class: "primary" }, t("bulk.decide", { count: found.count })),
    );
  }

  function decided(done) {
    tell(t("bulk.done", { count: done.decided }));
    fill(
      result,
      h(
        "section",
        { class: "card" },
        h("h2", {}, t("bulk.done", { count: done.decided })),
        done.skipped > 0 && h("p", { class: "quiet" }, t("bulk.skipped", { count: done.skipped })),
        h(
          "div",
          { class: "buttons" },
          h(
            "button",
            {
              on: {
                click: async () => {
                  const undone = await trying(() => post(`/bulk/${done.bulk_id}/undo`));
                  if (undone)
                    fill(
                      result,
                      h(
                        "section",
                        { class: "card" },
                        h("h2", {}, t("bulk.undone", { count: undone.reopened ?? done.decided })),
                      ),
                    );
                },
              },
            },
            t("bulk.undo"),
          ),
          clock(now(), done.take_back_until),
        ),
      ),
    );
  }
  return {};
}
