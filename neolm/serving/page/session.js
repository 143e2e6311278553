/**
 * The open conversation and the answers being generated, without the DOM. Generation continues when another
 * conversation is opened.
 *
 * @typedef {{model: string, settings: Object}} Side a model and the sampling parameters to send
 *
 * @typedef {Object} Listeners
 * @property {() => void} onChange other messages are shown than before
 * @property {(message: Message) => void} onText
 * @property {(messages: Message[]) => void} onFinish
 * @property {() => void} onSave
 * @property {(error: StorageError|null) => void} onSaveError null: saved without the
 *   log-probabilities
 */

import { Conversation, newId } from "./conversation.js";
import { Generation, requestFor } from "./generation.js";

const SAVE_INTERVAL = 3000; // milliseconds, during generation

export class Session {
  /**
   * @param {Object} parts
   * @param {Server} parts.server
   * @param {ConversationStore} parts.store
   * @param {() => Side[]} parts.sides one, or two to compare
   * @param {() => boolean} parts.probabilities whether to request log-probabilities
   * @param {(model: string) => number|undefined} parts.contextOf in tokens, if known
   * @param {Listeners} listeners
   */
  constructor(parts, listeners) {
    Object.assign(this, parts, { listeners });
    this.conversation = new Conversation();
    /** @type {Map<string, {generation: Generation, conversation: Conversation}>} by message id */
    this.generations = new Map();
    this.saveTimer = 0;
    this.deleted = new Set();
    this.unsaved = new Set();
    window.addEventListener("pagehide", () => {
      this.saveAll();
      this.leaving = true; // errors from now on are caused by leaving the page
    });
    window.addEventListener("pageshow", () => {
      this.leaving = false;
    });
  }

  /** Whether an answer is being generated in the open conversation. */
  get busy() {
    return this.isGenerating(this.conversation.id);
  }

  /** Whether an answer is being generated in the conversation `id`. */
  isGenerating(id) {
    return [...this.generations.values()].some(({ conversation }) => conversation.id === id);
  }

  /** @param {"chat"|"completion"} mode */
  start(mode) {
    this.conversation = new Conversation({ mode });
    this.listeners.onChange();
  }

  /** @returns {boolean} whether the conversation exists */
  open(id) {
    const conversation = this.store.open(id);
    if (!conversation) return false;
    this.conversation = conversation;
    this.listeners.onChange();
    return true;
  }

  /** Adds a user message and generates an answer; without a text, continues the last message. */
  send(text) {
    const leaf = this.conversation.leaf();
    if (this.busy || (text === "" && !leaf)) return false;
    const parent = text === "" ? leaf : this.conversation.add(leaf?.id ?? null, { role: "user", text });
    this.#generate(parent.id);
    return true;
  }

  /** Generates another version of an answer. */
  regenerate(message) {
    if (!this.busy) this.#generate(message.parent);
  }

  /** Repeats a failed request. Text that was received stays, as another version. */
  retry(message) {
    if (this.busy) return;
    const sides = this.sides();
    const side = sides[message.pair?.side ?? 0] ?? sides[0];
    let target = message;
    if (message.text !== "") {
      target = this.conversation.add(message.parent, { role: "assistant", pair: message.pair });
      delete message.pair;
    }
    Object.assign(target, { model: side.model, settings: side.settings, tokens: undefined, finishReason: null });
    this.#run([target]);
  }

  /** Adds a new version of a message. A new version of a user message is answered. @returns {Message|null} */
  edit(message, text) {
    if (this.busy) return null;
    const { parent, role, model, settings } = message;
    if (role === "user") {
      const version = this.conversation.add(parent, { role, text });
      this.#generate(version.id);
      return version;
    }
    const version = this.conversation.add(parent, { role, text, model, settings, state: "done", edited: true });
    this.#changed();
    return version;
  }

  /** Shows the branch of a message. */
  show(message) {
    this.conversation.show(message.id);
    this.#changed(false);
  }

  /** @param {Message[]} pair left and right @param {0|1|"tie"} choice */
  choose(pair, choice) {
    pair.forEach((message) => {
      message.pair = { ...message.pair, choice };
    });
    this.conversation.show(pair[choice === 1 ? 1 : 0].id);
    this.#changed();
  }

  /** Stops generation in the conversation `id`. */
  stop(id = this.conversation.id) {
    for (const { generation, conversation } of this.generations.values()) {
      if (conversation.id === id) generation.stop();
    }
  }

  #generate(parent) {
    const sides = this.sides();
    const id = newId();
    const messages = sides.map(({ model, settings }, side) =>
      this.conversation.add(parent, {
        role: "assistant",
        model,
        settings,
        ...(sides.length > 1 ? { pair: { id, side, choice: null } } : {}),
      }),
    );
    this.conversation.show(messages[0].id);
    this.#run(messages);
  }

  async #run(messages) {
    const { conversation } = this;
    const probabilities = this.probabilities();
    const running = messages.map((message) => {
      const { model, settings, parent } = message;
      const context = this.contextOf(model);
      const request = requestFor(conversation, parent, { model, settings, probabilities, context });
      const generation = new Generation(this.server, request, message, () => {
        if (conversation === this.conversation) this.listeners.onText(message);
        this.saveSoon(conversation);
      });
      message.state = "generating";
      this.generations.set(message.id, { generation, conversation });
      return generation;
    });
    this.#changed();
    await Promise.all(
      running.map(async (generation) => {
        await generation.run();
        this.generations.delete(generation.message.id);
      }),
    );
    this.save(conversation);
    if (conversation === this.conversation) this.listeners.onChange();
    this.listeners.onFinish(messages);
  }

  #changed(touch = true) {
    this.save(this.conversation, touch);
    this.listeners.onChange();
  }

  /** Saves a conversation within `SAVE_INTERVAL`. */
  saveSoon(conversation = this.conversation) {
    this.unsaved.add(conversation);
    this.saveTimer ||= setTimeout(() => {
      this.saveTimer = 0;
      this.saveAll();
    }, SAVE_INTERVAL);
  }

  saveAll() {
    this.unsaved.forEach((conversation) => this.save(conversation, false));
  }

  /** Stops generation in the conversation `id` and never saves it again. */
  discard(id) {
    this.deleted.add(id);
    this.stop(id);
  }

  /** Saves a conversation, unless it is empty. @param {boolean} [touch] whether to set the time of its last change */
  save(conversation, touch = true) {
    this.unsaved.delete(conversation);
    if (conversation.messages.size === 0 || this.deleted.has(conversation.id) || this.leaving) return;
    if (touch) conversation.updated = Date.now();
    try {
      const { reduced } = this.store.save(conversation);
      if (reduced) this.listeners.onSaveError(null);
      else this.listeners.onSave();
    } catch (error) {
      this.listeners.onSaveError(error);
    }
  }
}
