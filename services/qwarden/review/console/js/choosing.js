/** A question with a few answers, each under a digit. */

import { h, key } from "./dom.js";
import { t } from "./strings.js";

/**
 * Asks and gives the value of the answer, or null. `answers`: a list of `{value, says}`;
 * `note`: the label of a line for own words, which come as `words`.
 */
export function choose({ title, about, answers, note }) {
  return new Promise((resolve) => {
    let answer = null;
    const words = note ? h("textarea", { id: "own-words", rows: 2, maxlength: 500 }) : null;
    const pick = (value) => {
      answer = { value, words: words?.value.trim() ?? "" };
      dialog.close();
    };
    const dialog = h(
      "dialog",
      { class: "sheet", "aria-labelledby": "question" },
      h("h2", { id: "question" }, title),
      about && h("p", { class: "quiet" }, about),
      words && h("label", { class: "field", for: "own-words" }, note, words),
      h(
        "ol",
        { class: "answers" },
        answers.map(({ value, says }, at) =>
          h(
            "li",
            {},
            h("button", { on: { click: () => pick(value) } }, at < 9 && key(at + 1), says),
          ),
        ),
      ),
      h("form", { method: "dialog" }, h("button", { class: "plain" }, t("act.cancel"), key("Esc"))),
    );
    dialog.addEventListener("keydown", (event) => {
      const at = Number(event.key) - 1;
      if (event.target !== words && at >= 0 && at < answers.length) {
        event.preventDefault();
        pick(answers[at].value);
      }
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
    dialog.querySelector(".answers button")?.focus();
  });
}
