/**
 * Parses Markdown blocks: headings, lists, tables, code, quotes and paragraphs.
 *
 * Differences from CommonMark: no indented code (indented text keeps its spaces instead), no underlined headings, no
 * link references, no HTML.
 *
 * @typedef {Object} Block
 * @property {"paragraph"|"heading"|"code"|"rule"|"quote"|"list"|"table"} type
 * @property {number} from first line
 * @property {number} to the line after the last
 */

const MAX_DEPTH = 6;
const MAX_COLUMNS = 64;

const isBlank = (line) => line.trim() === "";
const LIST_ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])([ \t]+)(?=\S)/;
const FENCE = /^( {0,3})(`{3,}|~{3,})(.*)$/s;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+\S/;
const QUOTE = /^ {0,3}>/;

/** The beginning of a line that may become Markdown syntax; it is not shown until more of the line is known. */
const INCOMPLETE_MARK = /^ {0,3}(?:[-*+_]{1,3}|\d{1,9}[.)]|#{1,6}|`{1,3}|~{1,3}|\|)[ \t]*$/;

export function splitLines(text) {
  return text.split(/\r\n|\n|\r/);
}

function fenceAt(line) {
  const found = FENCE.exec(line);
  return found && !(found[2][0] === "`" && found[3].includes("`")) ? found : null;
}

function parseCode(lines, from, open) {
  const [, indent, fence, info] = fenceAt(lines[from]);
  const isEnd = (line) => {
    const inner = line.trim();
    return inner.length >= fence.length && inner === fence[0].repeat(inner.length) && /^ {0,3}\S/.test(line);
  };
  let to = from + 1;
  while (to < lines.length && !isEnd(lines[to])) to += 1;
  const inner = lines.slice(from + 1, to);
  const closed = to < lines.length;
  const last = inner.at(-1)?.trim();
  if (open && !closed && last && last === fence[0].repeat(last.length)) inner.pop(); // an incomplete closing fence
  const dedent = new RegExp(`^ {0,${indent.length}}`);
  const text = inner.map((line) => (indent ? line.replace(dedent, "") : line)).join("\n");
  const whole = !open || closed || to > from + 1; // whether the opening line is complete
  const language = whole ? info.trim().split(/\s/)[0].slice(0, 40) : "";
  return { type: "code", language, text, from, to: closed ? to + 1 : to };
}

function parseHeading(lines, from) {
  const marks = HEADING.exec(lines[from])[1];
  let text = lines[from].trim().slice(marks.length).trim();
  const end = text.lastIndexOf(" ");
  if (end > 0 && /^#+$/.test(text.slice(end + 1))) text = text.slice(0, end).trimEnd();
  return { type: "heading", level: marks.length, text, from, to: from + 1 };
}

function parseQuote(lines, from, open, depth) {
  let to = from;
  while (to < lines.length && QUOTE.test(lines[to])) to += 1;
  const inner = lines.slice(from, to).map((line) => line.replace(/^ {0,3}> ?/, ""));
  return { type: "quote", blocks: parseLines(inner, open && to === lines.length, depth + 1), from, to };
}

function parseList(lines, from, open, depth) {
  const kindOf = (found) => found && (/\d/.test(found[2]) ? `1${found[2].at(-1)}` : found[2]);
  const first = LIST_ITEM.exec(lines[from]);
  const kind = kindOf(first);
  const items = [];
  let to = from;
  let width = 0;
  let end = from; // the line after the last one that is not blank
  for (; to < lines.length; to += 1) {
    const line = lines[to].replace(/^[ \t]+/, (space) => space.replaceAll("\t", "    "));
    if (isBlank(line)) {
      items.at(-1)?.push("");
      continue;
    }
    const indent = line.length - line.trimStart().length;
    const found = RULE.test(line) ? null : LIST_ITEM.exec(line);
    if (items.length && indent >= width) items.at(-1).push(line.slice(width));
    else if (kindOf(found) === kind) {
      width = found[1].length + found[2].length + (found[3].length > 4 ? 1 : found[3].length);
      items.push([line.slice(width)]);
    } else if (to > end || startsBlock(lines, to, open)) break;
    else items.at(-1).push(line.trimStart()); // a paragraph continues without indentation
    end = to + 1;
  }
  const blocks = items.map((item, index) =>
    parseLines(item, open && end === lines.length && index === items.length - 1, depth + 1),
  );
  return { type: "list", start: /\d/.test(kind) ? Number.parseInt(first[2], 10) : null, items: blocks, from, to: end };
}

/** The cells of a table row. */
function splitCells(line) {
  const inner = line.trim().replace(/^\|/, "");
  const cells = inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  if (cells.length > 1 && cells.at(-1) === "") cells.pop();
  return cells;
}

function tableAt(lines, at, open) {
  const line = lines[at];
  if (line.length > 4096 || !line.includes("|")) return null;
  const header = splitCells(line);
  if (header.length > MAX_COLUMNS) return null;
  const next = lines[at + 1];
  // While the text grows, a line that starts with a bar counts as a header before the line below it is complete.
  if (open && at + 2 >= lines.length && /^ {0,3}\|/.test(line) && /^[ |:-]*$/.test(next ?? ""))
    return { header, alignments: [] };
  if (next === undefined || next.length > 4096 || !next.includes("-")) return null;
  const marks = splitCells(next);
  if (marks.length !== header.length || !marks.every((mark) => /^:?-+:?$/.test(mark))) return null;
  const alignments = marks.map((mark) => (mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "right") : null));
  return { header, alignments };
}

function parseTable(lines, from, open) {
  const { header, alignments } = tableAt(lines, from, open);
  let to = Math.min(from + 2, lines.length);
  const rows = [];
  for (; to < lines.length && !isBlank(lines[to]) && lines[to].includes("|"); to += 1) {
    const cells = splitCells(lines[to]);
    // Surplus cells are joined into the last one, so that no text is lost.
    const kept = cells.slice(0, header.length - 1).concat(cells.slice(header.length - 1).join(" | "));
    rows.push(header.map((_, column) => kept[column] ?? ""));
  }
  return { type: "table", header, alignments, rows, from, to };
}

/** Whether a line starts a block and so ends the paragraph before it. */
function startsBlock(lines, at, open) {
  const line = lines[at];
  const item = LIST_ITEM.exec(line);
  return Boolean(
    fenceAt(line) ||
    HEADING.test(line) ||
    RULE.test(line) ||
    QUOTE.test(line) ||
    tableAt(lines, at, open) ||
    (item && (!/\d/.test(item[2]) || Number.parseInt(item[2], 10) === 1)),
  );
}

function parseParagraph(lines, from, open) {
  let to = from + 1;
  while (to < lines.length && !isBlank(lines[to]) && !startsBlock(lines, to, open)) to += 1;
  return { type: "paragraph", text: lines.slice(from, to).join("\n").trimEnd(), from, to };
}

function parseBlock(lines, at, open, depth) {
  const line = lines[at];
  if (fenceAt(line)) return parseCode(lines, at, open);
  if (HEADING.test(line)) return parseHeading(lines, at);
  if (RULE.test(line)) return { type: "rule", from: at, to: at + 1 };
  if (depth < MAX_DEPTH && QUOTE.test(line)) return parseQuote(lines, at, open, depth);
  if (depth < MAX_DEPTH && LIST_ITEM.test(line)) return parseList(lines, at, open, depth);
  if (tableAt(lines, at, open)) return parseTable(lines, at, open);
  return parseParagraph(lines, at, open);
}

/**
 * @param {string[]} lines
 * @param {boolean} open whether the text may grow
 * @param {number} [depth] the number of enclosing quotes and lists
 * @param {number} [first] the first line to parse
 * @returns {Block[]}
 */
export function parseLines(lines, open, depth = 0, first = 0) {
  const shown = open && lines.length && INCOMPLETE_MARK.test(lines.at(-1)) ? [...lines.slice(0, -1), ""] : lines;
  const blocks = [];
  for (let at = first; at < shown.length;) {
    if (isBlank(shown[at])) {
      at += 1;
      continue;
    }
    const block = parseBlock(shown, at, open, depth);
    blocks.push(block);
    at = block.to;
  }
  return blocks;
}
