/** Dialogs, on the browser's own <dialog>: it keeps the focus inside, closes with Esc and gives the focus back. */

import { button, element } from "./element.js";

let count = 0;

/**
 * Opens a dialog and waits for its end.
 *
 * @template T
 * @param {Object} options
 * @param {string} options.title
 * @param {(close: (value?: T) => void) => Array<Node|string|null>} options.content made with what closes it
 * @param {(close: (value?: T) => void) => Array<Node|null>} [options.actions] the buttons at its foot
 * @param {(close: (value?: T) => void) => void} [options.submit] what Enter in a field does
 * @param {boolean} [options.wide]
 * @returns {Promise<T|null>} what it was closed with; null if it was put away
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
            (submit ?? (() => {}))(close);
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
          // A press on what lies behind it; the dialog itself is filled by its content.
          pointerdown: (event) => event.target === dialog && close(),
        },
      },
      element(
        "div",
        { class: "dialog-head" },
        element("h2", { id }, title),
        button("Close", { icon: "close", text: false, press: () => close() }),
      ),
      form,
    );
    document.body.append(dialog);
    dialog.showModal();
    // The browser would take the closing button; a field to fill in, or the first action, is what it was opened for.
    (form.querySelector("[autofocus], input, textarea") ?? form.querySelector(".button-main"))?.focus();
  });
}

/** @returns {Promise<boolean>} */
export async function confirm(title, text, yes, { danger = false } = {}) {
  const chosen = await openDialog({
    title,
    content: () => [element("p", {}, text)],
    actions: (close) => [
      button("Cancel", { press: () => close(false) }),
      button(yes, { class: danger ? "button-danger button-main" : "button-main", press: () => close(true) }),
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
      button("Cancel", { press: () => close() }),
      button(yes, { class: "button-main", type: "submit" }),
    ],
    submit: (close) => close(field.value),
  });
}

/**
 * Asks for the server's key.
 *
 * @param {boolean} refused whether one was given already
 * @returns {Promise<{key: string, remember: boolean}|null>}
 */
export function askKey(refused) {
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
    title: "This server wants a key",
    content: () => [
      element(
        "p",
        { id: "key-help" },
        refused
          ? "The server did not accept this key. Check it, or ask whoever runs the server."
          : "Whoever runs the server can give you one. It is sent to this server only.",
      ),
      element("label", { for: "key" }, "Key"),
      field,
      element("label", { class: "check" }, remember, "Remember on this device"),
      element("p", { class: "muted" }, "Otherwise it is forgotten when this tab is closed."),
    ],
    actions: (close) => [
      button("Not now", { press: () => close() }),
      button("Use key", { class: "button-main", type: "submit" }),
    ],
    submit: (close) => field.value.trim() && close({ key: field.value.trim(), remember: remember.checked }),
  });
}

/** What can be done without a mouse. `Alt` is the key named Option on a Mac. */
export const SHORTCUTS = [
  ["Enter", "Send"],
  ["Shift + Enter", "New line"],
  ["Esc", "Stop the answer; close a dialog"],
  ["↑ in an empty box", "Edit your last message"],
  ["Alt + N", "New conversation"],
  ["Alt + R", "Answer again"],
  ["Alt + M", "To the message box"],
  ["Alt + P", "Probabilities on or off"],
  ["Alt + C", "Side by side on or off"],
  ["Alt + L", "List of conversations"],
  ["Alt + S", "Settings"],
  ["Alt + I", "About the model"],
  ["Alt + /", "This help"],
  ["← → Home End", "From token to token, where probabilities are shown"],
];

/** @param {string} version */
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
        "Answer again or edit anything, and a new branch begins there. The arrows beside “2/3” lead from one ",
        "version to the other; nothing is lost.",
      ),
      element("h3", {}, "What is kept where"),
      element(
        "p",
        {},
        "Your conversations and settings are kept in this browser, and nowhere else. What you write is sent to ",
        element("strong", {}, window.location.host),
        " so that the model can read it. Ratings are sent only if you have switched sharing on.",
      ),
      element(
        "p",
        { class: "muted" },
        `NeoLM ${version}. Programs can ask this server too: `,
        element("a", { href: "/docs", target: "_blank", rel: "noopener" }, "its API"),
        ".",
      ),
    ],
  });
}
