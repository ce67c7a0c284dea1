/** The keyboard: what each key does now, and the page that shows it. */

import { h, key } from "./dom.js";
import { t } from "./strings.js";

const bindings = new Map();
let pressed = "";
let isOn = localStorage.getItem("keys") !== "off";

/**
 * Sets what the keys of one part of the page do, in place of what it set before: a list of
 * `{keys, says, run}`. `keys`: one such as `r`, or two one after the other, such as `g q`.
 */
export function bind(part, list) {
  bindings.set(part, list);
}

/** Whether single keys act. Who speaks to the machine or has a tremor may want them not to. */
export function areOn() {
  return isOn;
}

export function turn(on) {
  isOn = on;
  localStorage.setItem("keys", on ? "on" : "off");
}

/** Listens to the keyboard, for good. */
export function listen() {
  document.addEventListener("keydown", (event) => {
    if (!isOn || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.isComposing || isTaken(event) || document.querySelector("dialog[open]")) return;
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const [pair, single] = [
      `${pressed} ${name}`,
      event.shiftKey && name.length > 1 ? `Shift+${name}` : name,
    ];
    const all = [...bindings.values()].flat();
    const found = all.find(({ keys }) => keys === pair) ?? all.find(({ keys }) => keys === single);
    pressed = found ? "" : name;
    if (!found) return;
    event.preventDefault();
    if (!event.repeat || found.repeats) found.run();
  });
}

/** Whether the element that has the focus needs this key for itself. */
function isTaken(event) {
  const at = event.target;
  if (!(at instanceof Element)) return false;
  if (at.matches("textarea, select, [contenteditable]")) return true;
  if (at.matches("input:not([type=radio], [type=checkbox])")) return true;
  const acts = at.closest("button, a[href], summary");
  return Boolean(acts) && (event.key === "Enter" || event.key === " ");
}

/** Shows all keys that do something here. */
export function help() {
  const first = ["desk", "decision", "item", "list"];
  const parts = [...new Set([...first, ...bindings.keys()])].filter((part) => bindings.has(part));
  const rows = parts.flatMap((part) => bindings.get(part)).filter(({ says }) => says);
  const dialog = h(
    "dialog",
    { class: "sheet wide", "aria-labelledby": "keys-title", on: { close: () => dialog.remove() } },
    h("h2", { id: "keys-title" }, t("keys.title")),
    h(
      "dl",
      { class: "keys" },
      rows.map(({ keys, says }) =>
        h(
          "div",
          {},
          h(
            "dt",
            {},
            keys.split(/ /).map((one) => key(shown(one))),
          ),
          h("dd", {}, says),
        ),
      ),
    ),
    h("form", { method: "dialog" }, h("button", { class: "plain" }, t("act.close"), key("Esc"))),
  );
  document.body.append(dialog);
  dialog.showModal();
}

function shown(name) {
  if (name.length === 1) return name.toUpperCase();
  return name.replace("Shift+", "⇧ ").replace("Enter", "↵");
}
