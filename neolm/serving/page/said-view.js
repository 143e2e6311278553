/** What the person said, drawn as it was typed. */

import { copyText } from "./clipboard.js";
import { editor } from "./editor.js";
import { button, element } from "./element.js";
import { Versions } from "./versions.js";

export class SaidView {
  /** @param {import("./conversation.js").Piece} piece @param {Object} context the thread's */
  constructor(piece, context) {
    Object.assign(this, { piece, context });
    const { actions, conversation } = context;
    const isText = conversation.mode === "completion";
    this.body = element("div", { class: isText ? "passage said-text" : "said-text" }, piece.text);
    this.versions = new Versions(isText ? "beginning" : "message", actions.show);
    const copy = button("Copy", {
      icon: "copy",
      text: false,
      data: { action: "copy-said" },
      press: () => copyText(piece.text, copy),
    });
    const edit = button("Edit", { icon: "edit", text: false, data: { action: "edit-said" }, press: () => this.edit() });
    this.foot = element(
      "div",
      { class: "turn-foot" },
      element("div", { class: "tools" }, this.versions.element, copy, edit),
    );
    this.element = element(
      "article",
      { class: "turn turn-said", data: { piece: piece.id } },
      element("h3", { class: "visually-hidden" }, isText ? "You began" : "You said"),
      this.body,
      this.foot,
    );
  }

  /** @param {boolean} whole */
  update(whole) {
    if (whole) this.versions.update(this.piece, this.context.conversation.siblings(this.piece));
  }

  edit() {
    const {
      piece,
      context: { actions },
    } = this;
    this.foot.hidden = true;
    this.element.classList.add("editing");
    const field = editor({
      text: piece.text,
      label: "New version of your message",
      save: "Send",
      done: (text) => {
        this.foot.hidden = false;
        this.element.classList.remove("editing");
        field.replaceWith(this.body);
        if (text !== null && text.trim() !== "" && text !== piece.text) actions.edit(piece, text, "edit-said");
        else this.element.querySelector('[data-action="edit-said"]').focus();
      },
    });
    this.body.replaceWith(field);
  }
}
