/** Arrows between the versions of a message: ‹ 2/3 ›. */

import { button, element, setText } from "./dom.js";

export class Versions {
  /** @param {string} noun what has versions, for the accessible names @param {(message: Object) => void} show */
  constructor(noun, show) {
    this.show = show;
    const arrow = (label, icon, action, step) =>
      button(`${label} version (${noun})`, {
        icon,
        text: false,
        data: { action: `${action}-${noun}` },
        onClick: () => {
          const next = this.siblings[this.index + step];
          if (next) this.show(next);
        },
      });
    this.previous = arrow("Previous", "left", "previous", -1);
    this.next = arrow("Next", "right", "next", 1);
    this.count = element("span", { class: "versions-count" });
    this.element = element(
      "span",
      { class: "versions", role: "group", "aria-label": `Versions (${noun})` },
      this.previous,
      this.count,
      this.next,
    );
  }

  update(message, siblings) {
    this.siblings = siblings;
    this.index = siblings.indexOf(message);
    this.element.hidden = siblings.length < 2;
    setText(this.count, `${this.index + 1}/${siblings.length}`);
    // `aria-disabled` and not `disabled`: a disabled button would lose the focus.
    this.previous.setAttribute("aria-disabled", String(this.index === 0));
    this.next.setAttribute("aria-disabled", String(this.index === siblings.length - 1));
  }
}
