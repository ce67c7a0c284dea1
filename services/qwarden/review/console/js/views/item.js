/** One item: what was said, what the guard makes of it, and what is known around it. */

import { data, drawn, h, key } from "../dom.js";
import { bar, interval } from "../plots.js";
import { isKnown, languageName, moment, number, percent, t, term } from "../strings.js";
import { ago, clock } from "../time.js";

/**
 * The whole of it. `shown`: `{item, revealed, isClear, isMine, masks}`, where `revealed` takes
 * the place of what is masked in the item; `acts`: what its buttons do.
 */
export function stage(shown, acts) {
  const { item } = shown;
  const words = isBlurred(shown) ? null : shown.revealed;
  return h(
    "article",
    { class: "item" },
    head(item),
    item.appeal && appeal(item.appeal, words?.statement ?? item.appeal.statement),
    conversation(shown, acts),
    h(
      "div",
      { class: "cards" },
      guard(item),
      why(item),
      subject(item),
      past(item),
      notes(words?.notes ?? item.notes, shown.isMine ? acts : null),
    ),
  );
}

function head(item) {
  return h(
    "header",
    { class: "item-head" },
    h(
      "h1",
      { tabindex: -1, id: "item-title" },
      data(item.queue),
      h("span", { class: "quiet" }, ` · ${term("task", item.task)}`),
    ),
    h(
      "div",
      { class: "chips" },
      item.kind !== "review" && h("span", { class: "chip strong" }, term("kind", item.kind)),
      h("span", { class: "chip" }, languageName(item.language)),
      data(item.tenant, "span", { class: "chip", title: t("item.tenant") }),
      item.count > 1 && h("span", { class: "chip strong" }, t("item.equal", { count: item.count })),
      item.returned > 0 &&
        h("span", { class: "chip" }, t("item.returned", { count: item.returned })),
    ),
    h(
      "div",
      { class: "due", title: t("item.due", { at: moment(item.breach_at) }) },
      h("span", { class: "quiet" }, t(item.breached ? "item.breached" : "item.answer_in")),
      clock(item.arrived_at, item.breach_at),
    ),
  );
}

function appeal({ made_at: at, original }, statement) {
  return h(
    "section",
    { class: "card appeal" },
    h("h2", {}, t("appeal.title"), " ", ago(at)),
    data(statement, "blockquote"),
    original &&
      h(
        "p",
        { class: "quiet" },
        t("appeal.original"),
        " ",
        h("b", {}, term("action", original.action)),
        original.reason && [" · ", reasonOf(original.reason)],
        original.clause && [" · ", data(original.clause)],
      ),
  );
}

/** A reason's code in our words, or a person's own words. */
export function reasonOf(reason) {
  return isKnown(`reason.${reason}`) ? t(`reason.${reason}`) : data(reason);
}

function isBlurred({ item, revealed, isClear, masks }) {
  const seen = revealed?.content ?? item.content;
  return masks.blurs && !seen?.is_masked && !isClear;
}

function conversation(shown, acts) {
  const { item, revealed } = shown;
  const seen = revealed?.content ?? item.content;
  if (!seen) return h("p", { class: "conversation" }, t("content.erased"));
  const last = seen.messages.length - 1;
  const turns = seen.messages.map((message, at) => turn(message, at === last, item.task));
  const state = seen.is_masked ? "masked" : isBlurred(shown) ? "blurred" : "clear";
  return h(
    "section",
    { class: "conversation", "data-state": state, "aria-labelledby": "said-title" },
    h(
      "div",
      { class: "section-head" },
      h("h2", { id: "said-title" }, t("content.title")),
      h(
        "button",
        { class: "plain", on: { click: acts.reveal } },
        t(state === "clear" ? "content.hide" : "content.reveal"),
        key("R"),
      ),
    ),
    around(t("content.context"), seen.context),
    h("ol", { class: "turns" }, turns),
    link(seen.link),
    seen.reports?.length > 0 &&
      h(
        "div",
        { class: "around" },
        h("h3", {}, t("content.reports", { count: seen.reports.length })),
        h(
          "ul",
          {},
          seen.reports.map(({ reason }) => data(reason, "li", { class: "said" })),
        ),
      ),
    Object.keys(seen.metadata ?? {}).length > 0 &&
      h(
        "details",
        { class: "around" },
        h("summary", {}, t("content.metadata")),
        h(
          "dl",
          { class: "pairs" },
          Object.entries(seen.metadata).map(([name, value]) => [
            data(name, "dt"),
            data(typeof value === "string" ? value : JSON.stringify(value), "dd", {
              class: "said",
            }),
          ]),
        ),
      ),
  );
}

function turn({ role, content, reasoning }, isLast, task) {
  const text = typeof content === "string" ? content : content.map((part) => part.text).join("\n");
  const judges = isLast ? task : null;
  return h(
    "li",
    { class: ["turn", `of-${role}`, isLast && "is-last"] },
    h(
      "span",
      { class: "role" },
      term("role", role),
      judges && h("span", { class: "judged" }, t("content.judged")),
    ),
    reasoning &&
      h(
        "details",
        { class: "reasoning", open: task === "thinking" && isLast },
        h("summary", {}, t("content.reasoning")),
        data(reasoning, "p", { class: "said" }),
      ),
    text && data(text, "p", { class: "said" }),
  );
}

function around(title, text) {
  return (
    text && h("div", { class: "around" }, h("h3", {}, title), data(text, "p", { class: "said" }))
  );
}

function link(address) {
  if (!address) return null;
  const opens = /^https?:\/\//i.test(address) && !address.includes("•");
  return h(
    "div",
    { class: "around" },
    h("h3", {}, t("content.link")),
    h(
      "p",
      {},
      opens
        ? h(
            "a",
            {
              href: address,
              rel: "noreferrer noopener",
              target: "_blank",
              translate: "no",
              class: "said",
            },
            address,
          )
        : data(address, "span", { class: "said" }),
    ),
  );
}

function guard({ verdict, accuracy }) {
  const scores = verdict.scores;
  const sure = new Map((verdict.category_scores ?? []).map((one) => [one.category, one.score]));
  for (const name of verdict.categories ?? []) if (!sure.has(name)) sure.set(name, null);
  return h(
    "section",
    { class: "card" },
    h(
      "h2",
      {},
      t("guard.title"),
      verdict.safety &&
        h(
          "span",
          { class: `tone ${verdict.safety.toLowerCase()}` },
          term("safety", verdict.safety),
        ),
    ),
    verdict.cause && h("p", {}, t("guard.unjudged"), " ", term("cause", verdict.cause)),
    scores &&
      h(
        "table",
        { class: "scores" },
        h("caption", { class: "unseen" }, t("guard.scores")),
        h(
          "tbody",
          {},
          ["safe", "controversial", "unsafe"].map((name) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, term("score", name)),
              h("td", { class: "wide" }, bar(scores[name], name)),
              h("td", { class: "figure" }, percent(scores[name], 1)),
            ),
          ),
        ),
      ),
    sure.size > 0 &&
      h(
        "table",
        { class: "scores" },
        h("caption", {}, t("guard.categories")),
        h(
          "tbody",
          {},
          [...sure].map(([name, score]) => category(name, score, verdict, accuracy?.[name])),
        ),
      ),
    verdict.refusal !== null &&
      verdict.refusal !== undefined &&
      h("p", { class: "quiet" }, t(verdict.refusal ? "guard.refusal" : "guard.no_refusal")),
    verdict.views?.length > 1 &&
      h(
        "details",
        {},
        h("summary", {}, t("guard.views")),
        h(
          "table",
          { class: "scores" },
          h(
            "tbody",
            {},
            verdict.views.map((view) =>
              h(
                "tr",
                {},
                h(
                  "th",
                  { scope: "row" },
                  term("view", view.name),
                  view.piece > 0 && ` ${view.piece + 1}`,
                ),
                h("td", { class: "wide" }, bar(view.scores.unsafe, "unsafe")),
                h("td", { class: "figure" }, percent(view.scores.unsafe, 1)),
              ),
            ),
          ),
        ),
      ),
    verdict.dropped?.length > 0 &&
      h("p", { class: "quiet" }, t("guard.dropped"), " ", data(verdict.dropped.join(", "))),
  );
}

function category(name, score, verdict, known) {
  const named = verdict.categories?.includes(name);
  return h(
    "tr",
    { class: named && "is-named" },
    h("th", { scope: "row" }, term("category", name)),
    h(
      "td",
      { class: "wide" },
      score !== null && bar(score, "accent"),
      known?.reviewed
        ? h(
            "span",
            { class: "accuracy" },
            interval(
              known.low,
              known.share,
              known.high,
              t("guard.interval", { low: percent(known.low), high: percent(known.high) }),
            ),
            h(
              "small",
              {},
              t("guard.accuracy", { share: percent(known.share), count: known.reviewed }),
            ),
          )
        : h("small", { class: "quiet" }, t("guard.not_measured")),
    ),
    h("td", { class: "figure" }, score === null ? "–" : percent(score, 1)),
  );
}

function why({ why: policy, rule, verdict, harm, reach, arrived_at: at }) {
  const pairs = [
    [t("why.rule"), data(policy?.rule ?? rule, "b")],
    [
      t("why.policy"),
      policy?.policy && data(`${policy.policy} ${String(policy.version ?? "").slice(0, 8)}`),
    ],
    [t("why.harm"), h("span", { class: "harm" }, scale(harm), number(harm))],
    [t("why.reach"), reach > 0 && number(reach)],
    [t("why.origin"), verdict.facts?.origin && term("origin", verdict.facts.origin)],
    [t("why.meanwhile"), verdict.meanwhile && term("meanwhile", verdict.meanwhile)],
    [t("why.arrived"), ago(at)],
    [
      t("why.guard"),
      verdict.guard && data(`${verdict.guard.model} ${verdict.guard.revision.slice(0, 8)}`),
    ],
  ];
  return h(
    "section",
    { class: "card" },
    h("h2", {}, t("why.title")),
    h(
      "dl",
      { class: "pairs" },
      pairs
        .filter(([, value]) => value)
        .map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
    ),
  );
}

function scale(harm) {
  return drawn(
    "svg",
    { viewBox: "0 0 50 8", class: "scale", "aria-hidden": "true" },
    Array.from({ length: 10 }, (_, at) =>
      drawn("rect", { class: at < harm ? "unsafe" : "track", x: at * 5, width: 4, height: 8 }),
    ),
  );
}

/** A card of what was before, a line each; `parts` gives what stands behind its age. */
function before(title, rows, none, parts) {
  return h(
    "section",
    { class: "card" },
    h("h2", {}, title),
    rows?.length
      ? h(
          "ul",
          { class: "lines" },
          rows.map((row) => h("li", {}, ago(row.at), " ", parts(row))),
        )
      : h("p", { class: "quiet" }, none),
  );
}

function subject({ subject_history: rows }) {
  return before(t("subject.title"), rows, t("subject.none"), (row) => [
    term("task", row.task),
    " · ",
    (row.categories ?? []).map((name) => term("category", name)).join(", ") ||
      term("safety", row.safety ?? "none"),
    " → ",
    act(row.decision ?? row.action),
    row.decision && h("small", { class: "quiet" }, ` ${t("subject.by_person")}`),
  ]);
}

function past({ past_decisions: rows }) {
  return before(t("past.title"), rows, t("past.none"), (row) => [
    act(row.action),
    " · ",
    reasonOf(row.reason),
    row.clause && [" · ", data(row.clause)],
    row.pseudonym && [" · ", data(row.pseudonym)],
  ]);
}

const act = (name) => h("b", { class: `act ${name}` }, term("action", name));

function notes(rows, acts) {
  const words = h("textarea", {
    id: "note",
    rows: 2,
    maxlength: 2000,
    "aria-label": t("notes.label"),
  });
  const send = async (event) => {
    event.preventDefault();
    if (words.value.trim() && (await acts.note(words.value.trim()))) words.value = "";
  };
  words.addEventListener("keydown", (event) => {
    if (event.key === "Escape") words.blur();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
  });
  return h(
    "section",
    { class: "card notes" },
    h("h2", {}, t("notes.title")),
    h(
      "ul",
      { class: "lines" },
      (rows ?? []).map((row) =>
        h(
          "li",
          {},
          h("span", { class: "quiet" }, data(row.pseudonym), " ", ago(row.at)),
          data(row.text, "p", { class: "said" }),
        ),
      ),
    ),
    acts &&
      h(
        "form",
        { on: { submit: send } },
        words,
        h("button", { class: "plain" }, t("notes.add"), key("E")),
      ),
  );
}
