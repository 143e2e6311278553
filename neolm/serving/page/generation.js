/** Generates one answer: sends the request and appends the streamed chunks to a message. */

import { ServerError } from "./server.js";

const NUM_ALTERNATIVES = 5;

/** The longest prompt that leaves room for an answer, in tokens. At least half of the context belongs to the prompt. */
export function maxPromptTokens(context, maxTokens) {
  return context - Math.min(maxTokens ?? context, context >> 1);
}

/** The request for an answer to the message `parent`. A longer prompt is truncated at its beginning. */
export function requestFor(conversation, parent, { model, settings, probabilities, context }) {
  const common = { model, ...settings, stream: true, stream_options: { include_usage: true } };
  if (context) common.truncate_prompt_tokens = maxPromptTokens(context, settings.max_tokens);
  if (conversation.mode === "chat") {
    // Unpaired surrogates (half of an emoji, for example) are not valid text for the server.
    const prompt = conversation.promptMessages(parent);
    const messages = prompt.map(({ role, content }) => ({ role, content: content.toWellFormed() }));
    const logprobs = probabilities ? { logprobs: true, top_logprobs: NUM_ALTERNATIVES } : {};
    return { path: "/v1/chat/completions", body: { ...common, messages, ...logprobs } };
  }
  const logprobs = probabilities ? { logprobs: NUM_ALTERNATIVES } : {};
  const prompt = conversation.promptText(parent).toWellFormed();
  return { path: "/v1/completions", body: { ...common, prompt, ...logprobs } };
}

const rounded = (value) => (Number.isFinite(value) ? Math.round(value * 1e4) / 1e4 : -100);
const stringOr = (value) => (typeof value === "string" ? value : "");

/** A token's text, or its bytes where they are not valid UTF-8 (part of a character). */
function tokenText(token, bytes) {
  if (!Array.isArray(bytes)) return stringOr(token);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
  } catch {
    return `⟨${bytes.map((byte) => byte.toString(16).padStart(2, "0").toUpperCase()).join(" ")}⟩`;
  }
}

/** @returns {Token[]} */
function chatTokens(logprobs) {
  return (logprobs?.content ?? []).map(({ token, logprob, bytes, top_logprobs: top }) => [
    tokenText(token, bytes),
    rounded(logprob),
    (top ?? []).map((other) => [tokenText(other.token, other.bytes), rounded(other.logprob)]),
  ]);
}

/** @returns {Token[]} */
function completionTokens(logprobs) {
  return (logprobs?.tokens ?? []).map((token, index) => [
    stringOr(token),
    rounded(logprobs.token_logprobs?.[index] ?? 0),
    Object.entries(logprobs.top_logprobs?.[index] ?? {})
      .map(([other, logprob]) => [other, rounded(logprob)])
      .sort((a, b) => b[1] - a[1]),
  ]);
}

export class Generation {
  /**
   * @param {Server} server
   * @param {{path: string, body: Object}} request
   * @param {Message} message receives the text
   * @param {(message: Message) => void} onChange called for each chunk
   */
  constructor(server, request, message, onChange) {
    Object.assign(this, { server, request, message, onChange });
    this.abort = new AbortController();
  }

  /** Resolves when the answer ends, for whatever reason; `message.state` is the outcome. */
  async run() {
    const { message } = this;
    const started = performance.now();
    let first = null;
    let last = started;
    let chunks = 0;
    Object.assign(message, { state: "generating", error: undefined, stats: {} });
    const count = (tokens) => {
      Object.assign(message.stats, { firstToken: Math.round(first - started), completionTokens: tokens });
      if (last - first > 10 && tokens > 1)
        message.stats.tokensPerSecond = Math.round(((tokens - 1) / (last - first)) * 1e4) / 10;
    };
    try {
      for await (const chunk of this.server.stream(this.request.path, this.request.body, this.abort.signal)) {
        if (this.#append(chunk)) {
          chunks += 1;
          last = performance.now();
          first ??= last;
          count(message.tokens?.length || chunks); // an estimate, until the usage arrives at the end
        }
        if (chunk.usage) {
          const { prompt_tokens: prompt, completion_tokens: completion, left_out_tokens: truncated } = chunk.usage;
          if (Number.isFinite(completion) && first !== null) count(completion);
          if (Number.isFinite(prompt)) message.stats.promptTokens = prompt;
          if (truncated > 0) message.stats.truncatedTokens = truncated;
        }
        this.onChange(message);
      }
      message.state = "done";
    } catch (error) {
      if (error.name === "AbortError") {
        message.state = "stopped";
      } else {
        const { kind = "server_error", retryAfter } = error instanceof ServerError ? error : {};
        message.state = "failed";
        message.error = { kind, message: String(error.message ?? error), retryAfter };
      }
    }
    this.onChange(message);
  }

  /** @returns {boolean} whether the chunk contains text or tokens */
  #append(chunk) {
    const { message } = this;
    const choice = chunk.choices?.[0];
    if (!choice) return false;
    const isChat = choice.delta !== undefined;
    const text = stringOr(isChat ? choice.delta?.content : choice.text);
    const tokens = isChat ? chatTokens(choice.logprobs) : completionTokens(choice.logprobs);
    message.text += text;
    if (tokens.length) (message.tokens ??= []).push(...tokens);
    const reason = choice.finish_reason;
    if (reason) message.finishReason = ["length", "content_filter"].includes(reason) ? reason : "stop";
    return text !== "" || tokens.length > 0;
  }

  stop() {
    this.abort.abort();
  }
}
