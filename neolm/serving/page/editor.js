/** A text field for a new version of a message, shown in the message's place. */

import { button, element } from "./dom.js";

/**
 * @param {{text: string, label: string, save: string, onDone: (text: string|null) => void}} options `onDone` gets null
 *   if the edit was cancelled
 * @returns {HTMLElement}
 */
export function editor({ text, label, save, onDone }) {
  const field = element("textarea", {
    class: "editor-field",
    rows: "3",
    "aria-label": label,
    dir: "auto",
    spellcheck: "false",
  });
  field.value = text;
  const fitHeight = () => {
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight + 2, window.innerHeight * 0.6)}px`;
  };
  field.addEventListener("input", fitHeight);
  field.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape") {
      event.stopPropagation();
      onDone(null);
    } else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      onDone(field.value);
    }
  });
  queueMicrotask(() => {
    // The caller has inserted the field by now.
    fitHeight();
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  });
  return element(
    "div",
    { class: "editor" },
    field,
    element(
      "div",
      { class: "editor-actions" },
      button("Cancel", { onClick: () => onDone(null) }),
      button(save, { class: "button-main", onClick: () => onDone(field.value) }),
    ),
  );
}
