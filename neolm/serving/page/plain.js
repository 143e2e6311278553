/** A text as it is, every space and line of it. */

import { element } from "./element.js";

export class PlainView {
  constructor() {
    this.text = document.createTextNode("");
    this.element = element("span", { class: "continued" }, this.text);
  }

  /** @param {string} text what was there, and more of it */
  update(text) {
    const { data } = this.text;
    if (text === data) return;
    if (text.startsWith(data)) this.text.appendData(text.slice(data.length));
    else this.text.data = text;
  }
}
