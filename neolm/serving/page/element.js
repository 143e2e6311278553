/**
 * Builds elements. Strings become text nodes, always: there is no way through here for markup to come alive.
 */

/**
 * @param {string} tag
 * @param {Object<string, any>} [properties] attributes; `on` holds listeners and `data` the data-* values.
 *   null, undefined and false leave an attribute out; true makes it an empty one.
 * @param {...(Node|string|null|undefined|false)} children
 * @returns {HTMLElement}
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    } else if (name === "data") {
      Object.assign(made.dataset, value);
    } else if (name.startsWith("on") || name === "style") {
      throw new Error(`${name} is no attribute for this page`);
    } else {
      made.setAttribute(name, value === true ? "" : value);
    }
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/**
 * A button with a name, and an icon or a text to see.
 *
 * @param {string} label its name; also what it says on hover where it shows an icon only
 * @param {{icon?: string, text?: string|false, press?: (event: Event) => void, [attribute: string]: any}} options
 *   `text` is false for an icon alone; the label if not given.
 * @returns {HTMLButtonElement}
 */
export function button(label, { icon: iconName, text = label, press, class: className = "", ...rest } = {}) {
  const named = text === label ? {} : { "aria-label": label, title: label };
  return element(
    "button",
    {
      type: "button",
      class: `button ${text === false ? "button-icon" : ""} ${className}`.trim(),
      ...named,
      ...rest,
      on: press ? { click: press } : null,
    },
    iconName ? icon(iconName) : null,
    text === false ? null : element("span", { class: "button-text" }, text),
  );
}

/** Sets what is seen, if it is not that already: a node that does not change costs nothing. */
export function setText(made, text) {
  if (made.textContent !== text) made.textContent = text;
}

/** Gives a button another name. */
export function rename(made, label) {
  const text = made.querySelector(".button-text");
  if (text && !made.hasAttribute("aria-label")) {
    setText(text, label);
  } else if (made.getAttribute("aria-label") !== label) {
    made.setAttribute("aria-label", label);
    made.title = label;
  }
}

const PATHS = {
  menu: "M3 5.5h14M3 10h9M3 14.5h14",
  plus: "M10 4v12M4 10h12",
  sliders: "M3 6h7M14 6h3M3 14h3M10 14h7M10 6a2 2 0 1 0 4 0 2 2 0 1 0-4 0M6 14a2 2 0 1 0 4 0 2 2 0 1 0-4 0",
  info: "M10 9v5M10 6.2v.1M2.8 10a7.2 7.2 0 1 0 14.4 0 7.2 7.2 0 1 0-14.4 0",
  help: "M7.7 7.8a2.3 2.3 0 1 1 3.4 2c-.7.4-1.1.8-1.1 1.7M10 14v.1M2.8 10a7.2 7.2 0 1 0 14.4 0 7.2 7.2 0 1 0-14.4 0",
  send: "M10 16V4.5M5 9l5-5 5 5",
  stop: "M6 6h8v8H6z",
  copy: "M7.5 7.5h8.8v8.8H7.5zM4 12.5h-.3v-9h9v.3",
  check: "M4 10.5l4 4 8-9",
  edit: "M4 16l.6-3.2L13.4 4l2.6 2.6-8.8 8.8zM11.5 6l2.5 2.5",
  again: "M16 10a6 6 0 1 1-1.8-4.3L16.5 8M16.5 4v4h-4",
  up: "M6.3 9v7H3.6V9zM6.3 9l3-6c1.4 0 2.1 1 1.8 2.3L10.5 8H15a1.5 1.5 0 0 1 1.5 1.8l-.9 4.9A1.6 1.6 0 0 1 14 16H6.3",
  down: "M6.3 11V4H3.6v7zM6.3 11l3 6c1.4 0 2.1-1 1.8-2.3l-.6-2.7H15a1.5 1.5 0 0 0 1.5-1.8l-.9-4.9A1.6 1.6 0 0 0 14 4H6.3",
  left: "M12 5l-5 5 5 5",
  right: "M8 5l5 5-5 5",
  more: "M5 10h.1M10 10h.1M15 10h.1",
  close: "M5 5l10 10M15 5L5 15",
  columns: "M3.5 4.5h13v11h-13zM10 4.5v11",
  chances: "M4 16V9M8 16V4M12 16v-5M16 16v-2",
  bottom: "M10 4v11.5M5 11l5 5 5-5",
};

/** @returns {SVGElement} a drawing that says nothing to a screen reader */
export function icon(name) {
  const namespace = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(namespace, "svg");
  drawing.setAttribute("viewBox", "0 0 20 20");
  drawing.setAttribute("class", `icon icon-${name}`);
  drawing.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(namespace, "path");
  path.setAttribute("d", PATHS[name]);
  drawing.append(path);
  return drawing;
}
