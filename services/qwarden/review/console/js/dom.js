/** Elements. What comes from outside can only ever become text: there is no way to give markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element with properties and children. `class` may be a list of which the false ones are left
 * out; `on` holds listeners; true writes an empty attribute, and false or null none.
 */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** The same for what is drawn. */
export function drawn(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

/** Text of people, producers or models: browsers do not send it away for translation, and each
 * piece is written in its own direction. */
export function data(value, tag = "span", properties = {}) {
  return h(tag, { translate: "no", dir: "auto", ...properties }, value);
}

/** Puts other children into an element. */
export function fill(element, ...children) {
  element.replaceChildren(...nodes(children));
  return element;
}

/** A key as it stands on the keyboard. */
export function key(name) {
  return h("kbd", { translate: "no" }, name);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) {
        element.addEventListener(event, listener);
      }
    } else if (name === "class") {
      element.setAttribute("class", [value].flat().filter(Boolean).join(" "));
    } else if (name === "value" || name === "checked" || name === "disabled") {
      element[name] = value;
    } else {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...nodes(children));
  return element;
}

function nodes(children) {
  return children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
}
