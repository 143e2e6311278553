/** A user message, shown as it was typed. */

import { copyText } from "./clipboard.js";
import { button, element } from "./dom.js";
import { editor } from "./editor.js";
import { Versions } from "./versions.js";

export class UserMessageView {
  /** @param {Message} message @param {Object} context of the conversation view */
  constructor(message, { actions, conversation }) {
    Object.assign(this, { message, actions, conversation });
    const isCompletion = conversation.mode === "completion";
    this.body = element("div", { class: isCompletion ? "passage user-text" : "user-text" }, message.text);
    this.versions = new Versions(isCompletion ? "prompt" : "message", actions.show);
    const copy = button("Copy", {
      icon: "copy",
      text: false,
      data: { action: "copy-message" },
      onClick: () => copyText(message.text, copy),
    });
    this.editButton = button("Edit", {
      icon: "edit",
      text: false,
      data: { action: "edit-message" },
      onClick: () => this.#edit(),
    });
    this.foot = element(
      "div",
      { class: "turn-foot" },
      element("div", { class: "tools" }, this.versions.element, copy, this.editButton),
    );
    this.element = element(
      "article",
      { class: "turn turn-user", data: { message: message.id } },
      element("h3", { class: "visually-hidden" }, isCompletion ? "Prompt" : "You"),
      this.body,
      this.foot,
    );
  }

  /** @param {boolean} full whether anything but a growing text may have changed */
  update(full) {
    if (full) this.versions.update(this.message, this.conversation.siblings(this.message));
  }

  #edit() {
    const { message } = this;
    this.foot.hidden = true;
    this.element.classList.add("editing");
    const field = editor({
      text: message.text,
      label: "New version of your message",
      save: "Send",
      onDone: (text) => {
        this.foot.hidden = false;
        this.element.classList.remove("editing");
        field.replaceWith(this.body);
        if (text?.trim() && text !== message.text) this.actions.edit(message, text, "edit-message");
        else this.editButton.focus();
      },
    });
    this.body.replaceWith(field);
  }
}
