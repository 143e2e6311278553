/** Short messages above the composer that stay until they are put away, one of a kind at a time. */

import { button, element } from "./element.js";

export class Notices {
  /** @param {HTMLElement} root a live region */
  constructor(root) {
    this.root = root;
    this.shown = new Map();
  }

  /**
   * @param {string} kind a new one takes the place of the last of its kind
   * @param {string} text
   * @param {HTMLElement[]} [actions]
   */
  show(kind, text, actions = []) {
    this.hide(kind);
    const made = element(
      "div",
      { class: "notice" },
      element("p", {}, text),
      ...actions,
      button("Put away", { icon: "close", text: false, press: () => this.hide(kind, true) }),
    );
    this.shown.set(kind, made);
    this.root.append(made);
  }

  /** Whether this is what is being said. */
  has(kind, text) {
    return this.shown.get(kind)?.firstChild.textContent === text;
  }

  hide(kind, byHand = false) {
    const made = this.shown.get(kind);
    this.shown.delete(kind);
    made?.remove();
    if (byHand) document.getElementById("message").focus();
  }
}
