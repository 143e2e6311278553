/** How much of the model's context the conversation uses, and a warning when the next prompt will be truncated. */

import { maxPromptTokens } from "./generation.js";

const NEARLY_FULL = 0.9; // of the longest prompt

const count = (number) => number.toLocaleString("en-GB");

/**
 * The tokens of the branch that is shown, as the server counted them for the last answer.
 *
 * @param {Conversation} conversation
 * @returns {{tokens: number, exact: boolean}|null} not exact if messages after the last count are not included
 */
function contextUse(conversation) {
  const path = conversation.path();
  const last = path.findLastIndex(({ stats }) => stats?.promptTokens !== undefined);
  if (last < 0) return null;
  const { promptTokens, completionTokens = 0, truncatedTokens = 0 } = path[last].stats;
  return { tokens: promptTokens + completionTokens + truncatedTokens, exact: last === path.length - 1 };
}

export class ContextGauge {
  constructor(root) {
    this.root = root;
    this.meter = root.querySelector("[role=meter]");
    this.label = root.querySelector(".context-text");
    /** @type {""|"nearly-full"|"full"} */
    this.level = "";
  }

  /**
   * @param {Conversation} conversation
   * @param {{context: number|undefined, settings: Settings}[]} sides the models to be used next
   */
  update(conversation, sides) {
    const use = contextUse(conversation);
    const limits = sides.map(({ context, settings }) => [maxPromptTokens(context, settings.max_tokens), context]);
    const [max, context] = limits.reduce((a, b) => (b[0] < a[0] ? b : a));
    this.root.hidden = !use || !(max > 0);
    this.level = this.root.hidden || use.tokens < NEARLY_FULL * max ? "" : use.tokens <= max ? "nearly-full" : "full";
    if (this.root.hidden) return;
    const used = `${use.exact ? "" : "at least "}${count(use.tokens)} of ${count(context)} tokens`;
    const dropped = conversation.mode === "chat" ? "the oldest messages are" : "the beginning of the text is";
    this.text = {
      "": `Context: ${used}`,
      "nearly-full": `Context nearly full: ${used}`,
      full: `Context full: ${dropped} left out of the next prompt`,
    }[this.level];
    this.label.textContent = this.text;
    this.root.title =
      `${used}, ${count(context - max)} of them reserved for the answer. When a prompt is longer, ${dropped} left out.`;
    this.root.dataset.level = this.level;
    this.meter.setAttribute("aria-valuemax", context);
    this.meter.setAttribute("aria-valuenow", Math.min(use.tokens, context));
    this.meter.setAttribute("aria-valuetext", this.text);
    this.meter.firstElementChild.style.width = `${this.level === "full" ? 100 : (use.tokens / context) * 100}%`;
  }
}
