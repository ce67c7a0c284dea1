/** The decision on the item that one holds: action, reason, clause, and what else belongs to it. */

import { data, fill, h, key } from "../dom.js";
import { ACTIONS, OWN, acting, clausesOf, lacking, nextClause } from "../draft.js";
import { t, term } from "../strings.js";
import { clock } from "../time.js";

/**
 * The panel for one hand. `acts`: `send(goesOn)`, `skip`, `urgent`, `handOver`, `release`, `again`,
 * `leave`. Gives `{element, keys, refresh, say}`; `refresh` shows a lease that was renewed or lost,
 * `say` why something was not done.
 */
export function panel(hand, me, acts) {
  const { item } = hand;
  const known = clausesOf(item);
  const lease = h("div", { class: "lease" });
  const reasons = h("fieldset", { class: "reasons" });
  const restricts = h("div", { class: "restricts" });
  const lacks = h("p", { class: "lacks", id: "lacks" });
  const send = h("button", { class: "primary" }, t("decision.send"), key("↵"));
  const actions = ACTIONS.map((action) =>
    choice(
      "action",
      action,
      [
        h("span", {}, term("do", action)),
        item.appeal?.original?.action === action && h("small", {}, t("appeal.upholds")),
        key(action[0].toUpperCase()),
      ],
      () => change(acting(hand.draft, action, me.reasons)),
      `act ${action}`,
    ),
  );
  const override = h("input", {
    type: "checkbox",
    id: "override",
    on: { change: () => change({ ...hand.draft, override: override.checked }) },
  });
  const form = h(
    "form",
    {
      class: "decision",
      "aria-labelledby": "decision-title",
      on: {
        submit: (event) => {
          event.preventDefault();
          go(true);
        },
      },
    },
    h("h2", { id: "decision-title", class: "unseen" }, t("decision.title")),
    lease,
    h(
      "fieldset",
      { class: "actions" },
      h("legend", { class: "unseen" }, t("decision.action")),
      actions,
    ),
    h("div", { class: "more" }, reasons, restricts),
    h(
      "label",
      { class: "override", for: "override" },
      override,
      h("span", {}, t("decision.override", { count: me.limits.override_days })),
      key("O"),
    ),
    lacks,
    send,
    h(
      "div",
      { class: "beside" },
      [
        ["skip", "S"],
        ["urgent", "U"],
        ["handOver", "H"],
        ["release", "X"],
      ].map(([act, name]) =>
        h(
          "button",
          { type: "button", class: "plain", on: { click: acts[act] } },
          t(`act.${act}`),
          key(name),
        ),
      ),
    ),
  );

  function change(draft) {
    const before = hand.draft;
    hand.draft = draft;
    if (draft.action !== before.action) lay();
    sync();
  }

  function lay() {
    const { draft } = hand;
    reasons.hidden = restricts.hidden = !draft.action;
    if (!draft.action) return;
    const words = h("textarea", {
      rows: 2,
      maxlength: 500,
      "aria-label": t("decision.words"),
      value: draft.words,
      on: {
        input: () => change({ ...hand.draft, reason: OWN, words: words.value }),
        keydown: (event) => {
          if (event.key === "Escape") words.blur();
          if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            go(true);
          }
        },
      },
    });
    fill(
      reasons,
      h("legend", {}, t("decision.reason")),
      me.reasons[draft.action].map((code, at) =>
        choice(
          "reason",
          code,
          [at < 9 && key(at + 1), h("span", {}, term("reason", code))],
          () => change({ ...hand.draft, reason: code }),
          "line",
        ),
      ),
      choice("reason", OWN, [key(0), h("span", {}, t("decision.own"))], inOwnWords, "line"),
      words,
    );
    restricts.hidden = draft.action === "allow";
    if (!restricts.hidden) fill(restricts, clauses(), categories());
  }

  function inOwnWords() {
    change({ ...hand.draft, reason: OWN });
    reasons.querySelector("textarea").focus();
  }

  function clauses() {
    const list = h(
      "select",
      { id: "clause", on: { change: () => pick(list.value) } },
      known.map((one, at) =>
        h("option", { value: at, translate: "no" }, `${term("ground", one.ground)}: ${one.clause}`),
      ),
      h("option", { value: "own" }, t("decision.other_clause")),
    );
    const own = h("input", {
      class: "own-clause",
      maxlength: 200,
      "aria-label": t("decision.other_clause"),
      on: { input: () => change({ ...hand.draft, clause: own.value }) },
    });
    const ground = h(
      "select",
      {
        class: "own-clause",
        "aria-label": t("decision.ground"),
        on: { change: () => change({ ...hand.draft, ground: ground.value }) },
      },
      ["terms", "law"].map((one) => h("option", { value: one }, term("ground", one))),
    );
    const pick = (value) => {
      const { ground: its, clause } = known[value] ?? { ground: "terms", clause: "" };
      change({ ...hand.draft, ground: its, clause });
      if (value === "own") own.focus();
    };
    return h(
      "div",
      { class: "clause" },
      h("label", { for: "clause" }, t("decision.clause"), key("L")),
      list,
      h("div", { class: "own" }, ground, own),
      data("", "p", { class: "clause-text quiet" }),
    );
  }

  function categories() {
    return h(
      "details",
      { class: "categories" },
      h("summary", {}, t("decision.categories"), " ", h("b", { class: "chosen" })),
      h(
        "fieldset",
        {},
        h("legend", { class: "unseen" }, t("decision.categories")),
        me.categories.map((name) => {
          const box = h("input", {
            type: "checkbox",
            name: "category",
            value: name,
            on: {
              change: () =>
                change({
                  ...hand.draft,
                  categories: box.checked
                    ? [...hand.draft.categories, name]
                    : hand.draft.categories.filter((one) => one !== name),
                }),
            },
          });
          return h("label", { class: "line" }, box, h("span", {}, term("category", name)));
        }),
      ),
    );
  }

  function sync() {
    const { draft } = hand;
    for (const input of form.querySelectorAll("[name=action]"))
      input.checked = input.value === draft.action;
    for (const input of form.querySelectorAll("[name=reason]"))
      input.checked = input.value === draft.reason;
    for (const input of form.querySelectorAll("[name=category]"))
      input.checked = draft.categories.includes(input.value);
    override.checked = draft.override;
    lacks.textContent = "";
    form.dataset.action = draft.action ?? "";
    form.dataset.ownWords = draft.reason === OWN;
    if (!draft.action || draft.action === "allow") return;
    const at = known.findIndex((one) => one.ground === draft.ground && one.clause === draft.clause);
    form.querySelector("#clause").value = at < 0 ? "own" : at;
    form.dataset.ownClause = at < 0;
    const own = form.querySelector("input.own-clause");
    if (own.value !== draft.clause) own.value = draft.clause;
    form.querySelector("select.own-clause").value = draft.ground;
    form.querySelector(".clause-text").textContent = known[at]?.text ?? "";
    form.querySelector(".chosen").textContent =
      draft.categories.map((name) => term("category", name)).join(", ") ||
      t("decision.no_category");
  }

  function go(goesOn) {
    const lack = lacking(hand.draft);
    if (lack) say(t(`decision.lacks_${lack}`));
    else acts.send(goesOn);
  }

  function say(sentence) {
    lacks.textContent = sentence;
    lacks.setAttribute("role", "alert");
  }

  function refresh() {
    form.dataset.lost = Boolean(hand.lost);
    send.disabled = Boolean(hand.lost);
    if (hand.lost) {
      const { why, holder } = hand.lost;
      fill(
        lease,
        h(
          "div",
          { class: "lost", role: "alert" },
          h(
            "p",
            {},
            holder
              ? t("lease.held", { holder })
              : t(`lease.${why === "closed" ? "closed" : "ran_out"}`),
          ),
          h("p", { class: "quiet" }, t("lease.kept")),
          !holder &&
            why !== "closed" &&
            h(
              "button",
              { type: "button", class: "plain", on: { click: acts.again } },
              t("lease.again"),
            ),
          h(
            "button",
            { type: "button", class: "plain", on: { click: acts.leave } },
            t("lease.leave"),
          ),
        ),
      );
      return;
    }
    const running = lease.querySelector(".clock");
    const { until } = hand.lease;
    if (running) {
      running.dataset.from = until - me.limits.lease_s;
      running.dataset.until = until;
      return;
    }
    fill(
      lease,
      h("span", { class: "quiet" }, t("lease.yours")),
      clock(until - me.limits.lease_s, until),
    );
  }

  lay();
  sync();
  refresh();
  const keys = [
    ...ACTIONS.map((action) => ({
      keys: action[0],
      says: term("do", action),
      run: () => change(acting(hand.draft, action, me.reasons)),
    })),
    { keys: "1", says: t("keys.reason"), run: () => digit(1) },
    ...[2, 3, 4, 5, 6, 7, 8, 9].map((at) => ({ keys: String(at), run: () => digit(at) })),
    { keys: "0", says: t("decision.own"), run: () => hand.draft.action && inOwnWords() },
    {
      keys: "l",
      says: t("keys.clause"),
      run: () => hand.draft.action && change(nextClause(hand.draft, known)),
    },
    {
      keys: "o",
      says: t("keys.override"),
      run: () => change({ ...hand.draft, override: !hand.draft.override }),
    },
    { keys: "Enter", says: t("decision.send"), run: () => go(true) },
    { keys: "Shift+Enter", says: t("keys.send_and_stop"), run: () => go(false) },
    { keys: "s", says: t("act.skip"), run: acts.skip },
    { keys: "u", says: t("act.urgent"), run: acts.urgent },
    { keys: "h", says: t("act.handOver"), run: acts.handOver },
    { keys: "x", says: t("act.release"), run: acts.release },
  ];
  function digit(at) {
    const code = hand.draft.action && me.reasons[hand.draft.action][at - 1];
    if (code) change({ ...hand.draft, reason: code });
    else if (!hand.draft.action) say(t("decision.lacks_action"));
  }
  return { element: form, keys, refresh, say };
}

function choice(name, value, children, chosen, kind) {
  return h(
    "label",
    { class: ["choice", kind] },
    h("input", { type: "radio", name, value, on: { change: chosen } }),
    children,
  );
}
