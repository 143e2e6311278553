/** Creates DOM elements. Strings always become text nodes, never markup. */

/**
 * @param {string} tag
 * @param {Object<string, any>} [properties] attributes; `on` holds event listeners and `data` the data-* attributes.
 *   null, undefined and false omit an attribute; true sets an empty one.
 * @param {...(Node|string|null|undefined|false)} children
 * @returns {HTMLElement}
 */
export function element(tag, properties = {}, ...children) {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) created.addEventListener(event, listener);
    } else if (name === "data") {
      Object.assign(created.dataset, value);
    } else if (name.startsWith("on") || name === "style") {
      throw new Error(`attribute ${name} is not allowed`);
    } else {
      created.setAttribute(name, value === true ? "" : value);
    }
  }
  created.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return created;
}

/**
 * A button with an icon, a text, or both.
 *
 * @param {string} label the accessible name; also the tooltip, unless it is the visible text
 * @param {{icon?: string, text?: string|false, onClick?: (event: Event) => void, [attribute: string]: any}} options
 *   `text` is the visible text; the label by default, false for an icon alone.
 * @returns {HTMLButtonElement}
 */
export function button(label, { icon: iconName, text = label, onClick, class: className = "", ...rest } = {}) {
  const names = text === label ? {} : { "aria-label": label, title: label };
  return element(
    "button",
    {
      type: "button",
      class: `button ${text === false ? "button-icon" : ""} ${className}`.trim(),
      ...names,
      ...rest,
      on: onClick ? { click: onClick } : null,
    },
    iconName ? icon(iconName) : null,
    text === false ? null : element("span", { class: "button-text" }, text),
  );
}

/** Sets the text if it differs: an unchanged node costs nothing. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** The icons' paths, on a grid of 20 by 20. */
const PATHS = {
  sliders: "M3 6h7M14 6h3M3 14h3M10 14h7M10 6a2 2 0 1 0 4 0 2 2 0 1 0-4 0M6 14a2 2 0 1 0 4 0 2 2 0 1 0-4 0",
  send: "M10 16V4.5M5 9l5-5 5 5",
  stop: "M6 6h8v8H6z",
  copy: "M7.5 7.5h8.8v8.8H7.5zM4 12.5h-.3v-9h9v.3",
  check: "M4 10.5l4 4 8-9",
  edit: "M4 16l.6-3.2L13.4 4l2.6 2.6-8.8 8.8zM11.5 6l2.5 2.5",
  refresh: "M16 10a6 6 0 1 1-1.8-4.3L16.5 8M16.5 4v4h-4",
  up: "M6.3 9v7H3.6V9zM6.3 9l3-6c1.4 0 2.1 1 1.8 2.3L10.5 8H15a1.5 1.5 0 0 1 1.5 1.8l-.9 4.9A1.6 1.6 0 0 1 14 16H6.3",
  down: "M6.3 11V4H3.6v7zM6.3 11l3 6c1.4 0 2.1-1 1.8-2.3l-.6-2.7H15a1.5 1.5 0 0 0 1.5-1.8l-.9-4.9A1.6 1.6 0 0 0 14 4H6.3",
  left: "M12 5l-5 5 5 5",
  right: "M8 5l5 5-5 5",
  more: "M5 10h.1M10 10h.1M15 10h.1",
  close: "M5 5l10 10M15 5L5 15",
};

/** @returns {SVGElement} an icon, hidden from screen readers */
export function icon(name) {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("class", `icon icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(namespace, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}
