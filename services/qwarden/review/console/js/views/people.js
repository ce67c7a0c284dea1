/** Who may do what: people, their sign-in links, and the tokens of tools. */

import { get, patch, post, remove } from "../api.js";
import { data, fill, h } from "../dom.js";
import { boxes, field, form, line, table, valuesOf } from "../forms.js";
import { tell, trying } from "../news.js";
import { languageName, moment, t, term } from "../strings.js";
import { when } from "../time.js";

const ROLES = ["reviewer", "lead", "auditor", "admin"];

/** Shows all accounts, and what an admin does with them. */
export async function show(place) {
  const people = h("div", {});
  const made = h("div", { class: "made", role: "status" });
  fill(
    place,
    h(
      "div",
      { class: "page" },
      h("h1", {}, t("people.title")),
      made,
      h("section", { class: "card" }, people),
      h(
        "section",
        { class: "card" },
        h("h2", {}, t("people.new")),
        editor(
          {},
          async (account) => {
            if (await change(() => post("/people", account))) tell(t("people.added"));
          },
          true,
        ),
      ),
    ),
  );

  async function change(work) {
    const done = await trying(async () => {
      await work();
      return true;
    });
    if (done) await ask();
    return done;
  }

  async function ask() {
    const found = await trying(() => get("/people"));
    if (!found) return;
    fill(
      people,
      table(
        t("people.title"),
        [
          t("people.name"),
          t("people.pseudonym"),
          t("people.roles"),
          t("people.tenants"),
          t("people.languages"),
          t("people.acts"),
        ],
        found.people.map((person) => [
          [
            data(person.name),
            person.is_tool && h("span", { class: "chip" }, t("people.tool")),
            !person.is_active && h("span", { class: "chip" }, t("people.gone")),
          ],
          data(person.pseudonym),
          person.roles.map((role) => term("role_of", role)).join(", "),
          person.tenants
            .map((name) => (name === "*" ? t("people.every") : data(name)))
            .flatMap((one, at) => (at ? [", ", one] : [one])),
          person.languages.map(languageName).join(", "),
          person.is_active &&
            h(
              "div",
              { class: "buttons" },
              !person.is_tool &&
                h(
                  "button",
                  { class: "plain", on: { click: () => link(person) } },
                  t("people.link"),
                  unseen(person),
                ),
              h(
                "button",
                { class: "plain", on: { click: () => tokens(person) } },
                t("people.tokens"),
                unseen(person),
              ),
              h(
                "button",
                { class: "plain", on: { click: () => edit(person) } },
                t("people.change"),
                unseen(person),
              ),
              h(
                "button",
                { class: "plain danger", on: { click: () => leave(person) } },
                t("people.remove"),
                unseen(person),
              ),
            ),
        ]),
        t("people.none"),
      ),
    );
  }

  async function link(person) {
    const answer = await trying(() => post(`/people/${person.user_id}/links`));
    if (answer) secret(t("people.link_made", { at: moment(answer.expires_at) }), answer.url);
  }

  async function tokens(person) {
    const found = await trying(() => get(`/people/${person.user_id}/tokens`));
    if (!found) return;
    asking(t("people.tokens"), (dialog) => {
      const label = line({ required: true, maxlength: 100, translate: "no" });
      return [
        h(
          "ul",
          { class: "lines" },
          found.tokens.map((one) =>
            h(
              "li",
              { class: "section-head" },
              data(one.label),
              h("span", { class: "quiet" }, when(one.made_at)),
              h(
                "button",
                {
                  class: "plain danger",
                  on: {
                    click: async () => {
                      dialog.close();
                      await change(() =>
                        remove(`/people/${person.user_id}/tokens`, { label: one.label }),
                      );
                    },
                  },
                },
                t("people.revoke"),
              ),
            ),
          ),
        ),
        form(
          { class: "editor" },
          async () => {
            const answer = await trying(() =>
              post(`/people/${person.user_id}/tokens`, { label: label.value.trim() }),
            );
            if (!answer) return;
            dialog.close();
            secret(t("people.token_made"), answer.token);
          },
          field(t("people.label"), label),
          h("button", { class: "primary" }, t("people.token")),
        ),
      ];
    });
  }

  function secret(says, value) {
    const shown = line({ value, readonly: true, translate: "no" });
    fill(
      made,
      h(
        "section",
        { class: "card secret" },
        field(says, shown),
        h(
          "button",
          {
            on: {
              click: async () => {
                await navigator.clipboard.writeText(value);
                tell(t("people.copied"));
              },
            },
          },
          t("people.copy"),
        ),
      ),
    );
    shown.select();
  }

  function edit(person) {
    asking(t("people.change"), (dialog) =>
      editor(person, async ({ name: _, is_tool: __, ...account }) => {
        if (await change(() => patch(`/people/${person.user_id}`, account))) dialog.close();
      }),
    );
  }

  function leave(person) {
    asking(t("people.remove"), (dialog) =>
      form(
        {},
        async () => {
          if (await change(() => remove(`/people/${person.user_id}`))) dialog.close();
        },
        h("p", {}, t("people.remove_about"), " ", data(person.name)),
        h("button", { class: "danger" }, t("people.remove")),
      ),
    );
  }

  await ask();
  return {};
}

const unseen = ({ name }) => h("span", { class: "unseen" }, " ", data(name));

function asking(title, content) {
  const dialog = h("dialog", {
    class: "sheet",
    "aria-labelledby": "asked",
    on: { close: () => dialog.remove() },
  });
  fill(
    dialog,
    h("h2", { id: "asked" }, title),
    content(dialog),
    h("button", { class: "plain", on: { click: () => dialog.close() } }, t("act.cancel")),
  );
  document.body.append(dialog);
  dialog.showModal();
}

function editor(person, act, isNew = false) {
  const name = line({ value: person.name ?? "", required: true, maxlength: 200, translate: "no" });
  const roles = boxes(
    t("people.roles"),
    ROLES.map((role) => [role, term("role_of", role)]),
    person.roles ?? ["reviewer"],
  );
  const tenants = line({ value: (person.tenants ?? ["*"]).join(" "), translate: "no" });
  const languages = line({ value: (person.languages ?? ["*"]).join(" "), translate: "no" });
  const tool = h("input", { type: "checkbox" });
  const words = (text) => text.split(/[\s,]+/).filter(Boolean);
  return form(
    { class: "editor" },
    () =>
      act({
        name: name.value.trim(),
        roles: valuesOf(roles),
        tenants: words(tenants.value),
        languages: words(languages.value),
        is_tool: tool.checked,
      }),
    isNew && field(t("people.name"), name),
    roles,
    field(t("people.tenants"), tenants, t("people.tenants_about")),
    field(t("people.languages"), languages, t("people.languages_about")),
    isNew && h("label", { class: "line" }, tool, h("span", {}, t("people.is_tool"))),
    h("button", { class: "primary" }, t(isNew ? "people.add" : "people.save")),
  );
}
