/**
 * A conversation: a tree of what was written, by whom, and which branch is shown. Pure: it knows no page and no
 * storage.
 *
 * A chat's nodes are messages. A text's nodes (`mode` "completion") are its pieces, to be read one after the other;
 * the person's are `user`, the model's `assistant`.
 *
 * @typedef {"writing"|"done"|"stopped"|"failed"} State how an answer stands
 * @typedef {[string, number, [string, number][]]} Token text, log-probability, and the likeliest in its place
 *
 * @typedef {Object} Piece
 * @property {string} id
 * @property {string|null} parent
 * @property {"user"|"assistant"} role
 * @property {string} text
 * @property {number} created milliseconds since 1970
 * @property {string|null} next the child that is shown
 * @property {string} [model]
 * @property {Object} [settings] as they were sent
 * @property {State} [state]
 * @property {"stop"|"length"|null} [finish]
 * @property {{kind: string, message: string, retryAfter?: number}|null} [problem]
 * @property {{first?: number, rate?: number, tokens?: number, prompt?: number, leftOut?: number}} [stats]
 *   milliseconds; tokens a second
 * @property {Token[]} [tokens]
 * @property {{id: string, side: 0|1, choice: 0|1|"tie"|null}} [pair] one of two that were asked for side by side
 * @property {"up"|"down"|null} [rating]
 * @property {boolean} [edited] written or changed by the person, though in the model's place
 */

/** Random enough to be unique. (`crypto.randomUUID` is missing where the page comes by plain http from elsewhere.) */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const TITLE_LENGTH = 60;

export class Conversation {
  /** @param {{id?: string, mode?: "chat"|"completion", title?: string, system?: string, created?: number,
   *   updated?: number}} [fields] */
  constructor({ id = newId(), mode = "chat", title = "", system = "", created = Date.now(), updated = created } = {}) {
    Object.assign(this, { id, mode, title, system, created, updated });
    /** @type {string|null} the first piece that is shown */
    this.first = null;
    /** @type {Map<string, Piece>} in the order of their making: parents before children */
    this.pieces = new Map();
    /** @type {Map<string|null, string[]>} */
    this.childrenOf = new Map();
  }

  /** Adds a piece after `parent` and shows it. @returns {Piece} */
  add(parent, fields) {
    if (parent !== null && !this.pieces.has(parent)) throw new Error(`there is no piece ${parent}`);
    const piece = { id: newId(), created: Date.now(), next: null, text: "", ...fields, parent };
    this.pieces.set(piece.id, piece);
    this.childrenOf.set(parent, [...(this.childrenOf.get(parent) ?? []), piece.id]);
    this.show(piece.id);
    return piece;
  }

  /** @returns {Piece[]} */
  children(id) {
    return (this.childrenOf.get(id) ?? []).map((child) => this.pieces.get(child));
  }

  /** The versions of a piece, itself included, in the order of their making. @returns {Piece[]} */
  siblings(piece) {
    return this.children(piece.parent);
  }

  /** Shows the branch that leads through `id`; below it, what was shown there last. */
  show(id) {
    let piece = this.pieces.get(id);
    while (piece) {
      const parent = this.pieces.get(piece.parent);
      if (parent) parent.next = piece.id;
      else this.first = piece.id;
      piece = parent;
    }
  }

  /** What is shown, from the beginning. @returns {Piece[]} */
  path() {
    const shown = [];
    for (let piece = this.pieces.get(this.first); piece; piece = this.pieces.get(piece.next)) shown.push(piece);
    return shown;
  }

  /** The last piece shown. @returns {Piece|null} */
  leaf() {
    return this.path().at(-1) ?? null;
  }

  /** From the beginning to the piece `id`. @returns {Piece[]} */
  until(id) {
    const pieces = [];
    for (let piece = this.pieces.get(id); piece; piece = this.pieces.get(piece.parent)) pieces.push(piece);
    return pieces.reverse();
  }

  /** The messages to send for an answer to the piece `id`. */
  messages(id) {
    const system = this.system.trim() ? [{ role: "system", content: this.system }] : [];
    const said = this.until(id).filter((piece) => piece.text !== "");
    return [...system, ...said.map(({ role, text }) => ({ role, content: text }))];
  }

  /** The text up to the end of the piece `id`. */
  textUntil(id) {
    return this.until(id)
      .map((piece) => piece.text)
      .join("");
  }

  /** The other answer of a side-by-side pair. @returns {Piece|null} */
  partner(piece) {
    if (!piece.pair) return null;
    return this.siblings(piece).find((other) => other !== piece && other.pair?.id === piece.pair.id) ?? null;
  }

  /** What it is called: as the person called it, or how it begins. */
  get name() {
    return this.title || nameOf(this.path().find((piece) => piece.text.trim())?.text ?? "") || "New conversation";
  }

  toJSON() {
    const { id, mode, title, system, created, updated, first } = this;
    return { id, mode, title, system, created, updated, first, pieces: [...this.pieces.values()] };
  }
}

/** One short line of a text, without characters that are not seen or turn the direction of writing. */
export function nameOf(text) {
  const line = text
    .slice(0, 1000)
    .replace(/[\p{C}\s]+/gu, " ")
    .trim();
  return line.length > TITLE_LENGTH ? `${line.slice(0, TITLE_LENGTH).trimEnd()}…` : line;
}

/**
 * What is drawn, one entry below the other: a piece the person said, an answer, or two answers side by side. In a text
 * the person's piece and what follows it are one entry, as they are one passage.
 *
 * @param {Conversation} conversation
 * @returns {{key: string, prompt: Piece|null, answers: Piece[]}[]}
 */
export function entries(conversation) {
  const made = [];
  const path = conversation.path();
  let prompt = null;
  const close = () => {
    if (prompt) made.push({ key: prompt.id, prompt, answers: [] });
    prompt = null;
  };
  path.forEach((piece, index) => {
    if (piece.role === "user") {
      close();
      prompt = piece;
      return;
    }
    if (conversation.mode === "chat") close();
    const partner = index === path.length - 1 && piece.pair?.choice === null ? conversation.partner(piece) : null;
    const answers = partner ? [piece, partner].sort((one, other) => one.pair.side - other.pair.side) : [piece];
    const key = [prompt?.id, ...answers.map((answer) => answer.id)].filter(Boolean).join(" ");
    made.push({ key, prompt, answers });
    prompt = null;
  });
  close();
  return made;
}
