/** Modal dialogs. The <dialog> element traps the focus, closes with Esc and restores the focus. */

import { button, element } from "./dom.js";
import { SHORTCUTS } from "./shortcuts.js";

let count = 0;

/**
 * Opens a dialog and waits until it is closed.
 *
 * @template T
 * @param {Object} options
 * @param {string} options.title
 * @param {(close: (value?: T) => void) => Array<Node|string|null>} options.content gets a function that closes it
 * @param {(close: (value?: T) => void) => Array<Node|null>} [options.actions] the buttons at the bottom
 * @param {(close: (value?: T) => void) => void} [options.submit] called when the user presses Enter in a field
 * @param {boolean} [options.wide]
 * @returns {Promise<T|null>} the value passed to `close`; null if the dialog was dismissed
 */
export function openDialog({ title, content, actions, submit, wide = false }) {
  return new Promise((resolve) => {
    count += 1;
    const id = `dialog-title-${count}`;
    let answer = null;
    const close = (value = null) => {
      answer = value;
      dialog.close();
    };
    const form = element(
      "form",
      {
        class: "dialog-body",
        on: {
          submit: (event) => {
            event.preventDefault();
            submit?.(close);
          },
        },
      },
      ...content(close),
      actions ? element("div", { class: "dialog-actions" }, ...actions(close)) : null,
    );
    const dialog = element(
      "dialog",
      {
        class: wide ? "dialog dialog-wide" : "dialog",
        "aria-labelledby": id,
        on: {
          close: () => {
            dialog.remove();
            resolve(answer);
          },
          // The content fills the dialog, so only a click on the backdrop has the dialog as target.
          pointerdown: (event) => event.target === dialog && close(),
        },
      },
      element(
        "div",
        { class: "dialog-head" },
        element("h2", { id }, title),
        button("Close", { icon: "close", text: false, onClick: () => close() }),
      ),
      form,
    );
    document.body.append(dialog);
    dialog.showModal();
    // Focus the first field or the main action, not the close button.
    (form.querySelector("input, textarea") ?? form.querySelector(".button-main"))?.focus();
  });
}

/** @returns {Promise<boolean>} */
export async function confirm(title, text, yes, { danger = false } = {}) {
  const chosen = await openDialog({
    title,
    content: () => [element("p", {}, text)],
    actions: (close) => [
      button("Cancel", { onClick: () => close(false) }),
      button(yes, { class: danger ? "button-danger button-main" : "button-main", onClick: () => close(true) }),
    ],
  });
  return chosen === true;
}

/** @returns {Promise<string|null>} */
export function askText(title, label, value, yes) {
  const field = element("input", { type: "text", id: "dialog-field", value, maxlength: "200", autocomplete: "off" });
  return openDialog({
    title,
    content: () => [element("label", { for: "dialog-field" }, label), field],
    actions: (close) => [
      button("Cancel", { onClick: () => close() }),
      button(yes, { class: "button-main", type: "submit" }),
    ],
    submit: (close) => close(field.value),
  });
}

/**
 * Asks for the API key.
 *
 * @param {boolean} refused whether the server refused a key
 * @returns {Promise<{key: string, remember: boolean}|null>}
 */
export function askApiKey(refused) {
  const field = element("input", {
    type: "password",
    id: "key",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    "aria-describedby": "key-help",
  });
  const remember = element("input", { type: "checkbox", id: "remember" });
  return openDialog({
    title: "This server requires an API key",
    content: () => [
      element(
        "p",
        { id: "key-help" },
        refused
          ? "The server refused this API key. Check it, or ask the operator of the server."
          : "Ask the operator of the server for a key. It is sent to this server only.",
      ),
      element("label", { for: "key" }, "API key"),
      field,
      element("label", { class: "check" }, remember, "Remember on this device"),
      element("p", { class: "muted" }, "Otherwise the key is removed when this tab is closed."),
    ],
    actions: (close) => [
      button("Not now", { onClick: () => close() }),
      button("Use key", { class: "button-main", type: "submit" }),
    ],
    submit: (close) => field.value.trim() && close({ key: field.value.trim(), remember: remember.checked }),
  });
}

export function showHelp(version) {
  return openDialog({
    title: "Help",
    content: () => [
      element("h3", {}, "Keyboard"),
      element(
        "dl",
        { class: "shortcuts" },
        ...SHORTCUTS.map(([keys, what]) =>
          element(
            "div",
            {},
            element(
              "dt",
              {},
              ...keys
                .split(" + ")
                .flatMap((key, index) => (index ? [" + ", element("kbd", {}, key)] : [element("kbd", {}, key)])),
            ),
            element("dd", {}, what),
          ),
        ),
      ),
      element("h3", {}, "Branches"),
      element(
        "p",
        {},
        "When you regenerate an answer or edit a message, a new branch starts there. The arrows around “2/3” switch ",
        "between the versions; none is lost.",
      ),
      element("h3", {}, "Data"),
      element(
        "p",
        {},
        "Conversations and settings are stored only in this browser. Your messages are sent to ",
        element("strong", {}, window.location.host),
        ", where the model runs. Ratings are sent only if you have switched sharing on.",
      ),
      element(
        "p",
        { class: "muted" },
        `NeoLM ${version}. For programs: `,
        element("a", { href: "/docs", target: "_blank", rel: "noopener" }, "the API of this server"),
        ".",
      ),
    ],
  });
}
