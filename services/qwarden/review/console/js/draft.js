/** The decision that a person is about to make of one item. Pure: each function gives a new one. */

export const ACTIONS = ["allow", "disclaim", "block"];
export const OWN = "";

/** The clauses that can be named: those of the tenant's policies, and before them the one that the
 * verdict's rule named, where the policies have changed since. */
export function clausesOf({ verdict, clauses }) {
  const named = verdict.notice;
  const isThere = clauses.some(
    (one) => one.ground === named?.ground && one.clause === named?.clause,
  );
  return named && !isThere ? [named, ...clauses] : clauses;
}

/** Nothing said yet. The categories are the guard's until the person says others, and the clause is
 * the one that the policy's rule named. */
export function begun(item) {
  const { verdict } = item;
  const named = verdict.notice;
  const clauses = clausesOf(item);
  const clause =
    clauses.find((one) => one.ground === named?.ground && one.clause === named?.clause) ??
    clauses[0] ??
    null;
  return {
    action: null,
    reason: null,
    words: "",
    ground: clause?.ground ?? "terms",
    clause: clause?.clause ?? "",
    categories: [...(verdict.categories ?? [])],
    override: false,
  };
}

/** With an action; a reason of another action's list is dropped. */
export function acting(draft, action, reasons) {
  const keeps = draft.reason === OWN || reasons[action].includes(draft.reason);
  return { ...draft, action, reason: keeps ? draft.reason : null };
}

/** With the next clause of the list after the one that is chosen. */
export function nextClause(draft, clauses) {
  if (!clauses.length) return draft;
  const at = clauses.findIndex((one) => one.ground === draft.ground && one.clause === draft.clause);
  const { ground, clause } = clauses[(at + 1) % clauses.length];
  return { ...draft, ground, clause };
}

/** What still lacks: `action`, `reason`, `words` or `clause`; null where it can be sent. */
export function lacking(draft) {
  if (!draft.action) return "action";
  if (draft.reason === null) return "reason";
  if (draft.reason === OWN && !draft.words.trim()) return "words";
  if (draft.action !== "allow" && !draft.clause.trim()) return "clause";
  return null;
}

/** What is sent. */
export function said(draft) {
  const restricts = draft.action !== "allow";
  return {
    action: draft.action,
    categories: restricts ? draft.categories : [],
    reason: draft.reason === OWN ? draft.words.trim() : draft.reason,
    ground: restricts ? draft.ground : null,
    clause: restricts ? draft.clause.trim() : null,
    override: draft.override,
  };
}
