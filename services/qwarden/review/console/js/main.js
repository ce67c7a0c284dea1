/** The page: who is here, what they may see, and which view is shown. */

import { get, remove, trust } from "./api.js";
import { data, fill, h, key } from "./dom.js";
import * as hands from "./hands.js";
import * as keyboard from "./keys.js";
import { follow } from "./live.js";
import { alarm, trying } from "./news.js";
import { languageFor, speak, t, term } from "./strings.js";
import { run } from "./time.js";
import * as undo from "./views/undo.js";

/** The views: the word in the address, the key after `g`, and whose they are. */
const VIEWS = [
  { name: "desk", keys: "w", roles: ["reviewer", "lead", "auditor"] },
  { name: "queues", keys: "q", roles: ["reviewer", "lead", "auditor"] },
  { name: "mine", keys: "m", roles: ["reviewer", "lead"] },
  { name: "bulk", keys: "b", roles: ["lead"] },
  { name: "quality", keys: "y", roles: ["lead", "auditor"] },
  { name: "ledger", keys: "e", roles: ["lead", "auditor", "admin"] },
  { name: "log", keys: "l", roles: ["auditor", "admin"] },
  { name: "people", keys: "p", roles: ["admin"] },
  { name: "wishes", keys: "s", roles: ["reviewer", "lead", "auditor", "admin"] },
];

let me;
let shown = {};
let turns = 0;

async function begin() {
  try {
    me = await get("/me");
  } catch (error) {
    await speak(languageFor(null));
    alarm(error);
    return;
  }
  me.decides = me.roles.some((role) => role === "reviewer" || role === "lead");
  me.reads = me.decides || me.roles.includes("auditor");
  trust(me.csrf);
  const { theme, language } = me.preferences;
  if (theme !== "system") document.documentElement.dataset.theme = theme;
  await speak(languageFor(language));
  document.querySelector("[data-says]").textContent = t("page.skip");
  if (me.decides) await trying(() => hands.begin(me.limits.lease_s, (hand) => shown.lost?.(hand)));
  draw();
  keyboard.bind("page", [
    { keys: "?", says: t("keys.title"), run: keyboard.help },
    ...mine().map(({ name, keys }) => ({
      keys: `g ${keys}`,
      says: t(`view.${name}`),
      run: () => (location.hash = `#/${name}`),
    })),
  ]);
  keyboard.listen();
  window.addEventListener("hashchange", show);
  await show();
  run(() => {
    undo.pass();
    shown.tick?.();
  });
  if (me.reads) followLive();
}

function followLive() {
  let isNew = true;
  follow({
    queues: (all) => {
      shown.queues?.(all);
      if (!isNew) return;
      // What happened before the line stood, or while it was down, was told to nobody.
      isNew = false;
      shown.load?.();
      if (me.decides) trying(hands.renewAll);
    },
    item: (event) => shown.item?.(event),
    lease: (event) => shown.lease?.(event),
    state: (stands) => {
      isNew ||= !stands;
      const line = document.getElementById("line");
      line.dataset.stands = stands;
      line.title = t(stands ? "page.live" : "page.not_live");
      fill(line, h("span", { class: "unseen" }, line.title));
    },
  });
}

function mine() {
  return VIEWS.filter(({ roles }) => roles.some((role) => me.roles.includes(role)));
}

function draw() {
  const wishes = mine().find(({ name }) => name === "wishes");
  fill(
    document.getElementById("bar"),
    h(
      "a",
      { class: "mark", href: "#/" },
      h("img", { src: "/console/icons/mark.svg", alt: "", width: 22, height: 22 }),
      h("b", { translate: "no" }, "Qwarden"),
    ),
    h(
      "nav",
      { "aria-label": t("page.views") },
      mine()
        .filter((view) => view !== wishes)
        .map(({ name }) => h("a", { href: `#/${name}`, "data-view": name }, t(`view.${name}`))),
    ),
    h(
      "div",
      { class: "self" },
      h("span", { id: "line", class: "line-state", role: "img", "aria-label": t("page.line") }),
      h(
        "button",
        { class: "plain", on: { click: keyboard.help }, "aria-label": t("keys.title") },
        key("?"),
      ),
      h(
        "a",
        {
          href: "#/wishes",
          "data-view": "wishes",
          title: me.roles.map((role) => term("role_of", role)).join(", "),
        },
        data(me.pseudonym),
      ),
      h("button", { class: "plain", on: { click: leave } }, t("page.leave")),
    ),
  );
}

async function leave() {
  const done = await trying(async () => {
    await remove("/sessions");
    return true;
  });
  if (done) location.assign("/sign-in");
}

async function show() {
  if (location.hash && !location.hash.startsWith("#/")) return;
  const turn = ++turns;
  const [, word, rest] = location.hash.split("/");
  const { name } = mine().find((view) => view.name === word) ?? mine()[0];
  shown.close?.();
  shown = {};
  for (const link of document.querySelectorAll("#bar [data-view]")) {
    if (link.dataset.view !== name) {
      link.removeAttribute("aria-current");
      continue;
    }
    link.setAttribute("aria-current", "page");
    link.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  const place = document.getElementById("main");
  place.dataset.view = name;
  document.title = `${t(`view.${name}`)} – Qwarden`;
  place.setAttribute("aria-busy", "true");
  const view = await import(`./views/${name}.js`);
  const next = await view.show(place, me, rest);
  if (turn === turns) {
    shown = next;
    place.removeAttribute("aria-busy");
    const queues = name === "desk" ? await trying(() => get("/queues")) : null;
    if (queues) shown.queues?.(queues);
  }
}

begin();
