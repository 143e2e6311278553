/** Below two answers: which is better. The one chosen is the one the conversation goes on with. */

import { placeWords } from "./compare.js";
import { button, element, setText } from "./element.js";

export class ChoiceBar {
  /** @param {import("./conversation.js").Piece[]} pair @param {Object} context the thread's */
  constructor(pair, context) {
    Object.assign(this, { pair, context });
    const { actions } = context;
    // On a narrow screen they stand one below the other, and the words say so.
    const choose = (label, narrow, choice) => {
      const made = button(label, {
        text: label,
        class: "button-choice",
        data: { action: `choose-${choice}` },
        press: () => actions.choose(pair, choice),
      });
      made.querySelector(".button-text").replaceChildren(...placeWords(label, narrow));
      return made;
    };
    this.note = element("p", { class: "muted" });
    this.buttons = [
      choose("Left is better", "First is better", 0),
      choose("Tie", "Tie", "tie"),
      choose("Right is better", "Second is better", 1),
    ];
    const again = button("Both again", {
      icon: "again",
      class: "button-quiet",
      data: { action: "again" },
      press: () => actions.again(pair[0]),
    });
    this.element = element(
      "div",
      { class: "choice", role: "group", "aria-label": "Which answer is better?" },
      element("div", { class: "choice-buttons" }, ...this.buttons),
      element("div", { class: "choice-more" }, this.note, again),
    );
  }

  update() {
    const writing = this.pair.some((piece) => piece.state === "writing");
    this.element.hidden = writing;
    const choosable = this.pair.every((piece) => piece.text !== "");
    this.buttons.forEach((made) => {
      made.hidden = !choosable;
    });
    const { feedback, consent } = this.context.look();
    setText(
      this.note,
      !choosable
        ? "To choose, both answers are needed."
        : !feedback
          ? "The conversation goes on with the one you choose."
          : consent
            ? "Your choice is sent to this server."
            : "Your choice stays in this browser.",
    );
  }
}
