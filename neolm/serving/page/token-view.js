/**
 * The tokens of an answer, tinted by their probabilities, and a card with the most likely alternatives of a token. The
 * card appears on hover, on touch and by keyboard (Tab moves to the tokens, arrow keys between them).
 */

import { element } from "./dom.js";

/** A token is tinted below these probabilities; the first is the lightest tint. */
const LEVEL_BOUNDS = [0.8, 0.5, 0.2, 0.05];
const SYMBOLS = { "\n": "↵", "\t": "⇥", "\r": "␍", "\0": "␀" };
const HIDE_DELAY = 150; // milliseconds, for the pointer to reach the card

function percent(logprob) {
  const probability = Math.exp(logprob) * 100;
  if (probability >= 99.95) return "100 %";
  if (probability < 0.01) return "< 0.01 %";
  return `${probability.toFixed(probability < 1 ? 2 : probability < 10 ? 1 : 0)} %`;
}

/** A token with visible spaces and control characters. */
function visible(token) {
  const shown = token
    .replace(/[\n\t\r\0]/g, (letter) => SYMBOLS[letter])
    .replace(/[\p{Cc}\p{Cf}]/gu, (letter) => `U+${letter.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`)
    .replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length));
  return shown || "(empty)";
}

/** A token for screen readers. */
function spokenText(token) {
  const words = token.replace(/\n/g, " line break ").replace(/\t/g, " tab ").trim();
  return words || "space";
}

function level(logprob) {
  const probability = Math.exp(logprob);
  return LEVEL_BOUNDS.filter((bound) => probability < bound).length;
}

/** The legend of the tints. */
export function legend() {
  const swatches = [0, ...LEVEL_BOUNDS].map((_, index) => element("span", { class: `swatch level-${index}` }));
  return element(
    "p",
    { class: "legend", hidden: true },
    "likely",
    element("span", { class: "swatches", "aria-hidden": "true" }, ...swatches),
    "unlikely",
  );
}

export class TokenView {
  /** @param {string} [tag] "span" within a passage */
  constructor(tag = "div") {
    this.element = element(tag, {
      class: "tokens",
      dir: "auto",
      role: "listbox",
      "aria-orientation": "horizontal",
      "aria-label": "Tokens of the answer with their probabilities. Use the arrow keys.",
      on: {
        pointerover: ({ target }) => this.#hover(target),
        pointerout: () => card.hideSoon(),
        focusin: ({ target }) => this.#focus(target),
        focusout: () => card.hide(),
        keydown: (event) => this.#key(event),
        click: ({ target }) => target.closest(".token")?.focus(),
      },
    });
    /** @type {Token[]} */
    this.tokens = [];
    this.current = 0;
  }

  /** @param {Token[]} tokens the tokens shown so far, and new ones */
  update(tokens) {
    const added = [];
    for (let index = this.element.childElementCount; index < tokens.length; index += 1) {
      const [text, logprob] = tokens[index];
      const properties = {
        class: `token level-${level(logprob)}`,
        role: "option",
        tabindex: index === this.current ? "0" : "-1",
        data: { index },
        "aria-label": `${spokenText(text)}, ${percent(logprob)}`,
        "aria-selected": "false",
      };
      added.push(element("span", properties, text.replace(/\n/g, "↵\n")));
    }
    this.element.append(...added);
    this.tokens = tokens;
  }

  #hover(target) {
    const token = target.closest(".token");
    if (token) card.show(token, this.tokens[token.dataset.index]);
  }

  #focus(target) {
    const token = target.closest(".token");
    if (!token) return;
    this.element.children[this.current]?.setAttribute("tabindex", "-1");
    this.element.children[this.current]?.setAttribute("aria-selected", "false");
    this.current = Number(token.dataset.index);
    token.setAttribute("tabindex", "0");
    token.setAttribute("aria-selected", "true");
    card.show(token, this.tokens[this.current]);
  }

  #key(event) {
    const last = this.element.childElementCount - 1;
    const to = {
      ArrowRight: this.current + 1,
      ArrowDown: this.current + 1,
      ArrowLeft: this.current - 1,
      ArrowUp: this.current - 1,
      Home: 0,
      End: last,
      PageDown: this.current + 20,
      PageUp: this.current - 20,
    }[event.key];
    if (event.key === "Escape" && card.shown) {
      event.stopPropagation();
      card.hide();
    }
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.element.children[Math.min(Math.max(to, 0), last)].focus();
  }
}

/** The card of the current token; there is one on the page. */
class Card {
  constructor() {
    this.element = null;
    this.timer = 0;
  }

  get shown() {
    return this.element !== null && !this.element.hidden;
  }

  #make() {
    this.element = element("div", {
      class: "token-card",
      id: "token-card",
      role: "tooltip",
      hidden: true,
      on: { pointerenter: () => clearTimeout(this.timer), pointerleave: () => this.hideSoon() },
    });
    document.body.append(this.element);
    // Focusing a token may scroll the page: the card then moves with it.
    const scrolled = () =>
      this.anchor && this.anchor === document.activeElement ? this.#place(this.anchor) : this.hide();
    document.addEventListener("scroll", scrolled, { capture: true, passive: true });
    document.addEventListener("keydown", ({ key }) => key === "Escape" && this.hide());
  }

  /** @param {HTMLElement} token @param {Token} entry */
  show(token, [text, logprob, alternatives]) {
    if (!this.element) this.#make();
    clearTimeout(this.timer);
    const chosen = [text, logprob];
    const rows = alternatives.some(([other]) => other === text) ? alternatives : [...alternatives, chosen];
    const sorted = [...rows].sort((a, b) => b[1] - a[1]);
    this.element.replaceChildren(
      element(
        "p",
        { class: "token-card-head" },
        element("code", {}, visible(text)),
        element("strong", {}, percent(logprob)),
      ),
      element(
        "table",
        {},
        element("caption", { class: "visually-hidden" }, "Most likely tokens at this position"),
        element("tbody", {}, ...sorted.map(([other, p]) => this.#makeRow(other, p, other === text))),
      ),
    );
    this.element.hidden = false;
    this.anchor?.removeAttribute("aria-describedby");
    this.anchor = token;
    token.setAttribute("aria-describedby", "token-card");
    this.#place(token);
  }

  #makeRow(text, logprob, chosen) {
    const bar = element("span", { class: "bar" });
    bar.style.width = `${Math.exp(logprob) * 100}%`;
    const name = element(
      "th",
      { scope: "row" },
      element("code", {}, visible(text)),
      chosen ? element("span", { class: "visually-hidden" }, " (chosen)") : null,
    );
    return element(
      "tr",
      { class: chosen ? "chosen" : null },
      name,
      element("td", { class: "bar-cell", "aria-hidden": "true" }, bar),
      element("td", { class: "figure" }, percent(logprob)),
    );
  }

  /** Places the card below the token, or above it if there is no room, inside the window. */
  #place(token) {
    const { element: cardElement } = this;
    const [line] = token.getClientRects();
    if (!line) return;
    const { offsetWidth: width, offsetHeight: height } = cardElement;
    const left = Math.max(8, Math.min(line.left, window.innerWidth - width - 8));
    const below = line.bottom + 6;
    const top = below + height + 8 <= window.innerHeight ? below : Math.max(8, line.top - height - 6);
    cardElement.style.left = `${left}px`;
    cardElement.style.top = `${top}px`;
  }

  hideSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (this.anchor !== document.activeElement) this.hide(); // a focused token keeps its card
    }, HIDE_DELAY);
  }

  hide() {
    clearTimeout(this.timer);
    if (!this.shown) return;
    this.element.hidden = true;
    this.anchor?.removeAttribute("aria-describedby");
    this.anchor = null;
  }
}

const card = new Card();
