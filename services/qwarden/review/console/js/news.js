/** What people are told beside what they look at: softly, or at once. */

import { data, fill, h } from "./dom.js";
import { Refused } from "./api.js";
import { isKnown, t } from "./strings.js";

let hiding;

/** Says something to those who listen rather than look. */
export function tell(sentence) {
  document.getElementById("news").textContent = sentence;
}

/** Shows that something was not done, and why, for as long as one needs to read it. */
export function alarm(error) {
  if (!(error instanceof Refused)) {
    throw error;
  }
  if (error.status === 401) {
    location.assign("/sign-in");
    return;
  }
  const key = error.holder ? "refused.held" : `refused.${error.code}`;
  const place = document.getElementById("alarm");
  fill(
    place,
    h("p", {}, isKnown(key) ? t(key, { holder: error.holder }) : t("refused.other")),
    error.detail && !error.holder && data(error.detail, "p", { class: "detail", lang: "en" }),
    h("button", { class: "plain", on: { click: () => place.replaceChildren() } }, t("act.close")),
  );
  clearTimeout(hiding);
  hiding = setTimeout(() => place.replaceChildren(), 12_000);
}

/** Does something, and shows a refusal. The answer, or undefined where it was refused. */
export async function trying(work) {
  try {
    return await work();
  } catch (error) {
    alarm(error);
    return undefined;
  }
}
