/** Rating and choosing, on the page: asks for consent where it is missing, sends, and says how that went. */

import { announce } from "./announcer.js";
import { button } from "./element.js";
import { choiceBody, offerConsent, ratingBody } from "./feedback.js";
import { explain } from "./server.js";

export class Sharing {
  /** @param {Object} app the page: its preferences, server, session, notices */
  constructor(app) {
    this.app = app;
  }

  async #agreed() {
    const { preferences } = this.app;
    if (preferences.get("consent")) return true;
    if (!(await offerConsent())) return false;
    preferences.set("consent", true);
    return true;
  }

  async #send(body) {
    const { server, notices } = this.app;
    notices.hide("sharing");
    try {
      await server.feedback(body);
      announce("Sent. Thank you.");
      return true;
    } catch (error) {
      notices.show("sharing", `It was not sent. ${explain(error)}`);
      return false;
    }
  }

  /** @param {import("./conversation.js").Piece} piece @param {"up"|"down"} rating */
  async rate(piece, rating) {
    const { session } = this.app;
    const { conversation } = session;
    if (piece.rating === rating || !(await this.#agreed())) return;
    if (!(await this.#send(ratingBody(conversation, piece, rating)))) return;
    piece.rating = rating;
    session.save(conversation, false);
    this.app.draw();
  }

  /** @param {import("./conversation.js").Piece[]} pair @param {0|1|"tie"} choice */
  async choose(pair, choice) {
    const { session, info, preferences, notices } = this.app;
    const body = choiceBody(session.conversation, pair, choice);
    session.choose(pair, choice);
    if (!info.feedback) return;
    if (preferences.get("consent")) {
      await this.#send(body);
      return;
    }
    const share = button("Share it…", {
      class: "button-quiet",
      press: async () => {
        notices.hide("sharing", true);
        if (await this.#agreed()) await this.#send(body);
      },
    });
    notices.show("sharing", "Your choice stays in this browser.", [share]);
  }
}
