/**
 * Parses Markdown within a line: emphasis, code and links. Everything else is text. The parser needs one pass, so that
 * its time is linear for any input.
 *
 * Differences from CommonMark: delimiters within words are text (`snake_case`, 2*3*4), emphasis does not nest in the same
 * kind, images stay text, no link references, no HTML.
 *
 * @typedef {string|{type: "strong"|"em"|"del"|"code"|"link", href?: string, children: Span[]}} Span
 */

import { element } from "./dom.js";

const TYPES = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "del" };
const TAGS = { strong: "strong", em: "em", del: "del", code: "code" };
const MAX_URL_LENGTH = 2048;
const SPECIAL = /[\\`*_~[!h]/g;

/** @returns {string|null} the normalised URL, or null if it is not a safe http, https or mailto link */
function safeUrl(address) {
  if (address.length > MAX_URL_LENGTH || !/^(?:https?:\/\/|mailto:)/i.test(address)) return null;
  try {
    const { protocol, username, password, href } = new URL(address);
    // A user name before the host makes a URL look like that of another site.
    return ["http:", "https:", "mailto:"].includes(protocol) && !username && !password ? href : null;
  } catch {
    return null;
  }
}

/** Positions of the `]` for each `[`; empty if the text contains no link. */
function bracketPairs(text) {
  const pairs = new Map();
  if (!text.includes("](")) return pairs;
  const opened = [];
  for (const { index, 0: bracket } of text.matchAll(/\\.|[[\]]/gs)) {
    if (bracket === "[") opened.push(index);
    else if (bracket === "]" && opened.length) pairs.set(opened.pop(), index);
  }
  return pairs;
}

/** @returns {{address: string, end: number}|null} the URL in the parentheses that open at `start` */
function destination(text, start) {
  let depth = 0;
  for (let at = start; at < text.length && at - start <= MAX_URL_LENGTH; at += 1) {
    const letter = text[at];
    if (/[\s\p{C}<>]/u.test(letter)) {
      const title = /[ \t]+"[^"\n]{0,200}"\)/y;
      title.lastIndex = at;
      return depth === 1 && title.test(text) ? { address: text.slice(start + 1, at), end: title.lastIndex } : null;
    }
    if (letter === "(") depth += 1;
    if (depth > 3) return null;
    if (letter === ")") depth -= 1;
    if (depth === 0) return { address: text.slice(start + 1, at), end: at + 1 };
  }
  return null;
}

class InlineParser {
  /** @param {string} text @param {boolean} open whether the text may grow: incomplete syntax at its end is hidden */
  constructor(text, open, links) {
    Object.assign(this, { text, open, links, at: 0, plain: 0 });
    this.frames = [{ delimiter: "", spans: [] }];
    this.pairs = links ? bracketPairs(text) : new Map();
    this.unclosedRuns = new Set(); // lengths of backtick runs without a closing run
  }

  get spans() {
    return this.frames.at(-1).spans;
  }

  /** Emits the plain text before the current position. */
  flush(end = this.at) {
    if (end > this.plain) this.put(this.text.slice(this.plain, end));
    this.plain = this.at;
  }

  put(span) {
    const { spans } = this;
    if (typeof span === "string" && typeof spans.at(-1) === "string") spans[spans.length - 1] += span;
    else spans.push(span);
  }

  skipTo(end) {
    this.at = end;
    this.plain = end;
  }

  parse() {
    const { text } = this;
    for (;;) {
      SPECIAL.lastIndex = this.at;
      const found = SPECIAL.exec(text);
      if (!found) break;
      this.at = found.index;
      const letter = found[0];
      const parse = { "\\": "escape", "`": "code", "[": "link", "!": "image", h: "url" }[letter] ?? "emphasis";
      if (!this[parse](letter)) this.at += 1;
    }
    this.at = text.length;
    this.flush();
    while (this.frames.length > 1) this.leave(this.open ? (this.spans.length ? "closed" : "hidden") : "text");
    return this.spans;
  }

  escape() {
    if (!/[!-/:-@[-`{-~]/.test(this.text[this.at + 1] ?? "")) return false;
    this.flush();
    this.put(this.text[this.at + 1]);
    this.skipTo(this.at + 2);
    return true;
  }

  code() {
    const { text, at } = this;
    let end = at;
    while (text[end] === "`") end += 1;
    const run = text.slice(at, end);
    let close = this.unclosedRuns.has(run.length) ? -1 : text.indexOf(run, end);
    while (close >= 0 && text[close + run.length] === "`") {
      while (text[close] === "`") close += 1;
      close = text.indexOf(run, close);
    }
    if (close < 0) {
      this.unclosedRuns.add(run.length);
      if (!this.open) {
        this.at = end;
        return true;
      }
      close = text.length;
    }
    this.flush();
    const inner = text.slice(end, close);
    const spaced = inner.startsWith(" ") && inner.endsWith(" ") && inner.trim() !== "";
    if (inner) this.put({ type: "code", children: [spaced ? inner.slice(1, -1) : inner] });
    this.skipTo(Math.min(close + run.length, text.length));
    return true;
  }

  image() {
    const close = this.text[this.at + 1] === "[" ? this.pairs.get(this.at + 1) : undefined;
    const target = close === undefined || this.text[close + 1] !== "(" ? null : destination(this.text, close + 1);
    if (!target) return false;
    this.at = target.end; // an image stays text, its URL included
    return true;
  }

  link() {
    const { text, at } = this;
    const close = this.pairs.get(at);
    if (close === undefined || text[close + 1] !== "(" || close === at + 1) return false;
    const target = destination(text, close + 1);
    const label = () => parseInline(text.slice(at + 1, close), false, false);
    if (!target) {
      // While the text grows, an incomplete link shows its label only.
      if (!this.open || text.length - close > MAX_URL_LENGTH || /[\s<>]/.test(text.slice(close + 1))) return false;
      this.flush();
      label().forEach((span) => this.put(span));
      this.skipTo(text.length);
      return true;
    }
    const href = safeUrl(target.address);
    if (!href) return false;
    this.flush();
    this.put({ type: "link", href, children: label() });
    this.skipTo(target.end);
    return true;
  }

  url() {
    const { text, at } = this;
    if (!this.links || /[A-Za-z0-9]/.test(text[at - 1] ?? "")) return false;
    const pattern = /https?:\/\/[^\s\p{C}<>"'`|\\^{}[\]]{1,2040}/uy;
    pattern.lastIndex = at;
    let shown = pattern.exec(text)?.[0].replace(/[.,;:!?*_~]{1,20}$/, "");
    if (shown?.endsWith(")") && !shown.includes("(")) shown = shown.slice(0, -1);
    const href = shown ? safeUrl(shown) : null;
    if (!href) return false;
    this.flush();
    this.put({ type: "link", href, children: [shown] });
    this.skipTo(at + shown.length);
    return true;
  }

  emphasis(letter) {
    const { text, at } = this;
    let end = at;
    while (text[end] === letter) end += 1;
    const length = end - at;
    const before = text[at - 1] ?? " ";
    const after = text[end] ?? " ";
    const delimiters = { 1: [letter], 2: [letter + letter], 3: [letter + letter, letter] }[length];
    if (!delimiters || !delimiters.every((delimiter) => delimiter in TYPES)) {
      if (this.open && end === text.length && length < 3) {
        this.flush(); // an incomplete "~~"
        this.skipTo(end);
      }
      this.at = end;
      return true;
    }
    const closing = !/\s/.test(before) && !/[A-Za-z0-9]/.test(after);
    const opening = !/\s/.test(after) && !/[A-Za-z0-9]/.test(before);
    this.flush();
    this.skipTo(end);
    const isOpen = (delimiter) => this.frames.some((frame) => frame.delimiter === delimiter);
    if (closing && delimiters.every(isOpen)) {
      [...delimiters].reverse().forEach((delimiter) => isOpen(delimiter) && this.close(delimiter));
    } else if (opening && !delimiters.some(isOpen)) {
      delimiters.forEach((delimiter) => this.frames.push({ delimiter, spans: [] }));
    } else if (!(this.open && end === text.length)) {
      this.put(text.slice(at, end));
    }
    return true;
  }

  close(delimiter) {
    while (this.frames.at(-1).delimiter !== delimiter) this.leave("text");
    this.leave("closed");
  }

  /** Ends the innermost frame. @param {"closed"|"text"|"hidden"} how "text" if its delimiter is plain text */
  leave(how) {
    const { delimiter, spans } = this.frames.pop();
    if (how === "closed") {
      this.put({ type: TYPES[delimiter], children: spans });
      return;
    }
    if (how === "text") this.put(delimiter);
    spans.forEach((span) => this.put(span));
  }
}

/** @returns {Span[]} */
export function parseInline(text, open = false, links = true) {
  return new InlineParser(text, open, links).parse();
}

/** @param {Span[]} spans @returns {(Node|string)[]} */
export function inlineNodes(spans) {
  return spans.map((span) => {
    if (typeof span === "string") return span;
    if (span.type !== "link") return element(TAGS[span.type], {}, ...inlineNodes(span.children));
    const link = { href: span.href, target: "_blank", rel: "noopener noreferrer nofollow", title: span.href };
    return element("a", link, ...inlineNodes(span.children));
  });
}
