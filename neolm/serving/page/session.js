/**
 * The open conversation and the answers being written: what can be done, without the page. Answers go on being written
 * when another conversation is opened.
 *
 * @typedef {{model: string, settings: Object}} Side whom to ask, and the parameters to send
 *
 * @typedef {Object} Listeners
 * @property {() => void} changed other pieces are shown than before
 * @property {(piece: import("./conversation.js").Piece) => void} grew
 * @property {(pieces: import("./conversation.js").Piece[]) => void} finished
 * @property {() => void} kept
 * @property {(error: import("./store.js").StoreError|null) => void} notKept null: without its probabilities
 */

import { Answer, requestFor } from "./answer.js";
import { Conversation, newId } from "./conversation.js";

const SAVE_EVERY = 3000; // milliseconds, while something is being written

export class Session {
  /**
   * @param {Object} parts
   * @param {import("./server.js").Server} parts.server
   * @param {import("./library.js").Library} parts.library
   * @param {() => Side[]} parts.sides one, or two to compare
   * @param {() => boolean} parts.probabilities
   * @param {(model: string) => number|undefined} parts.contextOf in tokens, if known
   * @param {Listeners} listeners
   */
  constructor({ server, library, sides, probabilities, contextOf }, listeners) {
    Object.assign(this, { server, library, sides, probabilities, contextOf, listeners });
    this.conversation = new Conversation();
    /** @type {Map<string, {answer: Answer, conversation: Conversation}>} by piece */
    this.writing = new Map();
    this.saveTimer = 0;
    this.forgotten = new Set();
    this.unsaved = new Set();
    // What is being written must not be lost with the page.
    window.addEventListener("pagehide", () => {
      this.saveAll();
      this.leaving = true; // what breaks from now on breaks because the page goes away
    });
    window.addEventListener("pageshow", () => {
      this.leaving = false;
    });
  }

  /** Whether the open conversation is being written to. */
  get busy() {
    return [...this.writing.values()].some(({ conversation }) => conversation === this.conversation);
  }

  /** @param {"chat"|"completion"} mode */
  start(mode) {
    this.conversation = new Conversation({ mode });
    this.listeners.changed();
  }

  /** @returns {boolean} whether it is there */
  open(id) {
    const found = this.library.open(id);
    if (!found) return false;
    this.conversation = found;
    this.listeners.changed();
    return true;
  }

  /** Says `text` at the end of what is shown, or, without a text, has the model go on. */
  say(text) {
    const leaf = this.conversation.leaf();
    if (this.busy || (text === "" && !leaf)) return false;
    const parent = text === "" ? leaf : this.conversation.add(leaf?.id ?? null, { role: "user", text });
    this.#answer(parent.id);
    return true;
  }

  /** Another answer in the place of `piece`. */
  again(piece) {
    if (!this.busy) this.#answer(piece.parent);
  }

  /** Tries a failed answer again: in its place if nothing came, otherwise beside it, so that what came stays. */
  retry(piece) {
    if (this.busy) return;
    const sides = this.sides();
    const side = sides[piece.pair?.side ?? 0] ?? sides[0];
    let target = piece;
    if (piece.text !== "") {
      target = this.conversation.add(piece.parent, { role: "assistant", pair: piece.pair });
      delete piece.pair;
    }
    Object.assign(target, { model: side.model, settings: side.settings, tokens: undefined, finish: null });
    this.#run([target]);
  }

  /** A new version of what the person said, and an answer to it; or a new version of an answer, as it is. */
  edit(piece, text) {
    if (this.busy) return null;
    if (piece.role === "user") {
      const version = this.conversation.add(piece.parent, { role: "user", text });
      this.#answer(version.id);
      return version;
    }
    const { model, settings } = piece;
    const version = this.conversation.add(piece.parent, {
      role: "assistant",
      text,
      model,
      settings,
      state: "done",
      edited: true,
    });
    this.#changed();
    return version;
  }

  show(piece) {
    this.conversation.show(piece.id);
    this.#changed(false);
  }

  /** @param {import("./conversation.js").Piece[]} pair left and right @param {0|1|"tie"} choice */
  choose(pair, choice) {
    pair.forEach((piece) => {
      piece.pair = { ...piece.pair, choice };
    });
    this.conversation.show(pair[choice === 1 ? 1 : 0].id);
    this.#changed();
  }

  /** Stops what is being written in the open conversation. */
  stop() {
    for (const { answer, conversation } of this.writing.values()) {
      if (conversation === this.conversation) answer.stop();
    }
  }

  #answer(parent) {
    const sides = this.sides();
    const id = newId();
    const pieces = sides.map(({ model, settings }, side) =>
      this.conversation.add(parent, {
        role: "assistant",
        model,
        settings,
        ...(sides.length > 1 ? { pair: { id, side, choice: null } } : {}),
      }),
    );
    this.conversation.show(pieces[0].id);
    this.#run(pieces);
  }

  async #run(pieces) {
    const { conversation } = this;
    const probabilities = this.probabilities();
    const answers = pieces.map((piece) => {
      const request = requestFor(conversation, piece.parent, {
        model: piece.model,
        settings: piece.settings,
        probabilities,
        context: this.contextOf(piece.model),
      });
      const answer = new Answer(this.server, request, piece, (grown) => {
        if (conversation === this.conversation) this.listeners.grew(grown);
        this.saveSoon(conversation);
      });
      piece.state = "writing";
      this.writing.set(piece.id, { answer, conversation });
      return answer;
    });
    this.#changed();
    await Promise.all(
      answers.map(async (answer) => {
        await answer.run();
        this.writing.delete(answer.piece.id);
      }),
    );
    this.save(conversation);
    if (conversation === this.conversation) this.listeners.changed();
    this.listeners.finished(pieces);
  }

  #changed(said = true) {
    this.save(this.conversation, said);
    this.listeners.changed();
  }

  /** Keeps a conversation before long. */
  saveSoon(conversation = this.conversation) {
    this.unsaved.add(conversation);
    if (this.saveTimer) return;
    this.saveTimer = setTimeout(() => {
      this.saveTimer = 0;
      this.saveAll();
    }, SAVE_EVERY);
  }

  saveAll() {
    this.unsaved.forEach((conversation) => this.save(conversation, false));
  }

  /** Whether something is being written in the conversation `id`. */
  isWriting(id) {
    return [...this.writing.values()].some(({ conversation }) => conversation.id === id);
  }

  /** Stops what is being written in the conversation `id`, and does not keep it again. */
  forget(id) {
    this.forgotten.add(id);
    for (const { answer, conversation } of this.writing.values()) {
      if (conversation.id === id) answer.stop();
    }
  }

  /** Keeps a conversation in which something has been said. @param {boolean} [said] whether something was just now */
  save(conversation, said = true) {
    this.unsaved.delete(conversation);
    if (conversation.pieces.size === 0 || this.forgotten.has(conversation.id) || this.leaving) return;
    if (said) conversation.updated = Date.now();
    try {
      const { thinned } = this.library.save(conversation);
      if (thinned) this.listeners.notKept(null);
      else this.listeners.kept();
    } catch (error) {
      this.listeners.notKept(error);
    }
  }
}
