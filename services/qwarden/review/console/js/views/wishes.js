/** How this person wants it: what is masked and blurred, light or dark, which language, which keys. */

import { put } from "../api.js";
import { fill, h } from "../dom.js";
import { boxes, field, form, select, valuesOf } from "../forms.js";
import { areOn, turn } from "../keys.js";
import { tell, trying } from "../news.js";
import { LANGUAGES, languageName, t, term } from "../strings.js";

/** Shows them. */
export async function show(place, me) {
  const wishes = me.preferences;
  const masked = h("input", { type: "checkbox", checked: wishes.masked });
  const keys = h("input", { type: "checkbox", checked: areOn() });
  const blur = boxes(
    t("wishes.blur"),
    me.categories.map((name) => [name, term("category", name)]),
    wishes.blur,
  );
  const theme = select(["system", "light", "dark"].map((one) => [one, t(`theme.${one}`)]));
  const language = select([
    ["", t("wishes.browser")],
    ...LANGUAGES.map((tag) => [tag, languageName(tag)]),
  ]);
  theme.value = wishes.theme;
  language.value = wishes.language ?? "";
  fill(
    place,
    h(
      "div",
      { class: "page narrow" },
      h("h1", {}, t("wishes.title")),
      form(
        { class: "card" },
        save,
        h("label", { class: "line" }, masked, h("span", {}, t("wishes.masked"))),
        blur,
        field(t("wishes.theme"), theme),
        field(t("wishes.language"), language),
        h("label", { class: "line" }, keys, h("span", {}, t("wishes.keys"))),
        h("button", { class: "primary" }, t("people.save")),
      ),
    ),
  );

  async function save() {
    const chosen = {
      masked: masked.checked,
      blur: valuesOf(blur),
      theme: theme.value,
      language: language.value || null,
    };
    turn(keys.checked);
    const saved = await trying(async () => {
      await put("/me/preferences", chosen);
      return true;
    });
    if (!saved) return;
    tell(t("wishes.saved"));
    location.reload();
  }
  return {};
}
