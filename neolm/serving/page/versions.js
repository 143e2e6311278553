/** The arrows between the versions of a piece: ‹ 2/3 ›. */

import { button, element, setText } from "./element.js";

export class Versions {
  /** @param {string} what the versions are of, for their name @param {(piece: Object) => void} show */
  constructor(what, show) {
    this.show = show;
    // `aria-disabled` and not `disabled`: a disabled button would lose the focus at the end of the row.
    this.before = button(`Version before (${what})`, {
      icon: "left",
      text: false,
      data: { action: `before-${what}` },
      press: () => this.#step(-1),
    });
    this.after = button(`Version after (${what})`, {
      icon: "right",
      text: false,
      data: { action: `after-${what}` },
      press: () => this.#step(1),
    });
    this.count = element("span", { class: "versions-count" });
    this.element = element(
      "span",
      { class: "versions", role: "group", "aria-label": `Versions (${what})` },
      this.before,
      this.count,
      this.after,
    );
  }

  /** @param {Object} piece @param {Object[]} siblings */
  update(piece, siblings) {
    this.siblings = siblings;
    this.at = siblings.indexOf(piece);
    this.element.hidden = siblings.length < 2;
    setText(this.count, `${this.at + 1}/${siblings.length}`);
    this.before.setAttribute("aria-disabled", String(this.at === 0));
    this.after.setAttribute("aria-disabled", String(this.at === siblings.length - 1));
  }

  #step(by) {
    const next = this.siblings[this.at + by];
    if (next) this.show(next);
  }
}
