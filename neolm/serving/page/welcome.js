/** The start page of a new conversation: what the model does, chat or completion, and examples. */

import { button, element } from "./dom.js";

const PROMPTS = [
  ["A function", 'def is_prime(n):\n    """Whether n is a prime number."""\n'],
  ["A class", "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n"],
  ["A script", "import os\n\nfor name in sorted(os.listdir(path)):\n"],
  ["A story", "Once upon a time there was a little fox who was afraid of the dark. One night"],
];

const QUESTIONS = [
  ["A story", "Tell me a short story about a fox who is afraid of the dark."],
  ["Some code", "Write a Python function that counts the words in a file."],
  ["An explanation", "Explain what a prime number is, with an example."],
  ["A list", "Give me five names for a small grey cat."],
];

export class Welcome {
  /**
   * @param {HTMLElement} root
   * @param {{useExample: (text: string) => void, setMode: (mode: "chat"|"completion") => void}} actions
   */
  constructor(root, actions) {
    Object.assign(this, { root, actions });
    this.title = element("h2");
    this.note = element("p", { class: "welcome-note" });
    this.examples = element("div", { class: "examples", role: "group", "aria-label": "Examples" });
    const modes = [
      ["completion", "Text completion", "The model continues your text."],
      ["chat", "Chat", "The model answers your messages."],
    ].map(([mode, name, help]) => {
      const on = { change: () => actions.setMode(mode) };
      return element(
        "label",
        { class: "mode" },
        element("input", { type: "radio", name: "mode", value: mode, id: `mode-${mode}`, on }),
        element("span", { class: "mode-name" }, name),
        element("span", { class: "muted" }, help),
      );
    });
    const legend = element("legend", { class: "visually-hidden" }, "Mode");
    root.append(this.title, this.note, element("fieldset", { class: "modes" }, legend, ...modes), this.examples);
  }

  /** @param {boolean} shown @param {{mode: string, model: Model|undefined}} state */
  update(shown, { mode, model }) {
    this.root.hidden = !shown;
    if (!shown) return;
    const isCompletion = mode === "completion";
    this.title.textContent = isCompletion ? "Start a text, and the model continues it" : "Start a chat with the model";
    this.note.textContent = !model
      ? ""
      : model.chat_template === "plain"
        ? `${model.id} is a base model: it continues text in the style of its training data. It is not an assistant, ` +
          "and what it generates may be wrong."
        : `${model.id} was trained for chat. Its answers may be wrong; check important information.`;
    this.root.querySelector(`#mode-${mode}`).checked = true;
    if (this.rendered === mode) return;
    this.rendered = mode;
    this.examples.replaceChildren(
      ...(isCompletion ? PROMPTS : QUESTIONS).map(([name, text]) => {
        const example = button(name, { class: "example", onClick: () => this.actions.useExample(text) });
        const style = isCompletion ? "example-text example-code" : "example-text";
        example.append(element("span", { class: style }, text.trim()));
        return example;
      }),
    );
  }
}
