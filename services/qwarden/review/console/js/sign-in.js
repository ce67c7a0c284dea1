/** The door: a link's token is used at once, by POST, so that who only looks at a link spends
 * nothing. Without one it says how to get in. */

import { Refused, get, post } from "./api.js";
import { fill, h } from "./dom.js";
import { languageFor, speak, t } from "./strings.js";

const token = location.hash.slice(1);
history.replaceState(null, "", "/sign-in");
await speak(languageFor(null));
document.title = `${t("sign_in.title")} – Qwarden`;

async function enter() {
  if (!token) return null;
  try {
    await post("/sessions", { token });
    location.replace("/");
    return null;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return error;
  }
}

const refused = await enter();
if (!token || refused) {
  const { oidc } = await get("/sign-in");
  fill(
    document.getElementById("main"),
    h(
      "section",
      { class: "card" },
      h("img", { src: "/console/icons/mark.svg", alt: "", width: 44, height: 44 }),
      h("h1", {}, t("sign_in.title")),
      refused &&
        h(
          "p",
          { class: "refused", role: "alert" },
          t(refused.status === 429 ? "sign_in.slow" : "sign_in.spent"),
        ),
      h("p", {}, t("sign_in.link")),
      oidc && h("a", { class: "button primary", href: "/oidc/start" }, t("sign_in.oidc")),
    ),
  );
}
