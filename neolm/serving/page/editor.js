/** A field to write a new version of a piece in, where the piece stands. */

import { button, element } from "./element.js";

/**
 * @param {{text: string, label: string, save: string, done: (text: string|null) => void}} options `done` gets null
 *   if it was put away
 * @returns {HTMLElement}
 */
export function editor({ text, label, save, done }) {
  const field = element("textarea", {
    class: "editor-field",
    rows: "3",
    "aria-label": label,
    dir: "auto",
    spellcheck: "false",
  });
  field.value = text;
  const fit = () => {
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight + 2, window.innerHeight * 0.6)}px`;
  };
  const finish = () => done(field.value);
  field.addEventListener("input", fit);
  field.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape") {
      event.stopPropagation();
      done(null);
    } else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      finish();
    }
  });
  const made = element(
    "div",
    { class: "editor" },
    field,
    element(
      "div",
      { class: "editor-actions" },
      button("Cancel", { press: () => done(null) }),
      button(save, { class: "button-main", press: finish }),
    ),
  );
  requestAnimationFrame(() => {
    fit();
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  });
  return made;
}
