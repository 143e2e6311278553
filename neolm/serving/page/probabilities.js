/**
 * An answer as its tokens, each tinted by how likely it was, and a card that shows the figures and what else could have
 * stood there: on hover, on touch, and with the keyboard (one stop for Tab, arrow keys within).
 */

import { element } from "./element.js";

/** Below these probabilities a token is tinted; the first is the lightest tint. */
const LEVELS = [0.8, 0.5, 0.2, 0.05];
const NAMES = { "\n": "↵", "\t": "⇥", "\r": "␍", "\0": "␀" };
const LINGER = 150; // milliseconds for the pointer to reach the card

/** @param {number} logprob */
export function percent(logprob) {
  const share = Math.exp(logprob) * 100;
  if (share >= 99.95) return "100 %";
  if (share < 0.01) return "< 0.01 %";
  return `${share.toFixed(share < 1 ? 2 : share < 10 ? 1 : 0)} %`;
}

/** A token so that its spaces and unseen characters are seen. */
export function visible(token) {
  const shown = token
    .replace(/[\n\t\r\0]/g, (letter) => NAMES[letter])
    .replace(/[\p{Cc}\p{Cf}]/gu, (letter) => `U+${letter.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`)
    .replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length));
  return shown || "(nothing)";
}

/** In words, for a screen reader. */
function spoken(token) {
  const words = token.replace(/\n/g, " line break ").replace(/\t/g, " tab ").trim();
  return words || "space";
}

function level(logprob) {
  const share = Math.exp(logprob);
  return LEVELS.filter((bound) => share < bound).length;
}

/** What the tints mean. */
export function legend() {
  const swatches = [0, ...LEVELS].map((_, index) => element("span", { class: `swatch level-${index}` }));
  return element(
    "p",
    { class: "legend", hidden: true },
    "likely",
    element("span", { class: "swatches", "aria-hidden": "true" }, ...swatches),
    "unlikely",
  );
}

export class TokenView {
  /** @param {string} [tag] a span within a passage, a div of its own otherwise */
  constructor(tag = "div") {
    this.element = element(tag, {
      class: "tokens",
      dir: "auto",
      role: "listbox",
      "aria-orientation": "horizontal",
      "aria-label": "The answer's tokens with their probabilities. Arrow keys move between them.",
      on: {
        pointerover: ({ target }) => this.#hover(target),
        pointerout: () => card.hideSoon(),
        focusin: ({ target }) => this.#focus(target),
        focusout: () => card.hide(),
        keydown: (event) => this.#key(event),
        click: ({ target }) => target.closest(".token")?.focus(),
      },
    });
    /** @type {import("./conversation.js").Token[]} */
    this.tokens = [];
    this.current = 0;
  }

  /** @param {import("./conversation.js").Token[]} tokens those shown already, and more */
  update(tokens) {
    const added = [];
    for (let index = this.element.childElementCount; index < tokens.length; index += 1) {
      const [text, logprob] = tokens[index];
      const properties = {
        class: `token level-${level(logprob)}`,
        role: "option",
        tabindex: index === this.current ? "0" : "-1",
        data: { index },
        "aria-label": `${spoken(text)}, ${percent(logprob)}`,
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

/** The one card of the page. */
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
    // A token that has the focus was perhaps scrolled to by taking it: its card goes along.
    const scrolled = () =>
      this.anchor && this.anchor === document.activeElement ? this.#place(this.anchor) : this.hide();
    document.addEventListener("scroll", scrolled, { capture: true, passive: true });
    document.addEventListener("keydown", ({ key }) => key === "Escape" && this.hide());
  }

  /** @param {HTMLElement} token @param {import("./conversation.js").Token} entry */
  show(token, [text, logprob, others]) {
    if (!this.element) this.#make();
    clearTimeout(this.timer);
    const chosen = [text, logprob];
    const rows = others.some(([other]) => other === text) ? others : [...others, chosen];
    const sorted = [...rows].sort((one, other) => other[1] - one[1]);
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
        element("caption", { class: "visually-hidden" }, "The likeliest tokens in this place"),
        element("tbody", {}, ...sorted.map(([other, chance]) => this.#row(other, chance, other === text))),
      ),
    );
    this.element.hidden = false;
    this.anchor?.removeAttribute("aria-describedby");
    this.anchor = token;
    token.setAttribute("aria-describedby", "token-card");
    this.#place(token);
  }

  #row(text, logprob, chosen) {
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

  /** Below the token, or above it where there is no room; always inside the window. */
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
      // A token that has the focus keeps its card.
      if (this.anchor !== document.activeElement) this.hide();
    }, LINGER);
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
