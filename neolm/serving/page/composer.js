/** Where one writes: grows with the text, sends with Enter, and stops what is being written. */

import { icon, rename } from "./element.js";

const DRAFT = "draft";

export class Composer {
  /**
   * @param {HTMLFormElement} form @param {import("./store.js").Store} drafts
   * @param {{send: (text: string) => boolean, stop: () => void, editLast: () => boolean}} actions
   */
  constructor(form, drafts, actions) {
    Object.assign(this, { form, drafts, actions, busy: false, emptyAllowed: false });
    this.field = form.querySelector("textarea");
    this.button = form.querySelector(".send");
    const draft = drafts.read(DRAFT);
    if (typeof draft === "string") this.field.value = draft;
    this.field.addEventListener("input", () => this.#typed());
    this.field.addEventListener("keydown", (event) => this.#key(event));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.busy) actions.stop();
      else this.send();
    });
    form.addEventListener(
      "pointerdown",
      ({ target }) => target === form && requestAnimationFrame(() => this.field.focus()),
    );
    this.#typed();
  }

  #key(event) {
    if (event.isComposing || event.keyCode === 229) return; // Enter belongs to the input method
    if (event.key === "Enter" && !event.shiftKey && !event.altKey && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      if (!this.busy) this.send();
    } else if (event.key === "ArrowUp" && this.field.value === "" && !this.busy && this.actions.editLast()) {
      event.preventDefault();
    }
  }

  #typed() {
    const { field } = this;
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight, window.innerHeight * 0.4)}px`;
    if (field.value) {
      try {
        this.drafts.write(DRAFT, field.value);
      } catch {
        // A draft that cannot be kept is still in the field.
      }
    } else {
      this.drafts.remove(DRAFT);
    }
    this.#look();
  }

  send() {
    const text = this.field.value;
    if (text.trim() === "" && !(this.emptyAllowed && text === "")) return;
    if (this.actions.send(text)) this.set("");
  }

  /** @param {string} text */
  set(text) {
    this.field.value = text;
    this.#typed();
  }

  focus() {
    this.field.focus();
    this.field.setSelectionRange(this.field.value.length, this.field.value.length);
  }

  /** @param {{busy: boolean, isText: boolean, started: boolean, model: string}} state */
  update({ busy, isText, started, model }) {
    this.busy = busy;
    this.isText = isText;
    this.emptyAllowed = isText && started;
    const label = isText ? (started ? "Text to add" : "Text to begin with") : "Message";
    this.form.querySelector("label").textContent = label;
    this.field.placeholder = isText
      ? started
        ? "Add to the text, or leave this empty and let it go on"
        : "Begin a text…"
      : `Write to ${model || "the model"}…`;
    this.#look();
  }

  #look() {
    const name = this.busy ? "Stop" : this.isText ? "Continue" : "Send";
    if (this.button.dataset.shows !== name) {
      this.button.dataset.shows = name;
      rename(this.button, name);
      this.button.querySelector("svg").replaceWith(icon(this.busy ? "stop" : "send"));
    }
    const nothing = this.field.value.trim() === "" && !(this.emptyAllowed && this.field.value === "");
    this.button.setAttribute("aria-disabled", String(!this.busy && nothing));
  }
}
