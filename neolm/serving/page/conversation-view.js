/**
 * The open conversation. Rows that stay keep their DOM nodes, and with them the focus, the selection and the scroll
 * position.
 *
 * @typedef {Object} ViewOptions
 * @property {boolean} formatted whether Markdown is rendered
 * @property {boolean} probabilities whether the tokens' probabilities are shown
 * @property {boolean} feedback whether the server accepts feedback
 * @property {boolean} consent whether the user shares feedback
 * @property {(model: string) => string} waitingText shown until the first token
 */

import { AnswerView } from "./answer-view.js";
import { ChoiceButtons } from "./choice-buttons.js";
import { highlightMatches } from "./conversation-search.js";
import { rowsOf } from "./conversation.js";
import { element } from "./dom.js";
import { UserMessageView } from "./user-message-view.js";

/** A user message, an answer, or two answers side by side. */
class RowView {
  constructor({ prompt, answers }, context) {
    const paired = answers.length > 1;
    const shared = context.conversation.mode === "completion" && answers.length === 1 ? prompt : null;
    this.views = prompt && !shared ? [new UserMessageView(prompt, context)] : [];
    this.answers = answers.map(
      (message, index) => new AnswerView({ message, prompt: shared, side: paired ? index : null }, context),
    );
    this.choiceButtons = paired ? new ChoiceButtons(answers, context) : null;
    const elements = this.answers.map((view) => view.element);
    this.element = element(
      "div",
      { class: "row" },
      ...this.views.map((view) => view.element),
      ...(paired ? [element("div", { class: "columns" }, ...elements)] : elements),
      this.choiceButtons?.element,
    );
    this.views.push(...this.answers);
  }

  update(full) {
    this.views.forEach((view) => view.update(full));
    this.choiceButtons?.update();
  }
}

export class ConversationView {
  /** @param {HTMLElement} root @param {Object} actions @param {() => ViewOptions} viewOptions */
  constructor(root, actions, viewOptions) {
    Object.assign(this, { root, actions, viewOptions });
    this.conversation = null;
    /** @type {Map<string, RowView>} */
    this.rows = new Map();
    this.growing = new Set();
    this.frame = 0;
  }

  /** Renders the branch of the conversation that is shown. */
  render(conversation) {
    if (conversation !== this.conversation) {
      this.root.replaceChildren();
      this.root.classList.remove("highlighted");
      this.rows.clear();
      this.conversation = conversation;
    }
    const focus = this.#focusInside();
    const context = { conversation, actions: this.actions, viewOptions: this.viewOptions };
    const rows = new Map(
      rowsOf(conversation).map((row) => [row.key, this.rows.get(row.key) ?? new RowView(row, context)]),
    );
    for (const [key, view] of this.rows) if (!rows.has(key)) view.element.remove();
    let previous = null;
    for (const view of rows.values()) {
      view.update(true);
      const present = previous ? previous.nextSibling : this.root.firstChild;
      if (present !== view.element) this.root.insertBefore(view.element, present);
      previous = view.element;
    }
    this.rows = rows;
    if (focus) this.#restoreFocus(focus);
  }

  /** Renders the new text of a message in the next animation frame. */
  grow(message) {
    this.growing.add(message.id);
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      for (const row of this.rows.values()) {
        row.answers.filter((view) => this.growing.has(view.message.id)).forEach((view) => view.update(false));
      }
      this.growing.clear();
    });
  }

  /** The focused element, its row and its action; null if the focus is elsewhere. */
  #focusInside() {
    const active = document.activeElement;
    if (!this.root.contains(active) || active === this.root) return null;
    const index = [...this.root.children].findIndex((row) => row.contains(active));
    return { active, index, action: active.dataset.action };
  }

  /** Moves the focus from a removed element to the same action of the row in its place. */
  #restoreFocus({ active, index, action }) {
    if (active.isConnected && active.getClientRects().length > 0 && document.activeElement === active) return;
    const row = this.root.children[Math.min(index, this.root.childElementCount - 1)];
    const same = action && row?.querySelector(`[data-action="${action}"]`);
    const target = [same, ...(row?.querySelectorAll("button") ?? [])].find((node) => node?.getClientRects().length > 0);
    (target ?? document.getElementById("message")).focus({ preventScroll: true });
  }

  /** Highlights what a search has found. @param {RegExp} pattern @returns {Range|undefined} the first match */
  highlight(pattern) {
    this.root.classList.add("highlighted");
    return highlightMatches([...this.root.querySelectorAll(".user-text, .turn-body")], pattern);
  }

  /** Focuses a button of a message. */
  focus(message, action) {
    const target = this.root.querySelector(`[data-message="${message.id}"] [data-action="${action}"]`);
    if (target?.getClientRects().length) target.focus();
    else document.getElementById("message").focus();
  }

  /** Opens the editor of the last user message. @returns {boolean} whether there is one */
  editLast() {
    const last = this.conversation?.path().findLast(({ role }) => role === "user");
    const edit =
      last &&
      (this.root.querySelector(`[data-message="${last.id}"] [data-action="edit-message"]`) ??
        [...this.root.querySelectorAll('[data-action="edit-prompt"]')].at(-1));
    edit?.click();
    return Boolean(edit);
  }
}
