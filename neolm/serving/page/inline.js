/**
 * Markdown within a line: emphasis, code, links. Text in, a small tree out, and the tree into nodes. What is none of
 * these is text. One pass, so that a hostile line of a million brackets costs what a line of a million letters does.
 *
 * Not CommonMark to the letter: marks within words are text (`snake_case`, 2*3*4), a mark does not nest in its own
 * kind, pictures stay text, there are no references and no HTML.
 *
 * @typedef {string|{type: "strong"|"em"|"del"|"code"|"link", href?: string, children: Span[]}} Span
 */

import { element } from "./element.js";

const TYPES = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "del" };
const TAGS = { strong: "strong", em: "em", del: "del", code: "code" };
const LONGEST_LINK = 2048;
const SPECIAL = /[\\`*_~[\]!h<]/g;

/** @returns {string|null} the address, if it is one that may be followed */
export function safeAddress(address) {
  if (address.length > LONGEST_LINK || !/^(?:https?:\/\/|mailto:)/i.test(address)) return null;
  try {
    const { protocol, username, password, href } = new URL(address);
    // A name before the host makes an address look like another's.
    return ["http:", "https:", "mailto:"].includes(protocol) && !username && !password ? href : null;
  } catch {
    return null;
  }
}

/** Where each `[` of the text is closed, or nothing if there can be no link. */
function bracketPairs(text) {
  const pairs = new Map();
  if (!text.includes("](")) return pairs;
  const opened = [];
  for (const { index, 0: mark } of text.matchAll(/\\.|[[\]]/gs)) {
    if (mark === "[") opened.push(index);
    else if (mark === "]" && opened.length) pairs.set(opened.pop(), index);
  }
  return pairs;
}

/** @returns {{address: string, end: number}|null} what stands in the brackets that open at `start` */
function destination(text, start) {
  let depth = 0;
  for (let at = start; at < text.length && at - start <= LONGEST_LINK; at += 1) {
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

class Reader {
  /** @param {string} text @param {boolean} open whether more of it may come: marks at its end are not yet shown */
  constructor(text, open, links) {
    Object.assign(this, { text, open, links, at: 0, plain: 0 });
    this.frames = [{ mark: "", spans: [] }];
    this.pairs = links ? bracketPairs(text) : new Map();
    this.unclosedCode = new Set(); // lengths of backtick runs that have no partner further on
  }

  get spans() {
    return this.frames.at(-1).spans;
  }

  /** Text up to here is text. */
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

  read() {
    const { text } = this;
    for (;;) {
      SPECIAL.lastIndex = this.at;
      const found = SPECIAL.exec(text);
      if (!found) break;
      this.at = found.index;
      const letter = found[0];
      const taken =
        letter === "\\"
          ? this.escape()
          : letter === "`"
            ? this.code()
            : letter === "["
              ? this.link()
              : letter === "!"
                ? this.picture()
                : letter === "h"
                  ? this.address()
                  : letter === "]" || letter === "<"
                    ? false
                    : this.mark(letter);
      if (!taken) this.at += 1;
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
    let close = this.unclosedCode.has(run.length) ? -1 : text.indexOf(run, end);
    while (close >= 0 && text[close + run.length] === "`") {
      while (text[close] === "`") close += 1;
      close = text.indexOf(run, close);
    }
    if (close < 0) {
      this.unclosedCode.add(run.length);
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

  picture() {
    const close = this.text[this.at + 1] === "[" ? this.pairs.get(this.at + 1) : undefined;
    const target = close === undefined || this.text[close + 1] !== "(" ? null : destination(this.text, close + 1);
    if (!target) return false;
    this.at = target.end; // all of it stays text, its address too
    return true;
  }

  link() {
    const { text, at } = this;
    const close = this.pairs.get(at);
    if (close === undefined || text[close + 1] !== "(" || close === at + 1) return false;
    const target = destination(text, close + 1);
    const label = () => parseInline(text.slice(at + 1, close), false, false);
    if (!target) {
      // While it is being written, a link shows its words and not yet its address.
      if (!this.open || text.length - close > LONGEST_LINK || /[\s<>]/.test(text.slice(close + 1))) return false;
      this.flush();
      label().forEach((span) => this.put(span));
      this.skipTo(text.length);
      return true;
    }
    const href = safeAddress(target.address);
    if (!href) return false;
    this.flush();
    this.put({ type: "link", href, children: label() });
    this.skipTo(target.end);
    return true;
  }

  address() {
    const { text, at } = this;
    if (!this.links || /[A-Za-z0-9]/.test(text[at - 1] ?? "")) return false;
    const pattern = /https?:\/\/[^\s\p{C}<>"'`|\\^{}[\]]{1,2040}/uy;
    pattern.lastIndex = at;
    let shown = pattern.exec(text)?.[0].replace(/[.,;:!?*_~]{1,20}$/, "");
    if (shown?.endsWith(")") && !shown.includes("(")) shown = shown.slice(0, -1);
    const href = shown ? safeAddress(shown) : null;
    if (!href) return false;
    this.flush();
    this.put({ type: "link", href, children: [shown] });
    this.skipTo(at + shown.length);
    return true;
  }

  mark(letter) {
    const { text, at } = this;
    let end = at;
    while (text[end] === letter) end += 1;
    const length = end - at;
    const before = text[at - 1] ?? " ";
    const after = text[end] ?? " ";
    const marks = { 1: [letter], 2: [letter + letter], 3: [letter + letter, letter] }[length];
    if (!marks || !marks.every((mark) => mark in TYPES)) {
      if (this.open && end === text.length && length < 3) {
        this.flush(); // half of "~~"
        this.skipTo(end);
      }
      this.at = end;
      return true;
    }
    const closing = !/\s/.test(before) && !/[A-Za-z0-9]/.test(after);
    const opening = !/\s/.test(after) && !/[A-Za-z0-9]/.test(before);
    this.flush();
    this.skipTo(end);
    const isOpen = (mark) => this.frames.some((frame) => frame.mark === mark);
    if (closing && marks.every(isOpen)) {
      [...marks].reverse().forEach((mark) => isOpen(mark) && this.close(mark));
    } else if (opening && !marks.some(isOpen)) {
      marks.forEach((mark) => this.frames.push({ mark, spans: [] }));
    } else if (!(this.open && end === text.length)) {
      this.put(text.slice(at, end));
    }
    return true;
  }

  close(mark) {
    while (this.frames.at(-1).mark !== mark) this.leave("text");
    this.leave("closed");
  }

  /** Ends the innermost frame. @param {"closed"|"text"|"hidden"} how "text" where the mark turns out to be none */
  leave(how) {
    const { mark, spans } = this.frames.pop();
    if (how === "closed") {
      this.put({ type: TYPES[mark], children: spans });
      return;
    }
    if (how === "text") this.put(mark);
    spans.forEach((span) => this.put(span));
  }
}

/** @returns {Span[]} */
export function parseInline(text, open = false, links = true) {
  return new Reader(text, open, links).read();
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
