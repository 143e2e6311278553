/**
 * The conversations kept in this browser, each under a key of its own: one that is damaged takes no other with it, and
 * two tabs do not overwrite each other's.
 *
 * @typedef {{id: string, name: string, mode: string, updated: number}} Head
 */

import { conversationFrom } from "./exchange.js";
import { newId } from "./conversation.js";

const START = "conversation.";

export class Library {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.store = store;
    /** @type {Map<string, Head>} */
    this.heads = new Map();
    /** What is open, or could not be kept and lives as long as the page. */
    this.living = new Map();
    /** @type {string[]} keys of what cannot be read; it stays where it is until the person says otherwise */
    this.damaged = [];
    store.keys(START).forEach((id) => this.#look(id));
  }

  #look(id) {
    const data = this.store.raw(START + id) === null ? null : this.store.read(START + id);
    this.damaged = this.damaged.filter((key) => key !== id);
    if (data === null) {
      this.heads.delete(id);
      return;
    }
    try {
      const conversation = conversationFrom(data);
      if (conversation.id !== id) throw new Error("kept under another's name");
      this.#note(conversation);
    } catch {
      this.heads.delete(id);
      this.damaged.push(id);
    }
  }

  #note({ id, name, mode, updated }) {
    this.heads.set(id, { id, name, mode, updated });
  }

  /** The newest first. @returns {Head[]} */
  list() {
    return [...this.heads.values()].sort((one, other) => other.updated - one.updated);
  }

  /** @returns {import("./conversation.js").Conversation|null} always the same object while the page lives */
  open(id) {
    if (!this.living.has(id)) {
      try {
        this.living.set(id, conversationFrom(this.store.read(START + id)));
      } catch {
        return null;
      }
    }
    return this.living.get(id);
  }

  /**
   * Keeps it. Where there is no room, what the tokens' probabilities take is given up first.
   *
   * @returns {{thinned: boolean}} whether that was so
   * @throws {import("./store.js").StoreError} it is not kept; it stays open in this page
   */
  save(conversation) {
    this.living.set(conversation.id, conversation);
    this.#note(conversation);
    try {
      this.store.write(START + conversation.id, conversation);
      return { thinned: false };
    } catch (error) {
      if (error.kind !== "full") throw error;
      const bare = conversation.toJSON();
      bare.pieces = bare.pieces.map(({ tokens, ...piece }) => piece);
      this.store.write(START + conversation.id, bare);
      return { thinned: true };
    }
  }

  remove(id) {
    this.store.remove(START + id);
    this.living.delete(id);
    this.heads.delete(id);
  }

  /**
   * Takes in conversations from a file, under new names where theirs are taken.
   *
   * @returns {import("./store.js").StoreError|null} why some of them live no longer than the page
   */
  add(conversations) {
    let lost = null;
    for (const conversation of conversations) {
      if (this.heads.has(conversation.id) || this.damaged.includes(conversation.id)) conversation.id = newId();
      try {
        this.save(conversation);
      } catch (error) {
        lost = error;
      }
    }
    return lost;
  }

  /** What lies under the damaged keys, as it is. */
  damagedText() {
    return this.damaged.map((id) => this.store.raw(START + id) ?? "").join("\n");
  }

  removeDamaged() {
    this.damaged.forEach((id) => this.store.remove(START + id));
    this.damaged = [];
  }

  /** Calls `listener` with the id of a conversation that another tab has changed or removed. */
  watch(listener) {
    this.store.watch(START, (id) => {
      this.#look(id);
      listener(id);
    });
  }

  /** Forgets the object in hand, so that `open` reads what another tab has kept. */
  refresh(id) {
    this.living.delete(id);
  }
}
