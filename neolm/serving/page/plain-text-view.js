/** A text without formatting, every space and line break included. */

import { element } from "./dom.js";

export class PlainTextView {
  constructor() {
    this.text = document.createTextNode("");
    this.element = element("span", { class: "plain-text" }, this.text);
  }

  update(text) {
    const { data } = this.text;
    if (text === data) return;
    if (text.startsWith(data)) this.text.appendData(text.slice(data.length));
    else this.text.data = text;
  }
}
