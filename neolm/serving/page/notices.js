/** Short messages above the message box, one per kind. Each stays until it is dismissed. */

import { button, element } from "./dom.js";

export class Notices {
  /** @param {HTMLElement} root a live region */
  constructor(root) {
    this.root = root;
    this.shown = new Map();
  }

  /**
   * @param {string} kind replaces the notice of the same kind
   * @param {string} text
   * @param {HTMLElement[]} [actions]
   */
  show(kind, text, actions = []) {
    this.hide(kind);
    const dismiss = button("Dismiss", { icon: "close", text: false, onClick: () => this.hide(kind, true) });
    const notice = element("div", { class: "notice" }, element("p", {}, text), ...actions, dismiss);
    this.shown.set(kind, notice);
    this.root.append(notice);
  }

  /** Whether this notice is shown already. */
  has(kind, text) {
    return this.shown.get(kind)?.firstChild.textContent === text;
  }

  /** @param {boolean} [moveFocus] to the message box, because the focus was inside the notice */
  hide(kind, moveFocus = false) {
    this.shown.get(kind)?.remove();
    this.shown.delete(kind);
    if (moveFocus) document.getElementById("message").focus();
  }
}
