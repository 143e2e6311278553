/**
 * The server this page came from. Whatever goes wrong is a `ServerError` that knows how to say it.
 *
 * @typedef {{version: string, feedback: boolean, key_required: boolean,
 *   limits: {max_tokens: number, choices: number}}} Info
 * @typedef {{id: string, context: number, family: string, parameters: number, loaded: boolean,
 *   chat_template: "plain"|"own"}} Model
 */

import { events } from "./events.js";

const KINDS = {
  400: "refused",
  401: "key",
  403: "key",
  404: "gone",
  413: "long",
  422: "refused",
  429: "busy",
  503: "unready",
};

export class ServerError extends Error {
  /**
   * @param {string} kind "network", "cut", "broken", "key", "busy", "unready", "refused", "gone", "long", "context" or
   *   "failed"
   * @param {string} message the server's words, if any
   * @param {number} [retryAfter] seconds
   */
  constructor(kind, message = "", retryAfter = undefined) {
    super(message);
    this.kind = kind;
    this.retryAfter = retryAfter;
  }
}

/** What went wrong, in plain words. @param {{kind: string, message: string}} problem */
export function explain({ kind, message }) {
  const said = message ? ` The server says: ${message}` : "";
  return (
    {
      network: "The server cannot be reached. Is it still running? What is here is kept.",
      cut: "The connection ended before the answer was complete. What came is kept.",
      broken: `The answer broke off. What came is kept.${said}`,
      left: "The page was closed while this was being written. What came is kept.",
      key: "The server wants a key.",
      busy: "The server has too much to do at the moment.",
      unready: `The model cannot answer at the moment.${said}`,
      refused: `The server did not take the request.${said}`,
      gone: `The server does not know what was asked for.${said}`,
      context: `The last message alone is longer than the model can read. Shorten it, and send it again.${said}`,
      long: `This is longer than the server takes.${said}`,
    }[kind] ?? `Something went wrong in the server.${said}`
  );
}

async function errorOf(response) {
  let message = "";
  let kind = KINDS[response.status] ?? "failed";
  try {
    const body = await response.json();
    if (body?.error?.code === "context_length_exceeded") kind = "context";
    if (typeof body?.error?.message === "string") message = body.error.message.slice(0, 1000);
  } catch {
    // A proxy's page, or nothing: the status says enough.
  }
  const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  return new ServerError(
    kind,
    message,
    seconds > 0 ? Math.min(seconds, 3600) : undefined,
  );
}

export class Server {
  /** @param {import("./keyring.js").Keyring} keyring */
  constructor(keyring) {
    this.keyring = keyring;
  }

  async #ask(path, { body, signal } = {}) {
    const request =
      body === undefined
        ? { headers: this.keyring.headers }
        : {
            method: "POST",
            headers: { "Content-Type": "application/json", ...this.keyring.headers },
            body: JSON.stringify(body),
          };
    let response;
    try {
      response = await fetch(path, { ...request, signal, cache: "no-store", credentials: "same-origin" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError("network");
    }
    if (!response.ok) throw await errorOf(response);
    return response;
  }

  async #json(path, options) {
    const response = await this.#ask(path, options);
    try {
      return await response.json();
    } catch {
      throw new ServerError("failed", "its answer is not JSON.");
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

  /** @returns {Promise<{id: number}>} */
  feedback(body) {
    return this.#json("/api/feedback", { body });
  }

  /**
   * @param {string} path
   * @param {Object} body
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<Object>} each chunk
   */
  async *stream(path, body, signal) {
    const response = await this.#ask(path, { body, signal });
    try {
      for await (const data of events(response.body)) {
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk?.error) throw new ServerError("broken", String(chunk.error.message ?? "").slice(0, 1000));
        yield chunk;
      }
    } catch (error) {
      if (error instanceof ServerError || error.name === "AbortError") throw error;
      throw error instanceof SyntaxError
        ? new ServerError("broken", "a piece of the answer is not JSON.")
        : new ServerError("cut");
    }
    throw new ServerError("cut"); // it ended without saying so
  }
}
