/**
 * Conversations as files: JSON to import again, and Markdown to read. Input is untrusted (a file, or browser storage
 * that anything may have written to): every field is checked, and unknown fields are left out.
 */

import { Conversation } from "./conversation.js";
import { parseParameters } from "./sampling.js";

const FORMAT = "neolm-conversations";
const VERSION = 1;
export const MAX_FILE_BYTES = 64 * 2 ** 20;
const MAX_MESSAGES = 20_000;
const MAX_CONVERSATIONS = 2_000;
const STATS = ["firstToken", "tokensPerSecond", "promptTokens", "completionTokens", "truncatedTokens"];

/** What is wrong with the input, and where. */
export class FormatError extends Error {}

function check(condition, where, what) {
  if (!condition) throw new FormatError(`${where} ${what}`);
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isString = (value, maxLength = 2 ** 24) => typeof value === "string" && value.length <= maxLength;
const isId = (value) => isString(value, 64) && /^[\w-]+$/.test(value);
const isCount = (value) => Number.isFinite(value) && value >= 0;
const oneOf = (value, ...allowed) => (allowed.includes(value) ? value : null);
const defined = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));

function parseTokens(data) {
  if (!Array.isArray(data)) return undefined;
  const isPair = (value) => Array.isArray(value) && isString(value[0], 4096) && Number.isFinite(value[1]);
  const tokens = data.filter(isPair).map(([text, logprob, alternatives]) => [
    text,
    logprob,
    (Array.isArray(alternatives) ? alternatives : [])
      .filter(isPair)
      .slice(0, 20)
      .map(([t, p]) => [t, p]),
  ]);
  return tokens.length === data.length ? tokens : undefined; // without one of them, the text would have a gap
}

function parseAnswer(data) {
  const stats = isObject(data.stats) ? data.stats : {};
  const { pair, error } = data;
  // An answer that was being generated when the page was closed does not continue.
  const interrupted = data.state === "generating";
  return defined({
    model: isString(data.model, 512) ? data.model : "",
    settings: parseParameters(data.settings),
    state: interrupted ? "failed" : (oneOf(data.state, "done", "stopped", "failed") ?? "done"),
    finishReason: oneOf(data.finishReason, "stop", "length", "content_filter"),
    error: interrupted
      ? { kind: "page_closed", message: "" }
      : isObject(error) && isString(error.kind, 32) && isString(error.message, 4096)
        ? { kind: error.kind, message: error.message }
        : undefined,
    stats: Object.fromEntries(STATS.filter((key) => isCount(stats[key])).map((key) => [key, stats[key]])),
    tokens: parseTokens(data.tokens),
    pair:
      isObject(pair) && isString(pair.id, 64) && [0, 1].includes(pair.side)
        ? { id: pair.id, side: pair.side, choice: oneOf(pair.choice, 0, 1, "tie") }
        : undefined,
    rating: oneOf(data.rating, "up", "down") ?? undefined,
    edited: data.edited === true ? true : undefined,
  });
}

/**
 * @param {unknown} data one conversation, in the format of `Conversation.toJSON`
 * @throws {FormatError}
 */
export function parseConversation(data) {
  check(isObject(data), "The conversation", "is not an object.");
  check(isId(data.id), "id", "is not a valid id.");
  check(["chat", "completion"].includes(data.mode), "mode", 'is neither "chat" nor "completion".');
  const messages = data.messages ?? data.pieces; // "pieces": written before version 0.1
  check(Array.isArray(messages) && messages.length <= MAX_MESSAGES, "messages", "is not a list of messages.");
  const conversation = new Conversation({
    id: data.id,
    mode: data.mode,
    title: isString(data.title, 1000) ? data.title : "",
    system: isString(data.system) ? data.system : "",
    created: isCount(data.created) ? data.created : Date.now(),
    updated: isCount(data.updated) ? data.updated : Date.now(),
  });
  messages.forEach((message, index) => {
    const where = `messages[${index}]`;
    check(isObject(message), where, "is not an object.");
    const { id, parent, role, text } = message;
    check(isId(id), `${where}.id`, "is not a valid id.");
    check(!conversation.messages.has(id), `${where}.id`, "occurs twice.");
    check(parent === null || conversation.messages.has(parent), `${where}.parent`, "is not an earlier message.");
    check(["user", "assistant"].includes(role), `${where}.role`, 'is neither "user" nor "assistant".');
    check(isString(text), `${where}.text`, "is not a string.");
    const created = isCount(message.created) ? message.created : conversation.created;
    conversation.add(parent, { id, role, text, created, ...(role === "assistant" ? parseAnswer(message) : {}) });
  });
  // `add` shows the newest branch everywhere; restore the branches that were shown, where they exist.
  messages.forEach(({ id, next }) => {
    if (conversation.messages.get(next)?.parent === id) conversation.messages.get(id).next = next;
  });
  if (conversation.messages.get(data.first)?.parent === null) conversation.first = data.first;
  return conversation;
}

export function serializeFile(conversations) {
  const file = { format: FORMAT, version: VERSION, exported: new Date().toISOString(), conversations };
  return `${JSON.stringify(file, null, 1)}\n`;
}

/**
 * @param {string} text
 * @returns {Conversation[]}
 * @throws {FormatError} with a message for the user
 */
export function parseFile(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new FormatError("The file is not JSON.");
  }
  check(isObject(file) && file.format === FORMAT, "The file", "is not an export of NeoLM conversations.");
  const { version, conversations } = file;
  check(version === VERSION, "The file", `has version ${Number(version)}; this page reads version ${VERSION}.`);
  check(
    Array.isArray(conversations) && conversations.length > 0 && conversations.length <= MAX_CONVERSATIONS,
    "The file",
    "contains no list of conversations.",
  );
  return conversations.map((data, index) => {
    try {
      return parseConversation(data);
    } catch (error) {
      throw new FormatError(`In conversation ${index + 1} of the file: ${error.message}`);
    }
  });
}

/** The branch that is shown, as Markdown. */
export function toMarkdown(conversation) {
  const day = new Date(conversation.created).toISOString().slice(0, 10);
  const lines = [`# ${conversation.name}`, "", `${day}, NeoLM`, ""];
  if (conversation.system.trim()) lines.push("## System", "", conversation.system.trim(), "");
  for (const { role, text, model, edited, settings = {} } of conversation.path()) {
    const values = Object.entries(settings).map(([key, value]) => `${key} ${JSON.stringify(value)}`);
    lines.push(`## ${role === "user" ? "You" : edited ? `${model} (edited)` : model}`, "");
    if (values.length && !edited) lines.push(`*${values.join(", ")}*`, "");
    // A fence that is longer than any in the text keeps the spaces of a completion exact.
    const fence = "`".repeat(Math.max(3, ...(text.match(/`+/g) ?? []).map((run) => run.length + 1)));
    lines.push(...(conversation.mode === "chat" ? [text] : [fence, text, fence]), "");
  }
  return lines.join("\n");
}

/** A file name of letters that every file system accepts. */
export function fileName(conversation, extension) {
  const name = conversation.name
    .normalize("NFKD")
    .replace(/[^a-zA-Z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "")
    .toLowerCase();
  return `${name.slice(0, 40) || "conversation"}.${extension}`;
}
