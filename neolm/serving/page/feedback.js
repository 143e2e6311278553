/** Ratings and choices: sent only with the user's consent, and only what the consent text lists. */

import { openDialog } from "./dialogs.js";
import { button, element } from "./dom.js";
import { announce } from "./live-region.js";
import { errorText } from "./server.js";

/** What is shared and where it is stored. @returns {HTMLElement[]} */
export function consentText() {
  const items = [
    "the conversation before the answer, as the model read it",
    "the answer, or both answers",
    "the settings, and the model’s name and digest",
    "your rating or choice",
  ];
  return [
    element(
      "p",
      {},
      "When sharing is on, this server stores each rating and each choice between two answers, together with:",
    ),
    element("ul", {}, ...items.map((item) => element("li", {}, item))),
    element(
      "p",
      {},
      "The data is stored at ",
      element("strong", {}, window.location.host),
      ". The server’s operator can read it and may train models with it. Do not share private text. ",
      "When sharing is off, ratings are not sent.",
    ),
  ];
}

/** The body of a feedback request. */
function feedbackBody(conversation, answers, kind, { chosen = null, rating = null }) {
  const { mode } = conversation;
  const [{ parent }] = answers;
  return {
    consent: true,
    kind,
    mode,
    prompt: mode === "chat" ? conversation.promptMessages(parent) : conversation.promptText(parent),
    answers: answers.map(({ model, text, settings }) => ({ model, text, settings })),
    chosen,
    rating,
  };
}

export class Feedback {
  /** @param {Object} app its preferences, server, session and notices */
  constructor(app) {
    this.app = app;
  }

  /** Asks for consent unless it was given. @returns {Promise<boolean>} */
  async #hasConsent() {
    const { preferences } = this.app;
    if (preferences.get("consent")) return true;
    const agreed = await openDialog({
      title: "Share your ratings?",
      content: () => consentText(),
      actions: (close) => [
        button("Not now", { onClick: () => close(false) }),
        button("Switch on and send", { class: "button-main", onClick: () => close(true) }),
      ],
    });
    if (agreed) preferences.set("consent", true);
    return agreed === true;
  }

  async #send(body) {
    const { server, notices } = this.app;
    notices.hide("feedback");
    try {
      await server.feedback(body);
      announce("Sent. Thank you.");
      return true;
    } catch (error) {
      notices.show("feedback", `The feedback was not sent. ${errorText(error)}`);
      return false;
    }
  }

  /** @param {Message} message @param {"up"|"down"} rating */
  async rate(message, rating) {
    const { session } = this.app;
    const { conversation } = session;
    if (message.rating === rating || !(await this.#hasConsent())) return;
    if (!(await this.#send(feedbackBody(conversation, [message], "rating", { rating })))) return;
    message.rating = rating;
    session.save(conversation, false);
    this.app.render();
  }

  /** @param {Message[]} pair @param {0|1|"tie"} choice */
  async choose(pair, choice) {
    const { session, info, preferences, notices } = this.app;
    const chosen = choice === "tie" ? null : choice;
    const body = feedbackBody(session.conversation, pair, "choice", { chosen });
    session.choose(pair, choice);
    if (!info.feedback) return;
    if (preferences.get("consent")) {
      await this.#send(body);
      return;
    }
    const share = button("Share it…", {
      class: "button-quiet",
      onClick: async () => {
        notices.hide("feedback", true);
        if (await this.#hasConsent()) await this.#send(body);
      },
    });
    notices.show("feedback", "Your choice stays in this browser.", [share]);
  }
}
