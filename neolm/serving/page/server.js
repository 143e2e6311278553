/**
 * Requests to the server of this page. Every failure is a `ServerError`.
 *
 * @typedef {{version: string, feedback: boolean, key_required: boolean,
 *   limits: {max_tokens: number, choices: number}}} Info
 * @typedef {{id: string, kind: "generate"|"embed"|"classify", context: number, family: string, parameters: number,
 *   loaded: boolean, chat_template: "plain"|"own"|null, dimensions: number|null,
 *   labels: string[]|null, pair: boolean|null}} Model
 */

import { events } from "./server-sent-events.js";

const KINDS = {
  400: "invalid_request",
  401: "unauthorized",
  403: "unauthorized",
  404: "not_found",
  413: "too_large",
  422: "invalid_request",
  429: "overloaded",
  503: "unavailable",
};

export class ServerError extends Error {
  /**
   * @param {string} kind a key of `errorText`'s table, or "server_error"
   * @param {string} [message] the server's error message
   * @param {number} [retryAfter] seconds
   */
  constructor(kind, message = "", retryAfter = undefined) {
    super(message);
    this.kind = kind;
    this.retryAfter = retryAfter;
  }
}

/** An error message for the user. @param {{kind: string, message: string}} error */
export function errorText({ kind, message } = { kind: "server_error", message: "" }) {
  const detail = message ? ` Server message: ${message}` : "";
  return (
    {
      unreachable: "The server cannot be reached. Check that it is running. Your conversations are saved.",
      disconnected: "The connection was lost before the answer was complete. The text so far is kept.",
      stream_error: `The server stopped in the middle of the answer. The text so far is kept.${detail}`,
      page_closed: "The page was closed while this answer was generated. The text so far is kept.",
      unauthorized: "The server requires an API key.",
      overloaded: "The server is busy. Try again later.",
      unavailable: `The model is not available at the moment.${detail}`,
      invalid_request: `The server rejected the request.${detail}`,
      not_found: `Not found on this server.${detail}`,
      context_length: `The last message alone exceeds the model’s context. Shorten it and send it again.${detail}`,
      too_large: `The request is larger than the server accepts.${detail}`,
    }[kind] ?? `The server failed.${detail}`
  );
}

async function errorFrom(response) {
  let message = "";
  let kind = KINDS[response.status] ?? "server_error";
  try {
    const body = await response.json();
    if (body?.error?.code === "context_length_exceeded") kind = "context_length";
    if (body?.error?.code === "too_many_words") kind = "too_many_words";
    if (typeof body?.error?.message === "string") message = body.error.message.slice(0, 1000);
  } catch {
    // Not JSON (a proxy's error page, for example): the status is enough.
  }
  const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  return new ServerError(kind, message, seconds > 0 ? Math.min(seconds, 3600) : undefined);
}

export class Server {
  constructor(apiKey) {
    this.apiKey = apiKey;
  }

  async #fetch(path, { body, signal } = {}) {
    const { headers } = this.apiKey;
    const post = {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers },
      body: JSON.stringify(body),
    };
    let response;
    try {
      const request = body === undefined ? { headers } : post;
      response = await fetch(path, { ...request, signal, cache: "no-store", credentials: "same-origin" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError("unreachable");
    }
    if (!response.ok) throw await errorFrom(response);
    return response;
  }

  async #json(path, options) {
    const response = await this.#fetch(path, options);
    try {
      return await response.json();
    } catch {
      throw new ServerError("server_error", "the response is not JSON.");
    }
  }

  /** @returns {Promise<Info>} */
  info() {
    return this.#json("/api/info");
  }

  /** @returns {Promise<Model[]>} */
  async models() {
    const { data } = await this.#json("/v1/models");
    return Array.isArray(data) ? data.filter((model) => typeof model?.id === "string") : [];
  }

  /** A model's card, lineage and configuration. */
  model(id) {
    return this.#json(`/api/models/${encodeURIComponent(id)}`);
  }

  /** Vectors of length 1, and the number of tokens that were too many for the model. */
  async embed(model, input) {
    const body = { model, input, normalize: true, encoding_format: "float", truncate_prompt_tokens: -1 };
    const { data, usage } = await this.#json("/v1/embeddings", { body });
    return { vectors: data.map(({ embedding }) => embedding), leftOut: usage.left_out_tokens ?? 0 };
  }

  /**
   * What a classifier says about a text or a pair, with the effect of each word unless there are too many.
   *
   * @param {string} model
   * @param {{text: string, second?: string}} input
   * @returns {Promise<{result: Object, note: string}>} `note` says why there are no words
   */
  async classify(model, input) {
    const ask = async (explain) => {
      const { data } = await this.#json("/v1/classify", { body: { model, input: [input], top_k: 20, explain } });
      return data[0];
    };
    try {
      return { result: await ask(true), note: "" };
    } catch (error) {
      if (error.kind !== "too_many_words") throw error;
      return { result: await ask(false), note: error.message };
    }
  }

  /** @returns {Promise<{id: number}>} */
  feedback(body) {
    return this.#json("/api/feedback", { body });
  }

  /**
   * Streams an answer.
   *
   * @param {string} path
   * @param {Object} body
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<Object>} the chunks
   */
  async *stream(path, body, signal) {
    const response = await this.#fetch(path, { body, signal });
    try {
      for await (const data of events(response.body)) {
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk?.error) throw new ServerError("stream_error", String(chunk.error.message ?? "").slice(0, 1000));
        yield chunk;
      }
    } catch (error) {
      if (error instanceof ServerError || error.name === "AbortError") throw error;
      throw error instanceof SyntaxError
        ? new ServerError("stream_error", "a chunk of the answer is not JSON.")
        : new ServerError("disconnected");
    }
    throw new ServerError("disconnected"); // the stream ended without [DONE]
  }
}
