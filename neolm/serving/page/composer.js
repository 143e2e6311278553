/** The message box: grows with its text, sends with Enter, and stops generation. */

import { icon, setText } from "./dom.js";

const DRAFT_KEY = "draft";

export class Composer {
  /**
   * @param {HTMLFormElement} form @param {BrowserStorage} storage of this tab
   * @param {{send: (text: string) => boolean, stop: () => void, editLast: () => boolean}} actions
   */
  constructor(form, storage, actions) {
    Object.assign(this, { form, storage, actions, busy: false, emptyAllowed: false });
    this.field = form.querySelector("textarea");
    this.button = form.querySelector(".send");
    const draft = storage.read(DRAFT_KEY);
    if (typeof draft === "string") this.field.value = draft;
    this.field.addEventListener("input", () => this.#onInput());
    this.field.addEventListener("keydown", (event) => this.#onKey(event));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.busy) actions.stop();
      else this.#send();
    });
    form.addEventListener(
      "pointerdown",
      ({ target }) => target === form && requestAnimationFrame(() => this.field.focus()),
    );
    this.#onInput();
  }

  #onKey(event) {
    if (event.isComposing || event.keyCode === 229) return; // the input method handles Enter
    if (event.key === "Enter" && !event.shiftKey && !event.altKey && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      if (!this.busy) this.#send();
    } else if (event.key === "ArrowUp" && this.field.value === "" && !this.busy && this.actions.editLast()) {
      event.preventDefault();
    }
  }

  #onInput() {
    const { field } = this;
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight, window.innerHeight * 0.4)}px`;
    if (field.value) this.storage.tryWrite(DRAFT_KEY, field.value);
    else this.storage.remove(DRAFT_KEY);
    this.#updateButton();
  }

  get #sendable() {
    return this.field.value.trim() !== "" || (this.emptyAllowed && this.field.value === "");
  }

  #send() {
    if (this.#sendable && this.actions.send(this.field.value)) this.set("");
  }

  set(text) {
    this.field.value = text;
    this.#onInput();
  }

  focus() {
    this.field.focus();
    this.field.setSelectionRange(this.field.value.length, this.field.value.length);
  }

  /** @param {{busy: boolean, isCompletion: boolean, started: boolean, model: string}} state */
  update({ busy, isCompletion, started, model }) {
    Object.assign(this, { busy, isCompletion, emptyAllowed: isCompletion && started });
    this.form.querySelector("label").textContent = !isCompletion ? "Message" : started ? "Text to add" : "Prompt";
    this.field.placeholder = !isCompletion
      ? `Message ${model || "the model"}…`
      : started
        ? "Add text, or leave empty to continue"
        : "Write the beginning of a text…";
    this.#updateButton();
  }

  #updateButton() {
    const label = this.busy ? "Stop" : this.isCompletion ? "Continue" : "Send";
    if (this.button.dataset.shows !== label) {
      this.button.dataset.shows = label;
      setText(this.button.querySelector(".button-text"), label);
      this.button.querySelector("svg").replaceWith(icon(this.busy ? "stop" : "send"));
    }
    this.button.setAttribute("aria-disabled", String(!this.busy && !this.#sendable));
  }
}
