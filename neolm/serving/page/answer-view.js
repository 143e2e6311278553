/**
 * An answer, drawn: who wrote it, the text in one of three ways (Markdown, plain, tokens), how it ended, how fast it
 * was, and what can be done with it.
 */

import { copyText } from "./clipboard.js";
import { sideName } from "./compare.js";
import { editor } from "./editor.js";
import { button, element, setText } from "./element.js";
import { MarkdownView } from "./markdown.js";
import { PlainView } from "./plain.js";
import { ProblemView } from "./problem.js";
import { TokenView, legend } from "./probabilities.js";
import { Versions } from "./versions.js";

/** @param {Object} settings as sent @returns {string} */
export function settingsText(settings = {}) {
  return Object.entries(settings)
    .map(([key, value]) => `${key.replaceAll("_", " ")} ${Array.isArray(value) ? JSON.stringify(value) : value}`)
    .join(", ");
}

function statsText({ stats = {}, state, finish, settings, tokens, edited }, wanted) {
  if (edited) return "";
  const words = [];
  if (state === "stopped") words.push("Stopped");
  if (finish === "length" && state === "done")
    words.push(settings?.max_tokens === stats.tokens ? "Reached the longest answer" : "Reached the end of its context");
  if (stats.first !== undefined) words.push(`${(stats.first / 1000).toFixed(2)} s to first token`);
  if (stats.rate !== undefined) words.push(`${stats.rate.toFixed(stats.rate < 100 ? 1 : 0)} tokens/s`);
  if (stats.tokens !== undefined) words.push(`${stats.tokens} ${stats.tokens === 1 ? "token" : "tokens"}`);
  if (stats.leftOut > 0) words.push(`too long to read whole: the first ${stats.leftOut} tokens were left out`);
  if (wanted && !tokens?.length && state !== "writing") words.push("written without probabilities");
  return words.join(" · ");
}

export class AnswerView {
  /**
   * @param {Object} options
   * @param {import("./conversation.js").Piece} options.piece
   * @param {import("./conversation.js").Piece|null} options.lead in a text: what it goes on from, shown with it
   * @param {0|1|null} options.side which of two it is, if of two
   * @param {Object} context `conversation`, `actions` and `look` (what the person wants to see), the thread's
   */
  constructor({ piece, lead, side }, context) {
    Object.assign(this, { piece, lead, context });
    const { actions } = context;
    this.who = element("span", { class: "who-name" });
    this.card = button("About this model", {
      text: piece.model || "model",
      class: "button-who",
      data: { action: "card" },
      press: () => actions.card(piece.model),
    });
    const heading = element(
      "h3",
      { class: "turn-who" },
      side === null
        ? element("span", { class: "visually-hidden" }, "Answer of ")
        : element("span", { class: "side" }, ...sideName(side)),
      this.card,
      this.who,
    );
    this.settings = element("p", { class: "turn-settings" });
    this.body = element("div", { class: "turn-body" });
    this.waiting = element("p", { class: "waiting" });
    this.problem = new ProblemView(piece, actions);
    this.foot = this.#makeFoot();
    this.element = element(
      "article",
      { class: "turn turn-answer", data: { piece: piece.id } },
      heading,
      this.settings,
      this.body,
      this.waiting,
      this.problem.element,
      this.foot,
    );
    this.paired = side !== null;
  }

  #makeFoot() {
    const {
      piece,
      lead,
      context: { actions, conversation },
    } = this;
    const tool = (label, iconName, action, press, more) =>
      button(label, { icon: iconName, text: false, data: { action }, press, ...more });
    const isText = conversation.mode === "completion";
    this.versions = new Versions(isText ? "continuation" : "answer", actions.show);
    this.leadVersions = new Versions("beginning", actions.show);
    const copy = tool("Copy", "copy", "copy", () =>
      copyText(isText ? conversation.textUntil(piece.id) : piece.text, copy),
    );
    if (isText) copy.title = "Copy the text up to here";
    this.whenDone = [
      tool(isText ? "Another continuation" : "Answer again", "again", "again", () => actions.again(piece)),
      copy,
      tool(isText ? "Edit the continuation" : "Edit the answer", "edit", "edit", () => this.edit(piece)),
      lead
        ? button("Edit the beginning", {
            icon: "edit",
            text: "Beginning",
            class: "button-quiet",
            data: { action: "edit-lead" },
            press: () => this.edit(lead),
          })
        : null,
    ].filter(Boolean);
    this.thumbs = ["up", "down"].map((rating) =>
      tool(
        rating === "up" ? "Good answer" : "Bad answer",
        rating,
        `rate-${rating}`,
        () => actions.rate(piece, rating),
        { "aria-pressed": "false" },
      ),
    );
    this.stats = element("p", { class: "stats" });
    this.legend = legend();
    return element(
      "div",
      { class: "turn-foot" },
      element(
        "div",
        { class: "tools" },
        this.leadVersions.element,
        this.versions.element,
        ...this.whenDone,
        ...this.thumbs,
      ),
      this.legend,
      this.stats,
    );
  }

  /** @param {boolean} whole whether anything but the growing text may have changed */
  update(whole) {
    const {
      piece,
      context: { look, conversation },
    } = this;
    const writing = piece.state === "writing";
    if (whole) {
      this.element.classList.toggle("writing", writing);
      this.element.setAttribute("aria-busy", String(writing));
      setText(this.card.querySelector(".button-text"), piece.model || "model");
      this.card.setAttribute("aria-label", `${piece.model}, about this model`);
      setText(this.who, piece.edited ? " (edited)" : "");
      setText(this.settings, this.paired ? settingsText(piece.settings) : "");
      this.stats.title = settingsText(piece.settings);
      this.versions.update(piece, this.paired ? [piece] : conversation.siblings(piece));
      this.leadVersions.update(this.lead, this.lead ? conversation.siblings(this.lead) : []);
      this.whenDone.forEach((tool) => {
        const isCopy = tool.dataset.action === "copy";
        tool.hidden = writing || (this.paired && !isCopy) || (isCopy && piece.text === "");
      });
      this.thumbs.forEach((thumb) => {
        thumb.hidden = !look().feedback || writing || this.paired || piece.edited || piece.text === "";
        thumb.setAttribute("aria-pressed", String(thumb.dataset.action === `rate-${piece.rating}`));
      });
    }
    this.#drawBody(writing);
    const waits = writing && piece.text === "" && !piece.tokens?.length;
    const words = waits
      ? look().waiting(piece.model)
      : !writing && piece.text === "" && piece.state === "done"
        ? "(an empty answer)"
        : "";
    setText(this.waiting, words);
    if (!writing) this.problem.update();
    else this.problem.element.hidden = true;
    setText(this.stats, statsText(piece, look().probabilities));
  }

  #drawBody(writing) {
    if (this.editing) return;
    const {
      piece,
      lead,
      context: { look, conversation },
    } = this;
    const isText = conversation.mode === "completion";
    const kind =
      look().probabilities && piece.tokens?.length ? "tokens" : isText || !look().formatted ? "plain" : "markdown";
    if (kind !== this.kind) {
      this.kind = kind;
      this.legend.hidden = kind !== "tokens";
      this.view =
        kind === "tokens"
          ? new TokenView(isText ? "span" : "div")
          : kind === "plain"
            ? new PlainView()
            : new MarkdownView();
      const written = lead ? element("span", { class: "written" }, lead.text) : null;
      this.body.replaceChildren(
        isText
          ? element("div", { class: "passage" }, ...[written, this.view.element].filter(Boolean))
          : this.view.element,
      );
    }
    if (kind === "tokens") this.view.update(piece.tokens);
    else this.view.update(piece.text, writing);
  }

  /** Puts a field in the place of the text. @param {import("./conversation.js").Piece} piece this one, or its lead */
  edit(piece) {
    const { actions, conversation } = this.context;
    const said = piece.role === "user";
    const isText = conversation.mode === "completion";
    this.editing = true;
    this.foot.hidden = true;
    this.body.replaceChildren(
      editor({
        text: piece.text,
        label: said
          ? "New version of the beginning"
          : isText
            ? "New version of the continuation"
            : "New version of the answer",
        save: said ? "Continue from here" : "Keep as a version",
        done: (text) => {
          this.editing = false;
          this.foot.hidden = false;
          this.kind = null;
          this.#drawBody(false);
          const action = said ? "edit-lead" : "edit";
          if (text !== null && text !== piece.text) actions.edit(piece, text, action);
          else this.element.querySelector(`[data-action="${action}"]`).focus();
        },
      }),
    );
  }
}
