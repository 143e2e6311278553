/**
 * The conversations saved in this browser. Each has its own key: a damaged one does not affect the others, and two tabs
 * do not overwrite each other's.
 *
 * @typedef {{id: string, name: string, mode: string, updated: number}} Summary
 */

import { newId } from "./conversation.js";
import { parseConversation } from "./import-export.js";

const PREFIX = "conversation.";

export class ConversationStore {
  constructor(storage) {
    this.storage = storage;
    /** @type {Map<string, Summary>} */
    this.summaries = new Map();
    /** Conversations in memory: those opened, and those that could not be saved. */
    this.opened = new Map();
    /** @type {string[]} ids of entries that cannot be read; they stay until the user deletes them */
    this.damaged = [];
    storage.keys(PREFIX).forEach((id) => this.#load(id));
  }

  #load(id) {
    this.damaged = this.damaged.filter((other) => other !== id);
    this.summaries.delete(id);
    if (this.storage.raw(PREFIX + id) === null) return;
    try {
      const conversation = parseConversation(this.storage.read(PREFIX + id));
      if (conversation.id !== id) throw new Error("saved under the id of another conversation");
      this.#summarize(conversation);
    } catch {
      this.damaged.push(id);
    }
  }

  #summarize({ id, name, mode, updated }) {
    this.summaries.set(id, { id, name, mode, updated });
  }

  /** The summaries, newest first. @returns {Summary[]} */
  list() {
    return [...this.summaries.values()].sort((a, b) => b.updated - a.updated);
  }

  /** @returns {Conversation|null} the same object each time, until `refresh` */
  open(id) {
    if (!this.opened.has(id)) {
      try {
        this.opened.set(id, parseConversation(this.storage.read(PREFIX + id)));
      } catch {
        return null;
      }
    }
    return this.opened.get(id);
  }

  /** All conversations that can be read, newest first. */
  all() {
    return this.list()
      .map(({ id }) => this.open(id))
      .filter(Boolean);
  }

  /**
   * Saves a conversation. If there is no room, it is saved without the log-probabilities of its tokens.
   *
   * @returns {{reduced: boolean}} whether the log-probabilities were left out
   * @throws {StorageError} not saved; it stays open until the page is closed
   */
  save(conversation) {
    this.opened.set(conversation.id, conversation);
    this.#summarize(conversation);
    try {
      this.storage.write(PREFIX + conversation.id, conversation);
      return { reduced: false };
    } catch (error) {
      if (error.kind !== "full") throw error;
      const reduced = conversation.toJSON();
      reduced.messages = reduced.messages.map(({ tokens, ...message }) => message);
      this.storage.write(PREFIX + conversation.id, reduced);
      return { reduced: true };
    }
  }

  remove(id) {
    this.storage.remove(PREFIX + id);
    this.opened.delete(id);
    this.summaries.delete(id);
  }

  /**
   * Adds imported conversations. One whose id exists already gets a new id.
   *
   * @returns {StorageError|null} why some of them could not be saved
   */
  add(conversations) {
    let failure = null;
    for (const conversation of conversations) {
      if (this.summaries.has(conversation.id) || this.damaged.includes(conversation.id)) conversation.id = newId();
      try {
        this.save(conversation);
      } catch (error) {
        failure = error;
      }
    }
    return failure;
  }

  /** The stored text of the damaged entries. */
  damagedText() {
    return this.damaged.map((id) => this.storage.raw(PREFIX + id) ?? "").join("\n");
  }

  removeDamaged() {
    this.damaged.forEach((id) => this.storage.remove(PREFIX + id));
    this.damaged = [];
  }

  /** Calls `listener` with the id of a conversation that another tab has changed or removed. */
  watch(listener) {
    this.storage.watch(PREFIX, (id) => {
      this.#load(id);
      listener(id);
    });
  }

  /** Makes the next `open` read the stored version, which another tab has changed. */
  refresh(id) {
    this.opened.delete(id);
  }
}
