/** What a classifier can do: a text, or two, gets labels with probabilities, and the words that moved them. */

import { button, element } from "./dom.js";
import { announce } from "./live-region.js";
import { errorText } from "./server.js";

const NOTICEABLE = 0.005; // change of a probability from which a word is tinted

export class ClassifyView {
  /**
   * @param {HTMLElement} root
   * @param {(model: string, input: {text: string, second?: string}) => Promise<{result: Object, note: string}>} classify
   * @param {() => Promise<boolean>} enterKey asks for the API key
   */
  constructor(root, classify, enterKey) {
    Object.assign(this, { root, classify, enterKey });
    this.note = element("p", { class: "embed-note" });
    this.texts = ["Text", "Second text"].map((name, number) => {
      const id = `classify-text-${number}`;
      const area = element("textarea", { id, rows: "3", dir: "auto", spellcheck: "false" });
      return { area, field: element("div", { class: "field" }, element("label", { for: id }, name), area) };
    });
    this.send = button("Classify", { type: "submit", class: "button-main" });
    this.result = element("div", { class: "classify-result" });
    const form = element(
      "form",
      { class: "embed-form", on: { submit: (event) => this.#ask(event) } },
      ...this.texts.map(({ field }) => field),
      this.send,
      this.result,
    );
    root.append(element("h2", {}, "Try the classifier"), this.note, form);
  }

  /** @param {Model|undefined} model the classifier to show; undefined hides the view */
  update(model) {
    this.root.hidden = !model;
    if (!model || model.id === this.model) return;
    this.model = model.id;
    this.pair = Boolean(model.pair);
    this.texts[1].field.hidden = !this.pair;
    this.result.replaceChildren();
    const { labels } = model;
    const given = labels ? `one of ${labels.length} labels, or none` : "a number";
    this.note.textContent =
      `${model.id} is a classifier: it reads ${this.pair ? "two texts" : "a text"} and cannot write or chat. ` +
      `It gives ${model.problem === "multi_label_classification" ? `any of ${labels.length} labels` : given}.`;
  }

  async #ask(event) {
    event.preventDefault();
    if (this.send.getAttribute("aria-disabled") === "true") return;
    const { model } = this;
    const [text, second] = this.texts.map(({ area }) => area.value);
    this.send.setAttribute("aria-disabled", "true");
    this.result.replaceChildren(element("p", {}, "Computing…"));
    let shown;
    let spoken;
    try {
      const { result, note } = await this.classify(model, this.pair ? { text, second } : { text });
      spoken = summary(result);
      shown = [element("p", { class: "classify-summary" }, spoken), ...bars(result), ...words(result, note)];
    } catch (error) {
      spoken = errorText(error);
      shown = [element("p", {}, spoken)];
      if (error.kind === "unauthorized") this.enterKey();
    } finally {
      this.send.removeAttribute("aria-disabled");
    }
    if (model !== this.model) return;
    this.result.replaceChildren(...shown);
    announce(spoken);
  }
}

const percent = (share) => `${(100 * share).toFixed(1)}%`;

function summary({ label, probability, score, windows, window, left_out_tokens: leftOut }) {
  const read = windows ? ` It was read in ${windows} windows; number ${window} speaks most for the label.` : "";
  const cut = leftOut ? ` ${leftOut} tokens are more than the model reads and were left out.` : "";
  return `${answer(label, probability, score)}${read}${cut}`;
}

function answer(label, probability, score) {
  if (typeof score === "number") return `Score: ${score.toFixed(4)}`;
  if (Array.isArray(label)) return label.length ? `Labels: ${label.join(", ")}.` : "No label reaches its threshold.";
  return label === null
    ? `No answer: the likeliest label has ${percent(probability)} only.`
    : `${label}: ${percent(probability)}.`;
}

function bars({ label, probabilities }) {
  if (!probabilities) return [];
  const chosen = new Set([label].flat());
  // An object has names that are numbers before others, whatever their order in the answer.
  const ordered = Object.entries(probabilities).sort(([, one], [, other]) => other - one);
  const rows = ordered.map(([name, share]) =>
    element(
      "li",
      { class: chosen.has(name) ? "label-row chosen" : "label-row" },
      element("span", { class: "name", dir: "auto" }, name),
      element("span", { class: "number" }, percent(share)),
      element("meter", { value: String(share), "aria-label": name }),
    ),
  );
  return [element("ul", { class: "label-list", "aria-label": "Labels" }, ...rows)];
}

function words({ words: found, score }, note) {
  if (!found) return note ? [element("p", { class: "muted" }, `No words are shown. ${note}`)] : [];
  const what = typeof score === "number" ? "the score" : "the likeliest label’s probability";
  const explanation =
    `Which words moved it (leave-one-out): each word is left out in turn; the number is ${what} with the word ` +
    "minus that without it.";
  const shown = found.map(({ text, effect }) => {
    const tint = effect >= NOTICEABLE ? "raises" : effect <= -NOTICEABLE ? "lowers" : null;
    return element(
      "li",
      { class: tint },
      element("span", { dir: "auto" }, text),
      " ",
      element("span", { class: "number" }, effect === null ? "only word" : signed(effect, score)),
    );
  });
  return [
    element("p", { class: "muted" }, explanation),
    element("ul", { class: "word-list", "aria-label": "Words" }, ...shown),
  ];
}

function signed(effect, score) {
  const sign = effect < 0 ? "−" : "+";
  const size = Math.abs(effect);
  return typeof score === "number" ? `${sign}${size.toFixed(4)}` : `${sign}${(100 * size).toFixed(1)}%`;
}
