/** Small plots, drawn by hand. Each says its figures to those who do not see it. */

import { drawn, h } from "./dom.js";
import { number } from "./strings.js";

/** A bar of a share from 0 to 1. `tone` names its colour: safe, controversial, unsafe, accent. */
export function bar(share, tone = "accent") {
  return drawn(
    "svg",
    { class: "bar-plot", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    drawn("rect", { class: "track", width: 100, height: 8 }),
    drawn("rect", { class: tone, width: 100 * clamped(share), height: 8 }),
  );
}

/** A share with the interval in which it lies, on a line from 0 to 1. */
export function interval(low, share, high, label) {
  const [from, at, to] = [low, share, high].map((value) => 100 * clamped(value));
  return drawn(
    "svg",
    { class: "interval", viewBox: "0 0 100 10", role: "img", "aria-label": label },
    drawn("line", { class: "track", x1: 0, x2: 100, y1: 5, y2: 5 }),
    drawn("line", { class: "range", x1: from, x2: to, y1: 5, y2: 5 }),
    drawn("circle", { class: "at", cx: Math.max(3, Math.min(97, at)), cy: 5, r: 3 }),
  );
}

/**
 * Columns of two series over time, one behind the other: what came and what was done. Both have
 * one number for each span of time.
 */
export function columns(came, done, label) {
  const most = Math.max(1, ...came, ...done);
  const width = 100 / Math.max(1, came.length);
  const column = (value, at, tone, inset) =>
    drawn("rect", {
      class: tone,
      x: at * width + inset,
      y: 40 - (40 * value) / most,
      width: Math.max(0.4, width - 2 * inset - 0.3),
      height: (40 * value) / most,
    });
  return drawn(
    "svg",
    {
      class: "columns",
      viewBox: "0 0 100 41",
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": label,
    },
    drawn("line", { class: "track", x1: 0, x2: 100, y1: 40.5, y2: 40.5 }),
    came.map((value, at) => column(value, at, "came", 0)),
    done.map((value, at) => column(value, at, "done", width * 0.22)),
  );
}

/** Parts of a whole, side by side: a list of `{says, count, tone}`. */
export function parts(list) {
  const all = Math.max(
    1,
    list.reduce((sum, { count }) => sum + count, 0),
  );
  let from = 0;
  const pieces = list.map(({ count, tone }) => {
    const piece = drawn("rect", { class: tone, x: from, width: (100 * count) / all, height: 8 });
    from += (100 * count) / all;
    return piece;
  });
  return h(
    "div",
    { class: "parts" },
    drawn(
      "svg",
      {
        class: "bar-plot",
        viewBox: "0 0 100 8",
        preserveAspectRatio: "none",
        "aria-hidden": "true",
      },
      drawn("rect", { class: "track", width: 100, height: 8 }),
      pieces,
    ),
    h(
      "ul",
      { class: "legend" },
      list.map(({ says, count, tone }) =>
        h("li", {}, h("i", { class: `dot ${tone}` }), says, " ", h("b", {}, number(count))),
      ),
    ),
  );
}

function clamped(share) {
  return Math.max(0, Math.min(1, share || 0));
}
