/** What the console says, in the language of the person who reads it: one file per language. */

export const LANGUAGES = ["en", "de"];

let said = {};
let spoken = "en";
/** How this person's browser writes the language: in en-GB the day comes before the month. */
let local = "en";

/** The language of this person: what they chose, else the first of the browser's that we have. */
export function languageFor(chosen) {
  const wished = [chosen, ...navigator.languages].filter(Boolean);
  const known = wished.map((tag) => tag.toLowerCase().split("-")[0]);
  return known.find((tag) => LANGUAGES.includes(tag)) ?? "en";
}

/** Reads the strings of a language; every later `t` says them. */
export async function speak(language) {
  const answer = await fetch(`/console/strings/${language}.json`);
  said = await answer.json();
  spoken = language;
  local = navigator.languages.find((tag) => tag.toLowerCase().split("-")[0] === language) ?? language;
  document.documentElement.lang = language;
}

/** A string with its values put in; `count` chooses between `key.one` and `key.other`. */
export function t(key, values = {}) {
  const number = values.count;
  const form = number === undefined ? key : `${key}.${new Intl.PluralRules(spoken).select(number)}`;
  const words = said[form] ?? said[`${key}.other`] ?? said[key] ?? key;
  return words.replace(/\{(\w+)\}/g, (whole, name) =>
    name in values ? written(values[name]) : whole,
  );
}

/** Our name of a word that stands in records, such as a category; else the word itself. */
export function term(group, word) {
  return said[`${group}.${word}`] ?? String(word).replaceAll("_", " ");
}

/** Whether we have a string of our own for it. */
export function isKnown(key) {
  return key in said;
}

/** A number as this language writes it. */
export function number(value, digits = 0) {
  return new Intl.NumberFormat(local, { maximumFractionDigits: digits }).format(value);
}

/** A share from 0 to 1, in per cent. */
export function percent(share, digits = 0) {
  return new Intl.NumberFormat(local, {
    style: "percent",
    maximumFractionDigits: digits,
  }).format(share);
}

/** The name of a language in this one's words. */
export function languageName(tag) {
  if (!tag || tag === "und") return t("language.unknown");
  if (tag === "*") return t("language.every");
  try {
    return new Intl.DisplayNames(spoken, { type: "language" }).of(tag) ?? tag;
  } catch {
    return tag;
  }
}

/** A moment, seconds since 1970, as date and time of day. */
export function moment(at) {
  return new Intl.DateTimeFormat(local, { dateStyle: "medium", timeStyle: "short" }).format(
    at * 1000,
  );
}

/** A span of time that is over, such as "3 days ago". */
export function since(count, unit) {
  return new Intl.RelativeTimeFormat(local, { style: "short" }).format(-count, unit);
}

function written(value) {
  return typeof value === "number" ? number(value, 1) : String(value);
}
