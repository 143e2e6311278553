/**
 * Markdown drawn: nodes made one by one, nothing handed to the browser as markup. While a text grows, only the block
 * that grows is drawn again.
 */

import { linesOf, parseLines } from "./blocks.js";
import { button, element, setText } from "./element.js";
import { copyText } from "./clipboard.js";
import { inlineNodes, parseInline } from "./inline.js";

/** Headings stay below those of the page. */
const HIGHEST = 4;

function inline(text, open) {
  return inlineNodes(parseInline(text, open));
}

function drawCode({ language, text }) {
  const code = element("code", {}, text);
  const copy = button("Copy", {
    icon: "copy",
    class: "code-copy",
    "aria-label": "Copy the code",
    press: () => copyText(code.textContent, copy),
  });
  const head = element(
    "div",
    { class: "code-head" },
    element("span", { class: "code-language" }, language || "text"),
    copy,
  );
  // Scrolled sideways by keyboard, so it takes the focus.
  return element("div", { class: "code" }, head, element("pre", { tabindex: "0", "aria-label": "Code" }, code));
}

function drawTable({ header, sides, rows }, open) {
  const cell = (tag, row) => (text, column) => {
    const side = sides[column] ? `side-${sides[column]}` : null;
    return element(
      tag,
      { class: side, scope: tag === "th" ? "col" : null, dir: "auto" },
      ...inline(text, open && row === rows.length - 1),
    );
  };
  const body = rows.map((cells, row) => element("tr", {}, ...cells.map(cell("td", row))));
  const head = element("thead", {}, element("tr", {}, ...header.map(cell("th", -1))));
  const table = element("table", {}, head, body.length ? element("tbody", {}, ...body) : null);
  return element("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" }, table);
}

function drawList({ start, items }, open) {
  const drawn = items.map((blocks, index) => {
    // A single line is no paragraph of its own in a list.
    const inner = drawBlocks(blocks, open && index === items.length - 1);
    const [first] = blocks;
    if (first?.type === "paragraph") {
      inner[0].classList.add("tight");
      inner[0].removeAttribute("dir"); // it says which way the item goes, its bullet included
    }
    return element("li", { dir: "auto" }, ...inner);
  });
  if (start === null) return element("ul", {}, ...drawn);
  return element("ol", { start: start === 1 ? null : String(start) }, ...drawn);
}

function drawBlock(block, open) {
  switch (block.type) {
    case "heading":
      return element(`h${Math.min(block.level - 1 + HIGHEST, 6)}`, { dir: "auto" }, ...inline(block.text, open));
    case "code":
      return drawCode(block);
    case "rule":
      return element("hr");
    case "quote":
      return element("blockquote", { dir: "auto" }, ...drawBlocks(block.blocks, open));
    case "list":
      return drawList(block, open);
    case "table":
      return drawTable(block, open);
    default:
      return element("p", { dir: "auto" }, ...inline(block.text, open));
  }
}

function drawBlocks(blocks, open) {
  return blocks.map((block, index) => drawBlock(block, open && index === blocks.length - 1));
}

/** A text in Markdown that may still grow. */
export class MarkdownView {
  constructor() {
    this.element = element("div", { class: "prose" });
    /** @type {{key: string, block: import("./blocks.js").Block, node: HTMLElement}[]} */
    this.drawn = [];
    this.text = "";
  }

  /** @param {string} text @param {boolean} open whether it is still being written */
  update(text, open) {
    const lines = linesOf(text);
    const settled = open && text.startsWith(this.text) ? this.#settled() : 0;
    const first = settled ? this.drawn[settled - 1].block.to : 0;
    const blocks = parseLines(lines, open, 0, first);
    blocks.forEach((block, index) => {
      const last = open && index === blocks.length - 1;
      const whole = block.to < lines.length; // whether its last line is complete
      const key = `${block.type} ${last} ${whole} ${lines.slice(block.from, block.to).join("\n")}`;
      this.#place(settled + index, { key, block }, last);
    });
    this.drawn.splice(settled + blocks.length).forEach(({ node }) => node.remove());
    this.text = text;
  }

  /**
   * How many blocks do not change when more is written: those before the last. But what looks like the beginning of a
   * block right below a text (the first bar of a table, say) may turn out to be one more line of that.
   */
  #settled() {
    let last = this.drawn.length - 1;
    const block = (index) => this.drawn[index].block;
    const grows = ({ type }) => ["paragraph", "list", "table"].includes(type);
    while (last > 0 && grows(block(last - 1)) && block(last - 1).to === block(last).from) last -= 1;
    return Math.max(last, 0);
  }

  #place(index, { key, block }, open) {
    const before = this.drawn[index];
    if (before?.key === key) {
      before.block = block;
      return;
    }
    if (before?.block.type === "code" && block.type === "code" && growCode(before.node, block)) {
      this.drawn[index] = { key, block, node: before.node };
      return;
    }
    const node = drawBlock(block, open);
    if (before) before.node.replaceWith(node);
    else this.element.append(node);
    this.drawn[index] = { key, block, node };
  }
}

/** Code that has grown gets the rest at its end: it need not all be laid out anew, and its button keeps the focus. */
function growCode(node, { language, text }) {
  const code = node.querySelector("code");
  const shown = code.firstChild;
  const drawn = shown?.data ?? "";
  if (!text.startsWith(drawn)) return false;
  if (!shown) code.append(text);
  else if (text.length > drawn.length) shown.appendData(text.slice(drawn.length));
  setText(node.querySelector(".code-language"), language || "text");
  return true;
}

/** A whole text, drawn once. */
export function drawMarkdown(text) {
  const view = new MarkdownView();
  view.update(text, false);
  return view.element;
}
