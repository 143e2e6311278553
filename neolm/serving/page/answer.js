/**
 * An answer being written: asks the server, and puts what comes into the conversation's piece.
 */

import { ServerError } from "./server.js";

const ALTERNATIVES = 5;

/** What is sent for an answer to the piece `parent`. */
export function requestFor(conversation, parent, { model, settings, probabilities, context }) {
  const common = { model, ...settings, stream: true, stream_options: { include_usage: true } };
  // Half of the context at least is for what is there; what is longer goes on from its end.
  if (context) common.truncate_prompt_tokens = context - Math.min(settings.max_tokens ?? context, context >> 1);
  if (conversation.mode === "chat") {
    const messages = conversation
      .messages(parent)
      .map((message) => ({ ...message, content: wellFormed(message.content) }));
    const logprobs = probabilities ? { logprobs: true, top_logprobs: ALTERNATIVES } : {};
    return { path: "/v1/chat/completions", body: { ...common, messages, ...logprobs } };
  }
  const logprobs = probabilities ? { logprobs: ALTERNATIVES } : {};
  return {
    path: "/v1/completions",
    body: { ...common, prompt: wellFormed(conversation.textUntil(parent)), ...logprobs },
  };
}

/** Half of a surrogate pair (from a cut emoji, say) is no text for the server. */
export function wellFormed(text) {
  return (
    text.toWellFormed?.() ??
    text.replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd")
  );
}

const round = (value) => (Number.isFinite(value) ? Math.round(value * 1e4) / 1e4 : -100);
const text = (value) => (typeof value === "string" ? value : "");

/** A token's text, or its bytes where they are no text by themselves (half of a character). */
function tokenText(token, bytes) {
  if (!Array.isArray(bytes)) return text(token);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
  } catch {
    return `⟨${bytes.map((byte) => byte.toString(16).padStart(2, "0").toUpperCase()).join(" ")}⟩`;
  }
}

/** @returns {import("./conversation.js").Token[]} */
export function chatTokens(logprobs) {
  return (logprobs?.content ?? []).map(({ token, logprob, bytes, top_logprobs: top }) => [
    tokenText(token, bytes),
    round(logprob),
    (top ?? []).map((other) => [tokenText(other.token, other.bytes), round(other.logprob)]),
  ]);
}

/** @returns {import("./conversation.js").Token[]} */
export function completionTokens(logprobs) {
  return (logprobs?.tokens ?? []).map((token, index) => [
    text(token),
    round(logprobs.token_logprobs?.[index] ?? 0),
    Object.entries(logprobs.top_logprobs?.[index] ?? {})
      .map(([other, logprob]) => [other, round(logprob)])
      .sort((one, other) => other[1] - one[1]),
  ]);
}

export class Answer {
  /**
   * @param {import("./server.js").Server} server
   * @param {{path: string, body: Object}} request
   * @param {import("./conversation.js").Piece} piece takes what comes
   * @param {(piece: import("./conversation.js").Piece) => void} changed called for every bit
   */
  constructor(server, request, piece, changed) {
    Object.assign(this, { server, request, piece, changed });
    this.abort = new AbortController();
  }

  /** Ends when the answer does, however it does; the piece's `state` says how. */
  async run() {
    const { piece } = this;
    const started = performance.now();
    let first = null;
    let last = started;
    let pieces = 0;
    Object.assign(piece, { state: "writing", problem: undefined, stats: {} });
    const count = (tokens) => {
      piece.stats = { ...piece.stats, first: Math.round(first - started), tokens };
      if (last - first > 10 && tokens > 1) piece.stats.rate = Math.round(((tokens - 1) / (last - first)) * 1e4) / 10;
    };
    try {
      for await (const chunk of this.server.stream(this.request.path, this.request.body, this.abort.signal)) {
        const grown = this.#take(chunk);
        if (grown) {
          pieces += 1;
          last = performance.now();
          first ??= last;
          count(piece.tokens?.length || pieces); // a good guess; the usage at the end knows
        }
        const usage = chunk.usage;
        if (usage && Number.isFinite(usage.completion_tokens) && first !== null) {
          count(usage.completion_tokens);
          piece.stats.prompt = usage.prompt_tokens;
          if (usage.left_out_tokens > 0) piece.stats.leftOut = usage.left_out_tokens;
        }
        this.changed(piece);
      }
      piece.state = "done";
    } catch (error) {
      if (error.name === "AbortError") {
        piece.state = "stopped";
      } else {
        const known = error instanceof ServerError ? error : new ServerError("failed", String(error.message ?? error));
        piece.state = "failed";
        piece.problem = { kind: known.kind, message: known.message, retryAfter: known.retryAfter };
      }
    }
    this.changed(piece);
  }

  /** @returns {boolean} whether it brought anything to see */
  #take(chunk) {
    const { piece } = this;
    const choice = chunk.choices?.[0];
    if (!choice) return false;
    const chat = choice.delta !== undefined;
    const grown = text(chat ? choice.delta?.content : choice.text);
    const tokens = chat ? chatTokens(choice.logprobs) : completionTokens(choice.logprobs);
    piece.text += grown;
    if (tokens.length) (piece.tokens ??= []).push(...tokens);
    if (choice.finish_reason) piece.finish = choice.finish_reason === "length" ? "length" : "stop";
    return grown !== "" || tokens.length > 0;
  }

  stop() {
    this.abort.abort();
  }
}
