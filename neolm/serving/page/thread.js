/**
 * The conversation, drawn. Only what changed is made anew: entries that stay keep their nodes, and with them the
 * focus, the selection and the place where one is reading.
 *
 * @typedef {Object} Look what the person wants to see
 * @property {boolean} formatted
 * @property {boolean} probabilities
 * @property {boolean} feedback
 * @property {(model: string) => string} waiting what to say while nothing has come
 */

import { AnswerView } from "./answer-view.js";
import { ChoiceBar } from "./choice-bar.js";
import { entries } from "./conversation.js";
import { element } from "./element.js";
import { SaidView } from "./said-view.js";

/** One below the other: what was said, an answer, or two answers side by side. */
class EntryView {
  constructor({ prompt, answers }, context) {
    const paired = answers.length > 1;
    const lead = context.conversation.mode === "completion" && answers.length === 1 ? prompt : null;
    this.views = prompt && !lead ? [new SaidView(prompt, context)] : [];
    this.answers = answers.map((piece, index) => new AnswerView({ piece, lead, side: paired ? index : null }, context));
    this.bar = paired ? new ChoiceBar(answers, context) : null;
    const columns = paired
      ? [element("div", { class: "columns" }, ...this.answers.map((view) => view.element))]
      : this.answers.map((view) => view.element);
    this.element = element(
      "div",
      { class: "entry" },
      ...this.views.map((view) => view.element),
      ...columns,
      this.bar?.element,
    );
    this.views.push(...this.answers);
  }

  update(whole) {
    this.views.forEach((view) => view.update(whole));
    this.bar?.update();
  }
}

export class Thread {
  /** @param {HTMLElement} root @param {Object} actions @param {() => Look} look */
  constructor(root, actions, look) {
    Object.assign(this, { root, actions, look });
    this.conversation = null;
    /** @type {Map<string, EntryView>} */
    this.entries = new Map();
    this.growing = new Set();
    this.frame = 0;
  }

  /** Draws what is shown of the conversation. */
  render(conversation) {
    if (conversation !== this.conversation) {
      this.root.replaceChildren();
      this.entries.clear();
      this.conversation = conversation;
    }
    const place = this.#focused();
    const wanted = entries(conversation);
    const context = { conversation, actions: this.actions, look: this.look };
    const kept = new Map();
    wanted.forEach((entry) => kept.set(entry.key, this.entries.get(entry.key) ?? new EntryView(entry, context)));
    for (const [key, view] of this.entries) if (!kept.has(key)) view.element.remove();
    let before = null;
    for (const view of kept.values()) {
      view.update(true);
      const there = before ? before.nextSibling : this.root.firstChild;
      if (there !== view.element) this.root.insertBefore(view.element, there);
      before = view.element;
    }
    this.entries = kept;
    if (place) this.#refocus(place);
  }

  /** Draws what a piece has grown by, with the next frame. @param {() => void} [drawn] */
  grow(piece, drawn) {
    this.growing.add(piece.id);
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      for (const view of this.entries.values()) {
        view.answers.filter((answer) => this.growing.has(answer.piece.id)).forEach((answer) => answer.update(false));
      }
      this.growing.clear();
      drawn?.();
    });
  }

  /** Where the focus is, if it is in here: which entry, and on what. */
  #focused() {
    const active = document.activeElement;
    if (!this.root.contains(active) || active === this.root) return null;
    const index = [...this.root.children].findIndex((entry) => entry.contains(active));
    return { active, index, action: active.dataset.action ?? null };
  }

  /** The focus was on something that is gone: the same action of what stands in its place gets it. */
  #refocus({ active, index, action }) {
    const usable = active.isConnected && active.getClientRects().length > 0;
    if (usable && document.activeElement === active) return;
    const entry = this.root.children[Math.min(index, this.root.childElementCount - 1)];
    const same = action && entry?.querySelector(`[data-action="${action}"]`);
    const target = [same, ...(entry?.querySelectorAll("button") ?? [])].find(
      (candidate) => candidate?.getClientRects().length > 0,
    );
    (target ?? document.getElementById("message")).focus({ preventScroll: true });
  }

  /** Gives the focus to an action of a piece. */
  focus(piece, action) {
    const target = this.root.querySelector(`[data-piece="${piece.id}"] [data-action="${action}"]`);
    if (target?.getClientRects().length) target.focus();
    else document.getElementById("message").focus();
  }

  /** Opens the editor of what the person said last. @returns {boolean} whether there was anything */
  editLast() {
    const last = this.conversation?.path().findLast((piece) => piece.role === "user");
    const tool =
      last &&
      (this.root.querySelector(`[data-piece="${last.id}"] [data-action="edit-said"]`) ??
        [...this.root.querySelectorAll('[data-action="edit-lead"]')].at(-1));
    tool?.click();
    return Boolean(tool);
  }
}
