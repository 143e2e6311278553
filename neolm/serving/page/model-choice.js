/** The models of the server, and which of them the user chose. */

const MAX_TOKENS = 4096; // unless the server's limit is lower
const READERS = ["embed", "classify"]; // kinds of models that cannot write
const SIDES = ["left", "right"];

export class ModelChoice {
  constructor(preferences) {
    this.preferences = preferences;
    /** @type {Model[]} */
    this.all = [];
  }

  /** @returns {Model|undefined} */
  find(id) {
    return this.all.find((model) => model.id === id);
  }

  /** The models that write texts. */
  get writers() {
    return this.all.filter(({ kind }) => !READERS.includes(kind));
  }

  /** The chosen model, if it reads texts and cannot write. @returns {Model|undefined} */
  get reader() {
    const chosen = this.find(this.preferences.get("leftModel")) ?? this.all[0];
    return READERS.includes(chosen?.kind) ? chosen : undefined;
  }

  /** Conversations need a model that writes. @returns {boolean} whether another model is chosen now */
  leaveReader() {
    const [writer] = this.writers;
    if (!this.reader || !writer) return false;
    this.preferences.set("leftModel", writer.id);
    return true;
  }

  /** Model and settings of both sides, whether they are compared or not. @param {number} [limit] of max_tokens */
  sides(limit) {
    const { writers } = this;
    const find = (side) => writers.find(({ id }) => id === this.preferences.get(`${side}Model`))?.id;
    const first = find("left") ?? writers[0]?.id ?? "";
    const second = find("right") ?? writers.find(({ id }) => id !== first)?.id ?? first;
    return [first, second].map((model, side) => {
      const context = this.find(model)?.context;
      const maxTokens = Math.min(limit || MAX_TOKENS, context ?? Infinity);
      const settings = this.preferences.get(SIDES[side]);
      const max_tokens = Math.min(settings.max_tokens, maxTokens);
      return { model, context, maxTokens, settings: { ...settings, max_tokens } };
    });
  }
}
