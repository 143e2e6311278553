/** Dark or light: as the system has it, or as the person chose. */

import { element } from "./element.js";

/** @param {"system"|"light"|"dark"} theme */
export function applyTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

/**
 * A row of choices of which one holds.
 *
 * @param {HTMLElement} root a fieldset
 * @param {[string, Array<Node|string>][]} choices value and what is seen
 * @param {(value: string) => void} chosen
 * @returns {(value: string) => void} shows which one holds
 */
export function segments(root, choices, chosen) {
  const inputs = choices.map(([value, words]) => {
    const input = element("input", {
      type: "radio",
      name: root.id,
      value,
      class: "visually-hidden",
      on: { change: () => chosen(value) },
    });
    root.append(element("label", { class: "segment" }, input, element("span", {}, ...words)));
    return input;
  });
  return (value) =>
    inputs.forEach((input) => {
      input.checked = input.value === value;
    });
}
