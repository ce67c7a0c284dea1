/** What happens while one looks: the service's events as they come. */

/**
 * Follows the events. `heard` has a function for each: `queues`, `item` and `lease` with the
 * event's data, `state` with whether the line stands. The browser connects anew by itself.
 */
export function follow(heard) {
  const source = new EventSource("/v1/live");
  source.addEventListener("open", () => heard.state(true));
  source.addEventListener("error", () => heard.state(false));
  for (const name of ["queues", "item", "lease"]) {
    source.addEventListener(name, (event) => heard[name](JSON.parse(event.data)));
  }
  return source;
}
