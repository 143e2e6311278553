/** Search in the titles and messages of conversations. */

import { singleLine } from "./conversation.js";
import { element } from "./dom.js";

const EXCERPT_BEFORE = 24; // characters before the match
const EXCERPT_LENGTH = 120;

/** A pattern for the words of a query, in this order, in any case. @returns {RegExp|null} null if there are no words */
export function searchPattern(query) {
  const words = query.split(/\s+/).filter(Boolean);
  const escaped = words.map((word) => word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  return words.length ? new RegExp(escaped.join("\\s+"), "giu") : null;
}

/** The first message that matches: of the branch that is shown, or else of any branch. */
export function findMessage(conversation, pattern) {
  const messages = [...conversation.path(), ...conversation.messages.values()];
  return messages.find(({ text }) => text.search(pattern) >= 0) ?? null;
}

/** The text around the first match, on one line. */
export function excerpt(text, pattern) {
  const index = text.search(pattern);
  const start = Math.max(0, index - EXCERPT_BEFORE);
  const before = text.slice(start, index).replace(start ? /^\S*\s/ : "", "");
  return (start ? "…" : "") + singleLine(before + text.slice(index, index + EXCERPT_LENGTH)).trim();
}

/** A text with its matches in <mark> elements. @returns {Array<Node|string>} */
export function markMatches(text, pattern) {
  const nodes = [];
  let end = 0;
  for (const { 0: match, index } of text.matchAll(pattern)) {
    nodes.push(text.slice(end, index), element("mark", {}, match));
    end = index + match.length;
  }
  return [...nodes, text.slice(end)];
}

/** Highlights the matches in the text of some elements. @returns {Range|undefined} the first match */
export function highlightMatches(elements, pattern) {
  const ranges = [];
  for (const root of elements) {
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const node = walker.currentNode;
      for (const { 0: match, index } of node.data.matchAll(pattern)) {
        const range = new Range();
        range.setStart(node, index);
        range.setEnd(node, index + match.length);
        ranges.push(range);
      }
    }
  }
  CSS.highlights?.set("search", new Highlight(...ranges));
  return ranges[0];
}
