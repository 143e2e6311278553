/**
 * Ratings and choices: sent only with the person's consent, and then exactly what the consent says.
 */

import { button, element } from "./element.js";
import { openDialog } from "./dialogs.js";

/** What consent means, in plain words. @returns {HTMLElement[]} */
export function consentWords() {
  return [
    element(
      "p",
      {},
      "If you switch sharing on, each rating and each choice between two answers is stored by this server, with what ",
      "it is about:",
    ),
    element(
      "ul",
      {},
      element("li", {}, "the conversation up to there, as the model read it"),
      element("li", {}, "the answer, or both answers"),
      element("li", {}, "the settings, and the model's name and digest"),
      element("li", {}, "your rating or choice"),
    ),
    element(
      "p",
      {},
      "It is stored at ",
      element("strong", {}, window.location.host),
      ", where its operator can read it and may train models with it. Do not share what is private. ",
      "Without the switch, no rating leaves this browser.",
    ),
  ];
}

/** Asks for consent where it is needed. @returns {Promise<boolean>} */
export async function offerConsent() {
  const agreed = await openDialog({
    title: "Share your ratings?",
    content: () => consentWords(),
    actions: (close) => [
      button("Not now", { press: () => close(false) }),
      button("Switch on and send", { class: "button-main", press: () => close(true) }),
    ],
  });
  return agreed === true;
}

function promptOf(conversation, piece) {
  return conversation.mode === "chat" ? conversation.messages(piece.parent) : conversation.textUntil(piece.parent);
}

const answerOf = ({ model, text, settings }) => ({ model, text, settings });

/** What is sent for a rated answer. */
export function ratingBody(conversation, piece, rating) {
  const { mode } = conversation;
  return {
    consent: true,
    kind: "rating",
    mode,
    prompt: promptOf(conversation, piece),
    answers: [answerOf(piece)],
    chosen: null,
    rating,
  };
}

/** What is sent for a choice. @param {0|1|"tie"} choice */
export function choiceBody(conversation, pair, choice) {
  const chosen = choice === "tie" ? null : choice;
  const { mode } = conversation;
  return {
    consent: true,
    kind: "choice",
    mode,
    prompt: promptOf(conversation, pair[0]),
    answers: pair.map(answerOf),
    chosen,
    rating: null,
  };
}
