/** Why an answer failed, with buttons to retry or to enter an API key. */

import { button, element } from "./dom.js";
import { errorText } from "./server.js";

export class ErrorView {
  constructor(message, actions) {
    Object.assign(this, { message, timer: 0, shown: null });
    this.text = element("p");
    // `aria-disabled` and not `disabled`: a disabled button would lose the focus.
    this.retry = button("Try again", {
      icon: "refresh",
      data: { action: "retry" },
      onClick: () => {
        if (this.retry.getAttribute("aria-disabled") !== "true") actions.retry(message);
      },
    });
    this.key = button("Enter the API key", { class: "button-main", onClick: () => actions.enterKey(message) });
    this.element = element(
      "div",
      { class: "error", hidden: true },
      this.text,
      element("div", { class: "error-actions" }, this.key, this.retry),
    );
  }

  update() {
    const { state, error = { kind: "server_error", message: "" } } = this.message;
    const failed = state === "failed";
    this.element.hidden = !failed;
    if (!failed || error === this.shown) return;
    this.shown = error;
    this.text.textContent = errorText(error);
    this.key.hidden = error.kind !== "unauthorized";
    this.retry.hidden = error.kind === "context_length"; // a retry would fail again
    this.#disableUntil(Date.now() + (error.retryAfter ?? 0) * 1000);
  }

  /** Disables the retry button until `time` and shows the remaining seconds. */
  #disableUntil(time) {
    clearInterval(this.timer);
    const update = () => {
      const seconds = Math.ceil((time - Date.now()) / 1000);
      this.retry.setAttribute("aria-disabled", String(seconds > 0));
      this.retry.querySelector(".button-text").textContent = seconds > 0 ? `Try again in ${seconds} s` : "Try again";
      if (seconds <= 0) clearInterval(this.timer);
    };
    this.timer = setInterval(update, 500);
    update();
  }
}
