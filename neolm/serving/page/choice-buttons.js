/** Buttons below two answers: which is better. The conversation continues with the chosen one. */

import { responsiveLabel } from "./compare.js";
import { button, element, setText } from "./dom.js";

export class ChoiceButtons {
  /** @param {Message[]} pair @param {Object} context of the conversation view */
  constructor(pair, { actions, viewOptions }) {
    Object.assign(this, { pair, viewOptions });
    // On a narrow screen the answers are one below the other.
    const makeButton = (wide, narrow, choice) => {
      const made = button(wide, { data: { action: `choose-${choice}` }, onClick: () => actions.choose(pair, choice) });
      made.querySelector(".button-text").replaceChildren(...responsiveLabel(wide, narrow));
      return made;
    };
    this.note = element("p", { class: "muted" });
    this.buttons = [
      makeButton("Left is better", "First is better", 0),
      makeButton("Tie", "Tie", "tie"),
      makeButton("Right is better", "Second is better", 1),
    ];
    const regenerate = button("Regenerate both", {
      icon: "refresh",
      class: "button-quiet",
      data: { action: "regenerate" },
      onClick: () => actions.regenerate(pair[0]),
    });
    this.element = element(
      "div",
      { class: "choice", role: "group", "aria-label": "Which answer is better?" },
      element("div", { class: "choice-buttons" }, ...this.buttons),
      element("div", { class: "choice-more" }, this.note, regenerate),
    );
  }

  update() {
    this.element.hidden = this.pair.some(({ state }) => state === "generating");
    const complete = this.pair.every(({ text }) => text !== "");
    for (const made of this.buttons) made.hidden = !complete;
    const { feedback, consent } = this.viewOptions();
    setText(
      this.note,
      !complete
        ? "Both answers are needed for a choice."
        : !feedback
          ? "The conversation continues with the answer you choose."
          : consent
            ? "Your choice is sent to this server."
            : "Your choice stays in this browser.",
    );
  }
}
