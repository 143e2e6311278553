/** What one sees before anything is said: what this model is for, and some ways to begin. */

import { button, element } from "./element.js";

const BEGINNINGS = [
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
   * @param {{begin: (text: string) => void, mode: (mode: "chat"|"completion") => void}} actions
   */
  constructor(root, actions) {
    Object.assign(this, { root, actions });
    this.title = element("h2");
    this.note = element("p", { class: "welcome-note" });
    this.modes = [
      ["completion", "Continue a text", "You begin, the model goes on."],
      ["chat", "Chat", "You ask, the model answers in turn."],
    ].map(([mode, name, explain]) => {
      const input = element("input", {
        type: "radio",
        name: "mode",
        value: mode,
        id: `mode-${mode}`,
        on: { change: () => actions.mode(mode) },
      });
      return {
        input,
        element: element(
          "label",
          { class: "mode" },
          input,
          element("span", { class: "mode-name" }, name),
          element("span", { class: "muted" }, explain),
        ),
      };
    });
    this.examples = element("div", { class: "examples", role: "group", "aria-label": "Examples to begin with" });
    root.append(
      this.title,
      this.note,
      element(
        "fieldset",
        { class: "modes" },
        element("legend", { class: "visually-hidden" }, "How to write"),
        ...this.modes.map((mode) => mode.element),
      ),
      this.examples,
    );
  }

  /** @param {boolean} shown @param {{mode: string, model: import("./server.js").Model|undefined}} state */
  update(shown, { mode, model }) {
    this.root.hidden = !shown;
    if (!shown) return;
    const isText = mode === "completion";
    const plain = model?.chat_template === "plain";
    this.title.textContent = isText ? "Begin a text, and the model goes on" : "Say something, and the model answers";
    this.note.textContent = !model
      ? ""
      : plain
        ? `${model.id} is a base model: it continues text in the manner of what it was trained on. It is not an ` +
          "assistant; it does not know what is true, and what it writes may be wrong or odd."
        : `${model.id} was trained to take turns. What it writes may be wrong; check what matters.`;
    this.modes.forEach(({ input }) => {
      input.checked = input.value === mode;
    });
    if (this.drawn === mode) return;
    this.drawn = mode;
    this.examples.replaceChildren(
      ...(isText ? BEGINNINGS : QUESTIONS).map(([name, text]) => {
        const made = button(name, { class: "example", press: () => this.actions.begin(text) });
        made.append(element("span", { class: isText ? "example-text example-code" : "example-text" }, text.trim()));
        return made;
      }),
    );
  }
}
