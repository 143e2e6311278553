/** What an encoder can do: two texts are turned into vectors, and their similarity is shown. */

import { button, element } from "./dom.js";
import { errorText } from "./server.js";

const EXAMPLES = ["The ship sails across the sea.", "A boat crosses the water."];

export class EmbeddingView {
  /**
   * @param {HTMLElement} root
   * @param {(model: string, texts: string[]) => Promise<{vectors: number[][], leftOut: number}>} embed
   * @param {() => Promise<boolean>} enterKey asks for the API key
   */
  constructor(root, embed, enterKey) {
    Object.assign(this, { root, embed, enterKey });
    this.note = element("p", { class: "embed-note" });
    this.texts = ["First text", "Second text"].map((name, side) => {
      const id = `embed-text-${side}`;
      const area = element("textarea", { id, rows: "3", dir: "auto", spellcheck: "false" });
      area.value = EXAMPLES[side];
      return { area, field: element("div", { class: "field" }, element("label", { for: id }, name), area) };
    });
    this.send = button("Compare", { type: "submit", class: "button-main" });
    this.result = element("p", { class: "embed-result", role: "status" });
    const form = element(
      "form",
      { class: "embed-form", on: { submit: (event) => this.#compare(event) } },
      ...this.texts.map(({ field }) => field),
      this.send,
      this.result,
    );
    root.append(element("h2", {}, "Compare two texts"), this.note, form);
  }

  /** @param {Model|undefined} model the encoder to show; undefined hides the view */
  update(model) {
    this.root.hidden = !model;
    if (!model || model.id === this.model) return;
    this.model = model.id;
    this.result.textContent = "";
    this.note.textContent =
      `${model.id} is an encoder: it reads texts and cannot write or chat. It turns a text into ` +
      `${model.dimensions} numbers; texts with similar meanings get similar numbers, if it was trained for that.`;
  }

  async #compare(event) {
    event.preventDefault();
    if (this.send.getAttribute("aria-disabled") === "true") return;
    const { model } = this;
    this.send.setAttribute("aria-disabled", "true");
    this.result.textContent = "Computing…";
    let shown;
    try {
      shown = similarityText(await this.embed(model, this.texts.map(({ area }) => area.value)));
    } catch (error) {
      shown = errorText(error);
      if (error.kind === "unauthorized") this.enterKey();
    } finally {
      this.send.removeAttribute("aria-disabled");
    }
    if (model === this.model) this.result.textContent = shown;
  }
}

function similarityText({ vectors: [first, second], leftOut }) {
  const similarity = first.reduce((sum, number, index) => sum + number * second[index], 0);
  const truncated = leftOut ? ` The last ${leftOut} tokens are more than the model reads and were left out.` : "";
  return `Cosine similarity: ${similarity.toFixed(3)} (1: same direction, 0: unrelated).${truncated}`;
}
