/** What went wrong with an answer, in plain words, and a way on. */

import { button, element } from "./element.js";
import { explain } from "./server.js";

export class ProblemView {
  /** @param {import("./conversation.js").Piece} piece @param {Object} actions */
  constructor(piece, actions) {
    Object.assign(this, { piece, actions, timer: 0, shown: null });
    this.words = element("p");
    // `aria-disabled` while the server wants to be left alone: the button keeps its place in the order of Tab.
    this.retry = button("Try again", {
      icon: "again",
      class: "button-retry",
      data: { action: "retry" },
      press: () => {
        if (this.retry.getAttribute("aria-disabled") !== "true") actions.retry(piece);
      },
    });
    this.key = button("Enter the key", { class: "button-main", press: () => actions.key(piece) });
    this.element = element(
      "div",
      { class: "problem", hidden: true },
      this.words,
      element("div", { class: "problem-actions" }, this.key, this.retry),
    );
  }

  update() {
    const problem = this.piece.state === "failed" ? this.piece.problem : null;
    if (problem === this.shown) {
      this.element.hidden = !problem;
      return;
    }
    this.shown = problem;
    this.element.hidden = !problem;
    clearInterval(this.timer);
    if (!problem) return;
    this.words.textContent = explain(problem);
    this.key.hidden = problem.kind !== "key";
    this.retry.hidden = problem.kind === "context"; // it would be as long again
    this.#wait(Date.now() + (problem.retryAfter ?? 0) * 1000);
  }

  #wait(until) {
    const draw = () => {
      const left = Math.ceil((until - Date.now()) / 1000);
      this.retry.setAttribute("aria-disabled", String(left > 0));
      this.retry.querySelector(".button-text").textContent = left > 0 ? `Try again in ${left} s` : "Try again";
      if (left <= 0) clearInterval(this.timer);
    };
    this.timer = setInterval(draw, 500);
    draw();
  }
}
