/**
 * Markdown in lines: which of them make a heading, a list, a table, code. Text in, blocks out; pure.
 *
 * Not CommonMark to the letter: no code by indentation (what the model indents keeps its spaces instead), no underlined
 * headings, no references, no HTML.
 *
 * @typedef {Object} Block
 * @property {"paragraph"|"heading"|"code"|"rule"|"quote"|"list"|"table"} type
 * @property {number} from first line
 * @property {number} to the line after the last
 */

const DEEPEST = 6;
const WIDEST_TABLE = 64;

const isBlank = (line) => line.trim() === "";
const LIST_ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])([ \t]+)(?=\S)/;
const FENCE = /^( {0,3})(`{3,}|~{3,})(.*)$/s;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+\S/;
const QUOTE = /^ {0,3}>/;

/** A beginning, while it is being written: it may become a mark, and is not shown before that is clear. */
const UNCLEAR = /^ {0,3}(?:[-*+_]{1,3}|\d{1,9}[.)]|#{1,6}|`{1,3}|~{1,3}|\|)[ \t]*$/;

/** @param {string} text */
export function linesOf(text) {
  return text.split(/\r\n|\n|\r/);
}

function fenceAt(line) {
  const found = FENCE.exec(line);
  return found && !(found[2][0] === "`" && found[3].includes("`")) ? found : null;
}

function readCode(lines, from, open) {
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
  if (open && !closed && last && last === fence[0].repeat(last.length)) inner.pop(); // the end fence, on its way
  const dedent = new RegExp(`^ {0,${indent.length}}`);
  const text = inner.map((line) => (indent ? line.replace(dedent, "") : line)).join("\n");
  const whole = !open || closed || to > from + 1; // the line of the fence
  const language = whole ? info.trim().split(/\s/)[0].slice(0, 40) : "";
  return { type: "code", language, text, from, to: closed ? to + 1 : to };
}

function readHeading(lines, from) {
  const marks = HEADING.exec(lines[from])[1];
  let text = lines[from].trim().slice(marks.length).trim();
  const end = text.lastIndexOf(" ");
  if (end > 0 && /^#+$/.test(text.slice(end + 1))) text = text.slice(0, end).trimEnd();
  return { type: "heading", level: marks.length, text, from, to: from + 1 };
}

function readQuote(lines, from, open, depth) {
  let to = from;
  while (to < lines.length && QUOTE.test(lines[to])) to += 1;
  const inner = lines.slice(from, to).map((line) => line.replace(/^ {0,3}> ?/, ""));
  return { type: "quote", blocks: parseLines(inner, open && to === lines.length, depth + 1), from, to };
}

function readList(lines, from, open, depth) {
  const kindOf = (found) => found && (/\d/.test(found[2]) ? `1${found[2].at(-1)}` : found[2]);
  const first = LIST_ITEM.exec(lines[from]);
  const kind = kindOf(first);
  const items = [];
  let to = from;
  let width = 0;
  let end = from; // after the last line that is not blank
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
    else items.at(-1).push(line.trimStart()); // a paragraph's next line, not indented
    end = to + 1;
  }
  const blocks = items.map((item, index) =>
    parseLines(item, open && end === lines.length && index === items.length - 1, depth + 1),
  );
  return { type: "list", start: /\d/.test(kind) ? Number.parseInt(first[2], 10) : null, items: blocks, from, to: end };
}

/** The cells of a table's row. */
function cellsOf(line) {
  const inner = line.trim().replace(/^\|/, "");
  const cells = inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  if (cells.length > 1 && cells.at(-1) === "") cells.pop();
  return cells;
}

function tableAt(lines, at, open) {
  const line = lines[at];
  if (line.length > 4096 || !line.includes("|")) return null;
  const header = cellsOf(line);
  if (header.length > WIDEST_TABLE) return null;
  const next = lines[at + 1];
  // While it is being written, a line behind a bar is taken for a header before the line below it is complete.
  if (open && at + 2 >= lines.length && /^ {0,3}\|/.test(line) && /^[ |:-]*$/.test(next ?? ""))
    return { header, sides: [] };
  if (next === undefined || next.length > 4096 || !next.includes("-")) return null;
  const marks = cellsOf(next);
  if (marks.length !== header.length || !marks.every((mark) => /^:?-+:?$/.test(mark))) return null;
  const sides = marks.map((mark) => (mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "right") : null));
  return { header, sides };
}

function readTable(lines, from, open) {
  const { header, sides } = tableAt(lines, from, open);
  let to = Math.min(from + 2, lines.length);
  const rows = [];
  for (; to < lines.length && !isBlank(lines[to]) && lines[to].includes("|"); to += 1) {
    const cells = cellsOf(lines[to]);
    // Cells too many are text all the same: they share the last.
    const kept = cells.slice(0, header.length - 1).concat(cells.slice(header.length - 1).join(" | "));
    rows.push(header.map((_, column) => kept[column] ?? ""));
  }
  return { type: "table", header, sides, rows, from, to };
}

/** Whether a line ends the paragraph before it. */
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

function readParagraph(lines, from, open) {
  let to = from + 1;
  while (to < lines.length && !isBlank(lines[to]) && !startsBlock(lines, to, open)) to += 1;
  return { type: "paragraph", text: lines.slice(from, to).join("\n").trimEnd(), from, to };
}

function readBlock(lines, at, open, depth) {
  const line = lines[at];
  if (fenceAt(line)) return readCode(lines, at, open);
  if (HEADING.test(line)) return readHeading(lines, at);
  if (RULE.test(line)) return { type: "rule", from: at, to: at + 1 };
  if (depth < DEEPEST && QUOTE.test(line)) return readQuote(lines, at, open, depth);
  if (depth < DEEPEST && LIST_ITEM.test(line)) return readList(lines, at, open, depth);
  if (tableAt(lines, at, open)) return readTable(lines, at, open);
  return readParagraph(lines, at, open);
}

/**
 * @param {string[]} lines
 * @param {boolean} open whether more may come
 * @param {number} [depth] how many quotes and lists it stands in
 * @param {number} [first] the line to begin at
 * @returns {Block[]}
 */
export function parseLines(lines, open, depth = 0, first = 0) {
  const shown = open && lines.length && UNCLEAR.test(lines.at(-1)) ? [...lines.slice(0, -1), ""] : lines;
  const blocks = [];
  for (let at = first; at < shown.length;) {
    if (isBlank(shown[at])) {
      at += 1;
      continue;
    }
    const block = readBlock(shown, at, open, depth);
    blocks.push(block);
    at = block.to;
  }
  return blocks;
}
