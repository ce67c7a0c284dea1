/** The service's REST interface: JSON both ways, and refusals as errors that say what to do. */

import { learn } from "./time.js";

let csrf = "";

/** What the service, or the way to it, refused. `code` is a word of the interface; `detail` the
 * service's sentence; `holder` the pseudonym of who has the item. */
export class Refused extends Error {
  constructor(status, { code, detail, holder }) {
    super(code);
    this.status = status;
    this.code = code;
    this.detail = detail ?? "";
    this.holder = holder ?? null;
  }
}

/** Takes the token that shows that a change comes from this page. */
export function trust(token) {
  csrf = token;
}

export const get = (path, query = {}) => call("GET", path + asked(query));
export const post = (path, body = {}) => call("POST", path, body);
export const put = (path, body) => call("PUT", path, body);
export const patch = (path, body) => call("PATCH", path, body);
export const remove = (path, query = {}) => call("DELETE", path + asked(query));

/** A query of what is given; empty values are left out. */
export function asked(query) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

async function call(method, path, body) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-CSRF-Token"] = csrf;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(`/v1${path}`, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
    });
  } catch {
    throw new Refused(0, { code: "unreachable" });
  }
  learn(answer.headers.get("Date"));
  if (answer.status === 204) return null;
  const said = await answer.json().catch(() => ({ code: "unreadable" }));
  if (answer.ok) return said;
  throw new Refused(answer.status, said);
}
