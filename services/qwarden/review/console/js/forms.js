/** Forms and tables, put together the same way on every page. */

import { h } from "./dom.js";

let count = 0;

/** A control with its label above it. */
export function field(says, control, about = null) {
  control.id ||= `field-${++count}`;
  return h(
    "div",
    { class: "field" },
    h("label", { for: control.id }, says),
    control,
    about && h("small", { class: "quiet" }, about),
  );
}

/** A line to type in. */
export function line(properties = {}) {
  return h("input", { type: "text", autocomplete: "off", spellcheck: "false", ...properties });
}

/** A choice of `[value, says]` pairs. */
export function select(pairs, properties = {}) {
  return h(
    "select",
    properties,
    pairs.map(([value, says]) => h("option", { value }, says)),
  );
}

/** A list of boxes of `[value, says]` pairs; `valuesOf` reads the ticked ones. */
export function boxes(legend, pairs, ticked = []) {
  return h(
    "fieldset",
    { class: "boxes" },
    h("legend", {}, legend),
    pairs.map(([value, says]) =>
      h(
        "label",
        { class: "line" },
        h("input", { type: "checkbox", value, checked: ticked.includes(value) }),
        h("span", {}, says),
      ),
    ),
  );
}

export function valuesOf(fieldset) {
  return [...fieldset.querySelectorAll("input:checked")].map(({ value }) => value);
}

/** A form whose button does `act`; it is not sent anywhere by itself. */
export function form(properties, act, ...children) {
  return h(
    "form",
    {
      ...properties,
      on: {
        submit: (event) => {
          event.preventDefault();
          act(event);
        },
      },
    },
    children,
  );
}

/** A table with a caption and heads. A cell is what goes into it, or `{figure}` for a number. */
export function table(caption, heads, rows, none) {
  if (!rows.length) return h("p", { class: "quiet" }, none);
  return h(
    "div",
    { class: "scrolls", tabindex: 0, role: "region", "aria-label": caption },
    h(
      "table",
      { class: "rows-table" },
      h("caption", { class: "unseen" }, caption),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          heads.map((head) =>
            h(
              "th",
              { scope: "col", class: head.figure !== undefined && "figure" },
              head.figure ?? head,
            ),
          ),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((cells) =>
          h(
            "tr",
            {},
            cells.map((cell) =>
              cell?.figure !== undefined
                ? h("td", { class: "figure" }, cell.figure)
                : h("td", {}, cell),
            ),
          ),
        ),
      ),
    ),
  );
}
