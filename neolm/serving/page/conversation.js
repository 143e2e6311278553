/**
 * A conversation: a tree of messages, and which branch of it is shown. No DOM, no storage.
 *
 * Mode "chat": each node is a chat message. Mode "completion": each node is a passage of one text; the user's prompts
 * have the role `user`, the model's continuations the role `assistant`.
 *
 * @typedef {"generating"|"done"|"stopped"|"failed"} State
 * @typedef {[string, number, [string, number][]]} Token text, log-probability, most likely alternatives
 *
 * @typedef {Object} Message
 * @property {string} id
 * @property {string|null} parent
 * @property {"user"|"assistant"} role
 * @property {string} text
 * @property {number} created milliseconds since 1970
 * @property {string|null} next id of the child that is shown
 * @property {string} [model]
 * @property {Object} [settings] sampling parameters as they were sent
 * @property {State} [state]
 * @property {"stop"|"length"|"content_filter"|null} [finishReason]
 * @property {{kind: string, message: string, retryAfter?: number}|null} [error]
 * @property {Stats} [stats]
 * @property {Token[]} [tokens]
 * @property {{id: string, side: 0|1, choice: 0|1|"tie"|null}} [pair] one of two answers generated side by side
 * @property {"up"|"down"|null} [rating]
 * @property {boolean} [edited] whether the user wrote or changed this assistant message
 *
 * @typedef {Object} Stats
 * @property {number} [firstToken] milliseconds to the first token
 * @property {number} [tokensPerSecond]
 * @property {number} [promptTokens]
 * @property {number} [completionTokens]
 * @property {number} [truncatedTokens] tokens of the prompt that did not fit the context
 */

/** A unique id. (`crypto.randomUUID` does not exist on pages served over plain http, except on localhost.) */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const MAX_TITLE_LENGTH = 60;

export class Conversation {
  /** @param {{id?: string, mode?: "chat"|"completion", title?: string, system?: string, created?: number,
   *   updated?: number}} [fields] */
  constructor({ id = newId(), mode = "chat", title = "", system = "", created = Date.now(), updated = created } = {}) {
    Object.assign(this, { id, mode, title, system, created, updated });
    /** @type {string|null} the first message shown */
    this.first = null;
    /** @type {Map<string, Message>} in order of creation: parents before children */
    this.messages = new Map();
    /** @type {Map<string|null, string[]>} */
    this.childrenOf = new Map();
  }

  /** Adds a message after `parent` and shows it. @returns {Message} */
  add(parent, fields) {
    if (parent !== null && !this.messages.has(parent)) throw new Error(`message ${parent} does not exist`);
    const message = { id: newId(), created: Date.now(), next: null, text: "", ...fields, parent };
    this.messages.set(message.id, message);
    this.childrenOf.set(parent, [...(this.childrenOf.get(parent) ?? []), message.id]);
    this.show(message.id);
    return message;
  }

  /** The versions of a message, itself included, in order of creation. @returns {Message[]} */
  siblings({ parent }) {
    return (this.childrenOf.get(parent) ?? []).map((id) => this.messages.get(id));
  }

  /** Shows the branch that contains message `id`; below it, the branch that was shown there last. */
  show(id) {
    let message = this.messages.get(id);
    while (message) {
      const parent = this.messages.get(message.parent);
      if (parent) parent.next = message.id;
      else this.first = message.id;
      message = parent;
    }
  }

  /** The messages of the branch that is shown, from the first. @returns {Message[]} */
  path() {
    const shown = [];
    for (let at = this.messages.get(this.first); at; at = this.messages.get(at.next)) shown.push(at);
    return shown;
  }

  /** The last message shown. @returns {Message|null} */
  leaf() {
    return this.path().at(-1) ?? null;
  }

  /** The messages from the first to `id`. @returns {Message[]} */
  pathTo(id) {
    const messages = [];
    for (let at = this.messages.get(id); at; at = this.messages.get(at.parent)) messages.push(at);
    return messages.reverse();
  }

  /** The chat messages of a request that answers message `id`. */
  promptMessages(id) {
    const system = this.system.trim() ? [{ role: "system", content: this.system }] : [];
    const filled = this.pathTo(id).filter(({ text }) => text !== "");
    return [...system, ...filled.map(({ role, text }) => ({ role, content: text }))];
  }

  /** The text from the beginning to the end of message `id`. */
  promptText(id) {
    return this.pathTo(id)
      .map(({ text }) => text)
      .join("");
  }

  /** The other answer of a side-by-side pair. @returns {Message|null} */
  otherOfPair(message) {
    if (!message.pair) return null;
    return this.siblings(message).find((other) => other !== message && other.pair?.id === message.pair.id) ?? null;
  }

  /** The user's title, or else the first words. */
  get name() {
    return this.title || titleFrom(this.path().find(({ text }) => text.trim())?.text ?? "") || "New conversation";
  }

  toJSON() {
    const { id, mode, title, system, created, updated, first } = this;
    return { id, mode, title, system, created, updated, first, messages: [...this.messages.values()] };
  }
}

/** A text on one line, without control characters and marks that change the writing direction. */
export function singleLine(text) {
  return text.replace(/[\p{C}\s]+/gu, " ");
}

/** The beginning of a text as one short line. */
function titleFrom(text) {
  const line = singleLine(text.slice(0, 1000)).trim();
  return line.length > MAX_TITLE_LENGTH ? `${line.slice(0, MAX_TITLE_LENGTH).trimEnd()}…` : line;
}

/**
 * The rows of the conversation view: a user message, an answer, or two answers side by side. In mode "completion" a
 * prompt and its continuation share a row, because they are read as one passage.
 *
 * @param {Conversation} conversation
 * @returns {{key: string, prompt: Message|null, answers: Message[]}[]}
 */
export function rowsOf(conversation) {
  const rows = [];
  const path = conversation.path();
  let prompt = null;
  const closePrompt = () => {
    if (prompt) rows.push({ key: prompt.id, prompt, answers: [] });
    prompt = null;
  };
  path.forEach((message, index) => {
    if (message.role === "user") {
      closePrompt();
      prompt = message;
      return;
    }
    if (conversation.mode === "chat") closePrompt();
    const undecided = index === path.length - 1 && message.pair?.choice === null;
    const other = undecided ? conversation.otherOfPair(message) : null;
    const answers = other ? [message, other].sort((a, b) => a.pair.side - b.pair.side) : [message];
    const key = [prompt, ...answers]
      .filter(Boolean)
      .map(({ id }) => id)
      .join(" ");
    rows.push({ key, prompt, answers });
    prompt = null;
  });
  closePrompt();
  return rows;
}
