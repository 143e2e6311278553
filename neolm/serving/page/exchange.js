/**
 * Conversations as files: JSON that comes back whole, and Markdown to read. What is read here comes from outside (a
 * file, or a storage that anything may have written to), so every field is looked at, and what is not known is left
 * out.
 */

import { Conversation } from "./conversation.js";
import { parametersFrom } from "./settings.js";

export const FORMAT = "neolm-conversations";
const VERSION = 1;
export const MOST_BYTES = 64 * 2 ** 20;
const MOST_PIECES = 20_000;
const MOST_CONVERSATIONS = 2_000;

/** Says what is wrong with data from outside, and where. */
export class FormatError extends Error {}

function demand(condition, where, what) {
  if (!condition) throw new FormatError(`${where} ${what}`);
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isText = (value, longest = 2 ** 24) => typeof value === "string" && value.length <= longest;
const isCount = (value) => Number.isFinite(value) && value >= 0;
const oneOf = (value, ...allowed) => (allowed.includes(value) ? value : null);
const known = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));

function tokensFrom(data) {
  if (!Array.isArray(data)) return undefined;
  const pair = (value) => Array.isArray(value) && isText(value[0], 4096) && Number.isFinite(value[1]);
  const tokens = data.filter(pair).map(([text, logprob, others]) => [
    text,
    logprob,
    (Array.isArray(others) ? others : [])
      .filter(pair)
      .slice(0, 20)
      .map(([t, p]) => [t, p]),
  ]);
  return tokens.length === data.length ? tokens : undefined; // with one missing, the others stand in wrong places
}

function answerFrom(data) {
  const stats = isObject(data.stats) ? data.stats : {};
  const { pair, problem } = data;
  return known({
    model: isText(data.model, 512) ? data.model : "",
    settings: parametersFrom(data.settings),
    // One that was being written when the page went away will not be written any further.
    state: data.state === "writing" ? "failed" : (oneOf(data.state, "done", "stopped", "failed") ?? "done"),
    finish: oneOf(data.finish, "stop", "length"),
    problem:
      data.state === "writing"
        ? { kind: "left", message: "" }
        : isObject(problem) && isText(problem.kind, 32) && isText(problem.message, 4096)
          ? { kind: problem.kind, message: problem.message }
          : undefined,
    stats: known(
      Object.fromEntries(
        ["first", "rate", "tokens", "prompt", "leftOut"].map((key) => [key, isCount(stats[key]) ? stats[key] : undefined]),
      ),
    ),
    tokens: tokensFrom(data.tokens),
    pair:
      isObject(pair) && isText(pair.id, 64) && [0, 1].includes(pair.side)
        ? { id: pair.id, side: pair.side, choice: oneOf(pair.choice, 0, 1, "tie") }
        : undefined,
    rating: oneOf(data.rating, "up", "down") ?? undefined,
    edited: data.edited === true ? true : undefined,
  });
}

/**
 * @param {unknown} data one conversation, as `Conversation.toJSON` gives it
 * @throws {FormatError} it is not one
 */
export function conversationFrom(data) {
  demand(isObject(data), "The conversation", "is not an object.");
  demand(isText(data.id, 64) && /^[\w-]+$/.test(data.id), "id", "is not a name.");
  demand(["chat", "completion"].includes(data.mode), "mode", 'is neither "chat" nor "completion".');
  demand(Array.isArray(data.pieces) && data.pieces.length <= MOST_PIECES, "pieces", "is not a list of pieces.");
  const made = new Conversation({
    id: data.id,
    mode: data.mode,
    title: isText(data.title, 1000) ? data.title : "",
    system: isText(data.system) ? data.system : "",
    created: isCount(data.created) ? data.created : Date.now(),
    updated: isCount(data.updated) ? data.updated : Date.now(),
  });
  const shown = new Map();
  data.pieces.forEach((piece, index) => {
    const where = `pieces[${index}]`;
    demand(isObject(piece), where, "is not an object.");
    demand(isText(piece.id, 64) && /^[\w-]+$/.test(piece.id), `${where}.id`, "is not a name.");
    demand(!made.pieces.has(piece.id), `${where}.id`, "is there twice.");
    demand(piece.parent === null || made.pieces.has(piece.parent), `${where}.parent`, "is no piece before this one.");
    demand(["user", "assistant"].includes(piece.role), `${where}.role`, 'is neither "user" nor "assistant".');
    demand(isText(piece.text), `${where}.text`, "is not a text.");
    const common = { id: piece.id, role: piece.role, text: piece.text };
    const created = isCount(piece.created) ? piece.created : made.created;
    made.add(piece.parent, { ...common, created, ...(piece.role === "assistant" ? answerFrom(piece) : {}) });
    shown.set(piece.id, piece.next);
  });
  // `add` has shown the last one made everywhere; now the branches as they were, where those exist.
  for (const piece of made.pieces.values()) {
    const next = made.pieces.get(shown.get(piece.id));
    if (next?.parent === piece.id) piece.next = next.id;
  }
  if (made.pieces.get(data.first)?.parent === null) made.first = data.first;
  return made;
}

/** @param {Conversation[]} conversations */
export function toFile(conversations) {
  const file = { format: FORMAT, version: VERSION, exported: new Date().toISOString(), conversations };
  return `${JSON.stringify(file, null, 1)}\n`;
}

/**
 * @param {string} text
 * @returns {Conversation[]}
 * @throws {FormatError} with a sentence for people
 */
export function fromFile(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new FormatError("The file is not JSON.");
  }
  demand(isObject(file) && file.format === FORMAT, "The file", "holds no conversations of NeoLM.");
  demand(
    file.version === VERSION,
    "The file",
    `has version ${Number(file.version)}; this page reads version ${VERSION}.`,
  );
  const found = file.conversations;
  demand(
    Array.isArray(found) && found.length > 0 && found.length <= MOST_CONVERSATIONS,
    "The file",
    "holds no list of conversations.",
  );
  return found.map((data, index) => {
    try {
      return conversationFrom(data);
    } catch (error) {
      throw new FormatError(`In conversation ${index + 1} of the file: ${error.message}`);
    }
  });
}

/** The branch that is shown, to read. */
export function toMarkdown(conversation) {
  const day = new Date(conversation.created).toISOString().slice(0, 10);
  const lines = [`# ${conversation.name}`, "", `${day}, NeoLM`, ""];
  if (conversation.system.trim()) lines.push("## System", "", conversation.system.trim(), "");
  for (const piece of conversation.path()) {
    const settings = Object.entries(piece.settings ?? {}).map(([key, value]) => `${key} ${JSON.stringify(value)}`);
    const who = piece.role === "user" ? "You" : piece.edited ? `${piece.model} (edited)` : piece.model;
    lines.push(`## ${who}`, "");
    if (settings.length && !piece.edited) lines.push(`*${settings.join(", ")}*`, "");
    // A text's pieces are exact, spaces included; a fence longer than any in it keeps them so.
    const fence = "`".repeat(Math.max(3, ...(piece.text.match(/`+/g) ?? []).map((run) => run.length + 1)));
    lines.push(...(conversation.mode === "chat" ? [piece.text] : [fence, piece.text, fence]), "");
  }
  return lines.join("\n");
}

/** A name for a file, of letters that every file system takes. */
export function fileName(conversation, ending) {
  const name = conversation.name
    .normalize("NFKD")
    .replace(/[^a-zA-Z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "")
    .toLowerCase();
  return `${name.slice(0, 40) || "conversation"}.${ending}`;
}
