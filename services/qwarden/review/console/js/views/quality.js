/** How well people and the guard agree, and how often automatic verdicts are wrong. */

import { get } from "../api.js";
import { data, fill, h } from "../dom.js";
import { field, select, table } from "../forms.js";
import { trying } from "../news.js";
import { bar, interval } from "../plots.js";
import { languageName, number, percent, t, term } from "../strings.js";

/** Shows the last days' figures. */
export async function show(place) {
  const figures = h("div", { class: "page-parts" });
  const days = select(
    [
      [7, t("quality.days", { count: 7 })],
      [30, t("quality.days", { count: 30 })],
      [90, t("quality.days", { count: 90 })],
    ],
    { value: "30", on: { change: () => ask() } },
  );
  fill(
    place,
    h(
      "div",
      { class: "page" },
      h(
        "div",
        { class: "section-head" },
        h("h1", {}, t("quality.title")),
        field(t("quality.span"), days),
      ),
      figures,
    ),
  );
  days.value = "30";

  async function ask() {
    const found = await trying(() => get("/quality", { days: days.value }));
    if (!found) return;
    const stranded = Object.values(found.stranded ?? {}).reduce((sum, count) => sum + count, 0);
    fill(
      figures,
      stranded > 0 &&
        h("p", { class: "is-bad", role: "status" }, t("quality.stranded", { count: stranded })),
      part(
        "reviewers",
        table(
          t("quality.reviewers"),
          [
            t("load.reviewer"),
            { figure: t("load.decided") },
            t("quality.goldens"),
            t("quality.kappa"),
            t("quality.agreed"),
          ],
          found.reviewers.map((row) => [
            data(row.pseudonym),
            { figure: number(row.decisions) },
            row.goldens
              ? withBar(
                  row.golden_right / row.goldens,
                  t("quality.of", { right: row.golden_right, all: row.goldens }),
                )
              : "–",
            kappa(row.kappa),
            row.agreed === null || row.agreed === undefined
              ? "–"
              : withBar(row.agreed, percent(row.agreed)),
          ]),
          t("quality.none"),
        ),
      ),
      part(
        "categories",
        table(
          t("quality.categories"),
          [t("quality.category"), { figure: t("quality.pairs") }, t("quality.kappa")],
          found.categories.map((row) => [
            row.category ? term("category", row.category) : t("queues.no_category"),
            { figure: number(row.pairs) },
            kappa(row.kappa),
          ]),
          t("quality.none"),
        ),
      ),
      part(
        "errors",
        table(
          t("quality.errors"),
          [
            t("quality.action"),
            t("quality.of_what"),
            { figure: t("quality.reviewed") },
            { figure: t("quality.wrong") },
            t("quality.share"),
          ],
          found.errors.map((row) => [
            term("action", row.action),
            ofWhat(row),
            { figure: number(row.reviewed) },
            { figure: number(row.wrong) },
            row.share === null
              ? "–"
              : h(
                  "span",
                  { class: "with-plot" },
                  interval(
                    row.low,
                    row.share,
                    row.high,
                    t("guard.interval", { low: percent(row.low, 1), high: percent(row.high, 1) }),
                  ),
                  h("span", {}, percent(row.share, 1)),
                ),
          ]),
          t("quality.none"),
        ),
      ),
    );
  }
  await ask();
  return {};
}

function part(name, content) {
  return h(
    "section",
    { class: "card" },
    h("h2", {}, t(`quality.${name}`)),
    h("p", { class: "quiet" }, t(`quality.${name}_about`)),
    content,
  );
}

function ofWhat({ language, category }) {
  if (category) return term("category", category);
  return language ? languageName(language) : t("quality.all");
}

function withBar(share, says) {
  return h("span", { class: "with-plot" }, bar(share, "accent"), h("span", {}, says));
}

function kappa(value) {
  if (value === null || value === undefined) return "–";
  return withBar(value, number(value, 2));
}
