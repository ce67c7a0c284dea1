/** What waits: the rows of the queue in the order in which they are due. */

import { get } from "../api.js";
import { data, fill, h } from "../dom.js";
import { trying } from "../news.js";
import { languageName, number, t, term } from "../strings.js";
import { clock } from "../time.js";

const PAGE = 50;

/** What is wanted of the queue, kept while one looks at other pages. */
export const wanted = { queue: "", language: "", category: "" };

/**
 * The list. `open(row)` is called with what one picks. Gives `{element, keys, load, queues, item,
 * mark}`: `queues` and `item` take live events, `mark` shows which one is on the stage.
 */
export function waiting(me, { open }) {
  let rows = [];
  let next = null;
  let due = null;
  let onStage = null;
  const list = h("ul", { class: "rows" });
  const total = h("p", { class: "total quiet" });
  const more = h(
    "button",
    { class: "plain more", hidden: true, on: { click: () => load(true) } },
    t("waiting.more"),
  );
  const selects = Object.fromEntries(
    Object.keys(wanted).map((name) => [
      name,
      h("select", {
        id: `wanted-${name}`,
        "aria-label": t(`waiting.${name}`),
        on: {
          change: () => {
            wanted[name] = selects[name].value;
            load();
          },
        },
      }),
    ]),
  );
  const element = h(
    "section",
    { class: "waiting", "aria-labelledby": "waiting-title" },
    h(
      "div",
      { class: "section-head" },
      h("h2", { id: "waiting-title" }, t("waiting.title")),
      total,
    ),
    h("div", { class: "wanted" }, Object.values(selects)),
    list,
    more,
  );

  async function load(goesOn = false) {
    const page = await trying(() =>
      get("/items", { ...wanted, state: "open", limit: PAGE, after: goesOn ? next : "" }),
    );
    if (!page) return;
    rows = goesOn ? rows.concat(page.items) : page.items;
    next = page.next;
    show();
  }

  function show() {
    const at = document.activeElement?.closest?.(".row")?.dataset.item;
    fill(list, rows.map(line));
    if (!rows.length) fill(list, h("li", { class: "nothing" }, t("waiting.nothing")));
    more.hidden = next === null;
    mark(onStage);
    if (at) list.querySelector(`[data-item="${at}"]`)?.focus({ preventScroll: true });
  }

  function line(row) {
    const isMine = row.holder === me.pseudonym;
    return h(
      "li",
      {},
      h(
        "button",
        {
          class: ["row", row.holder && !isMine && "is-held"],
          "data-item": row.item_id,
          on: { click: () => open(row) },
        },
        h(
          "span",
          { class: "first" },
          clock(row.arrived_at, row.breach_at),
          row.kind !== "review" && h("span", { class: "chip strong" }, term("kind", row.kind)),
          row.count > 1 && h("span", { class: "chip strong" }, `×${number(row.count)}`),
        ),
        h(
          "span",
          { class: "what" },
          row.category ? term("category", row.category) : term("task", row.task),
        ),
        h(
          "span",
          { class: "quiet" },
          data(row.queue),
          ` · ${languageName(row.language)}`,
          row.holder && [
            " · ",
            isMine ? t("waiting.mine") : [t("waiting.held"), " ", data(row.holder)],
          ],
        ),
      ),
    );
  }

  function queues({ queues: all }) {
    const seen = all.filter(({ queue }) => !wanted.queue || queue === wanted.queue);
    const sum = (name) => seen.reduce((before, queue) => before + queue[name], 0);
    const counts = `${sum("open")} ${sum("held")}`;
    fill(total, t("waiting.total", { count: sum("open") }));
    options(
      selects.queue,
      "queue",
      all.map(({ queue, open: count }) => [queue, `${queue} (${number(count)})`, true]),
    );
    options(
      selects.language,
      "language",
      keysOf(seen, "languages").map((tag) => [tag, languageName(tag)]),
    );
    options(
      selects.category,
      "category",
      keysOf(seen, "categories")
        .filter(Boolean)
        .map((name) => [name, term("category", name)]),
    );
    if (due !== null && due !== counts) soon();
    due = counts;
  }

  let timer = null;
  function soon() {
    timer ??= setTimeout(() => {
      timer = null;
      if (element.isConnected && !next) load();
    }, 1000);
  }

  function item({ item_id: id, state, holder }) {
    const at = rows.findIndex((row) => row.item_id === id);
    if (at < 0) return;
    if (state !== "open") rows.splice(at, 1);
    else rows[at] = { ...rows[at], holder };
    show();
  }

  function mark(id) {
    onStage = id;
    for (const row of list.querySelectorAll(".row")) {
      if (row.dataset.item === id) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
  }

  function move(step) {
    const all = [...list.querySelectorAll(".row")];
    const at = all.findIndex((row) => row === document.activeElement);
    const from = at >= 0 ? at : all.findIndex((row) => row.dataset.item === onStage);
    all[Math.max(0, Math.min(all.length - 1, from + step))]?.focus();
  }

  const keys = [
    { keys: "j", says: t("keys.down"), run: () => move(1), repeats: true },
    { keys: "k", says: t("keys.up"), run: () => move(-1), repeats: true },
    { keys: "/", says: t("keys.filter"), run: () => selects.queue.focus() },
  ];
  return { element, keys, load, queues, item, mark };
}

function keysOf(queues, name) {
  return [...new Set(queues.flatMap((queue) => Object.keys(queue[name] ?? {})))].sort();
}

function options(select, name, list) {
  const known = list.some(([value]) => value === wanted[name]) || !wanted[name];
  if (!known) list.push([wanted[name], wanted[name], true]);
  const said = JSON.stringify(list);
  if (select.dataset.said === said) return;
  select.dataset.said = said;
  fill(
    select,
    h("option", { value: "" }, t(`waiting.every_${name}`)),
    list.map(([value, says, isData]) =>
      h("option", { value, translate: isData ? "no" : null }, says),
    ),
  );
  select.value = wanted[name];
}
