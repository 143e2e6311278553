/**
 * Renders Markdown as DOM nodes, without passing markup to the browser. While a text grows, only its last block is
 * rendered again.
 */

import { splitLines, parseLines } from "./markdown-blocks.js";
import { button, element, setText } from "./dom.js";
import { copyText } from "./clipboard.js";
import { inlineNodes, parseInline } from "./markdown-inline.js";

const FIRST_HEADING = 4; // below the headings of the page

function inline(text, open) {
  return inlineNodes(parseInline(text, open));
}

function renderCode({ language, text }) {
  const code = element("code", {}, text);
  const copy = button("Copy", {
    icon: "copy",
    class: "code-copy",
    "aria-label": "Copy the code",
    onClick: () => copyText(code.textContent, copy),
  });
  const head = element(
    "div",
    { class: "code-head" },
    element("span", { class: "code-language" }, language || "text"),
    copy,
  );
  // Focusable, so that it can be scrolled by keyboard.
  return element("div", { class: "code" }, head, element("pre", { tabindex: "0", "aria-label": "Code" }, code));
}

function renderTable({ header, alignments, rows }, open) {
  const cell = (tag, row) => (text, column) => {
    const alignment = alignments[column] ? `align-${alignments[column]}` : null;
    return element(
      tag,
      { class: alignment, scope: tag === "th" ? "col" : null, dir: "auto" },
      ...inline(text, open && row === rows.length - 1),
    );
  };
  const body = rows.map((cells, row) => element("tr", {}, ...cells.map(cell("td", row))));
  const head = element("thead", {}, element("tr", {}, ...header.map(cell("th", -1))));
  const table = element("table", {}, head, body.length ? element("tbody", {}, ...body) : null);
  return element("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" }, table);
}

function renderList({ start, items }, open) {
  const rendered = items.map((blocks, index) => {
    const inner = renderBlocks(blocks, open && index === items.length - 1);
    const [first] = blocks;
    if (first?.type === "paragraph") {
      inner[0].classList.add("tight");
      inner[0].removeAttribute("dir"); // so that its text sets the direction of the item and its bullet
    }
    return element("li", { dir: "auto" }, ...inner);
  });
  if (start === null) return element("ul", {}, ...rendered);
  return element("ol", { start: start === 1 ? null : String(start) }, ...rendered);
}

function renderBlock(block, open) {
  switch (block.type) {
    case "heading":
      return element(`h${Math.min(block.level - 1 + FIRST_HEADING, 6)}`, { dir: "auto" }, ...inline(block.text, open));
    case "code":
      return renderCode(block);
    case "rule":
      return element("hr");
    case "quote":
      return element("blockquote", { dir: "auto" }, ...renderBlocks(block.blocks, open));
    case "list":
      return renderList(block, open);
    case "table":
      return renderTable(block, open);
    default:
      return element("p", { dir: "auto" }, ...inline(block.text, open));
  }
}

function renderBlocks(blocks, open) {
  return blocks.map((block, index) => renderBlock(block, open && index === blocks.length - 1));
}

/** A view of a Markdown text that may grow. */
export class MarkdownView {
  constructor() {
    this.element = element("div", { class: "prose" });
    /** @type {{key: string, block: Block, node: HTMLElement}[]} */
    this.rendered = [];
    this.text = "";
  }

  /** @param {string} text @param {boolean} open whether the text may grow */
  update(text, open) {
    const lines = splitLines(text);
    const stable = open && text.startsWith(this.text) ? this.#countStable() : 0;
    const first = stable ? this.rendered[stable - 1].block.to : 0;
    const blocks = parseLines(lines, open, 0, first);
    blocks.forEach((block, index) => {
      const last = open && index === blocks.length - 1;
      const whole = block.to < lines.length; // whether the last line is complete
      const key = `${block.type} ${last} ${whole} ${lines.slice(block.from, block.to).join("\n")}`;
      this.#place(stable + index, { key, block }, last);
    });
    this.rendered.splice(stable + blocks.length).forEach(({ node }) => node.remove());
    this.text = text;
  }

  /**
   * Number of blocks that do not change when the text grows: those before the last. A last block directly below a
   * paragraph, list or table may still become a line of that block (the first bar of a table, for example).
   */
  #countStable() {
    let last = this.rendered.length - 1;
    const block = (index) => this.rendered[index].block;
    const grows = ({ type }) => ["paragraph", "list", "table"].includes(type);
    while (last > 0 && grows(block(last - 1)) && block(last - 1).to === block(last).from) last -= 1;
    return Math.max(last, 0);
  }

  #place(index, { key, block }, open) {
    const before = this.rendered[index];
    if (before?.key === key) {
      before.block = block;
      return;
    }
    if (before?.block.type === "code" && block.type === "code" && growCode(before.node, block)) {
      this.rendered[index] = { key, block, node: before.node };
      return;
    }
    const node = renderBlock(block, open);
    if (before) before.node.replaceWith(node);
    else this.element.append(node);
    this.rendered[index] = { key, block, node };
  }
}

/** Appends to rendered code, so that only the new text is laid out and the copy button keeps the focus. */
function growCode(node, { language, text }) {
  const code = node.querySelector("code");
  const shown = code.firstChild;
  const rendered = shown?.data ?? "";
  if (!text.startsWith(rendered)) return false;
  if (!shown) code.append(text);
  else if (text.length > rendered.length) shown.appendData(text.slice(rendered.length));
  setText(node.querySelector(".code-language"), language || "text");
  return true;
}

/** Renders a complete text. */
export function renderMarkdown(text) {
  const view = new MarkdownView();
  view.update(text, false);
  return view.element;
}
