/** An answer: its model, its text (Markdown, plain or tokens), statistics, errors and actions. */

import { copyText } from "./clipboard.js";
import { sideLabel } from "./compare.js";
import { button, element, setText } from "./dom.js";
import { editor } from "./editor.js";
import { ErrorView } from "./error-view.js";
import { MarkdownView } from "./markdown.js";
import { PlainTextView } from "./plain-text-view.js";
import { TokenView, legend } from "./token-view.js";
import { Versions } from "./versions.js";

/** @param {Object} settings the parameters sent @returns {string} */
function settingsText(settings = {}) {
  return Object.entries(settings)
    .map(([key, value]) => `${key.replaceAll("_", " ")} ${Array.isArray(value) ? JSON.stringify(value) : value}`)
    .join(", ");
}

function statsText({ stats = {}, state, finishReason, settings, tokens, edited }, probabilities) {
  if (edited) return "";
  const { firstToken, tokensPerSecond: speed, completionTokens: count, truncatedTokens: truncated } = stats;
  const parts = [];
  if (state === "stopped") parts.push("Stopped");
  if (finishReason === "length" && state === "done")
    parts.push(settings?.max_tokens === count ? "Reached max tokens" : "Reached the end of the context");
  if (finishReason === "content_filter") parts.push("Ended by the moderation policy of this server");
  if (firstToken !== undefined) parts.push(`${(firstToken / 1000).toFixed(2)} s to first token`);
  if (speed !== undefined) parts.push(`${speed.toFixed(speed < 100 ? 1 : 0)} tokens/s`);
  if (count !== undefined) parts.push(`${count} ${count === 1 ? "token" : "tokens"}`);
  if (truncated > 0) parts.push(`prompt longer than the context: the first ${truncated} tokens were left out`);
  if (probabilities && !tokens?.length && state !== "generating") parts.push("generated without probabilities");
  return parts.join(" · ");
}

export class AnswerView {
  /**
   * @param {Object} options
   * @param {Message} options.message
   * @param {Message|null} options.prompt mode "completion": the prompt shown before it
   * @param {0|1|null} options.side which of two answers it is; null if it is the only one
   * @param {Object} context `conversation`, `actions` and `viewOptions` of the conversation view
   */
  constructor({ message, prompt, side }, context) {
    Object.assign(this, { message, prompt, ...context, paired: side !== null });
    this.isCompletion = this.conversation.mode === "completion";
    this.modelButton = button("About this model", {
      text: message.model || "model",
      class: "button-model",
      data: { action: "card" },
      onClick: () => this.actions.showCard(message.model),
    });
    this.editedNote = element("span", { class: "edited-note" });
    const heading = element(
      "h3",
      { class: "turn-model" },
      this.paired
        ? element("span", { class: "side" }, ...sideLabel(side))
        : element("span", { class: "visually-hidden" }, "Answer of "),
      this.modelButton,
      this.editedNote,
    );
    this.settings = element("p", { class: "turn-settings" });
    this.body = element("div", { class: "turn-body" });
    this.placeholder = element("p", { class: "placeholder" });
    this.error = new ErrorView(message, this.actions);
    this.foot = this.#makeFoot();
    this.element = element(
      "article",
      { class: "turn turn-answer", data: { message: message.id } },
      heading,
      this.settings,
      this.body,
      this.placeholder,
      this.error.element,
      this.foot,
    );
  }

  #makeFoot() {
    const { message, prompt, actions, conversation, isCompletion } = this;
    const tool = (label, icon, action, onClick, more) =>
      button(label, { icon, text: false, data: { action }, onClick, ...more });
    this.versions = new Versions(isCompletion ? "continuation" : "answer", actions.show);
    this.promptVersions = new Versions("prompt", actions.show);
    this.copy = tool("Copy", "copy", "copy", () =>
      copyText(isCompletion ? conversation.promptText(message.id) : message.text, this.copy),
    );
    if (isCompletion) this.copy.title = "Copy the text up to here";
    this.tools = [
      tool("Regenerate", "refresh", "regenerate", () => actions.regenerate(message)),
      this.copy,
      tool(isCompletion ? "Edit the continuation" : "Edit the answer", "edit", "edit", () => this.#edit(message)),
    ];
    if (prompt)
      this.tools.push(
        button("Edit the prompt", {
          icon: "edit",
          text: "Prompt",
          class: "button-quiet",
          data: { action: "edit-prompt" },
          onClick: () => this.#edit(prompt),
        }),
      );
    this.thumbs = ["up", "down"].map((rating) =>
      tool(
        rating === "up" ? "Good answer" : "Bad answer",
        rating,
        `rate-${rating}`,
        () => actions.rate(message, rating),
        { "aria-pressed": "false" },
      ),
    );
    this.stats = element("p", { class: "stats" });
    this.legend = legend();
    return element(
      "div",
      { class: "turn-foot" },
      element(
        "div",
        { class: "tools" },
        this.promptVersions.element,
        this.versions.element,
        ...this.tools,
        ...this.thumbs,
      ),
      this.legend,
      this.stats,
    );
  }

  /** @param {boolean} full whether anything but the growing text may have changed */
  update(full) {
    const { message } = this;
    const { waitingText, probabilities } = this.viewOptions();
    const generating = message.state === "generating";
    if (full) this.#updateFrame(generating);
    this.#renderBody();
    const empty = message.text === "" && !message.tokens?.length;
    const placeholder = generating ? waitingText(message.model) : message.state === "done" ? "(empty answer)" : "";
    setText(this.placeholder, empty ? placeholder : "");
    this.error.update();
    setText(this.stats, statsText(message, probabilities));
  }

  /** Updates what does not change while the text grows. */
  #updateFrame(generating) {
    const { message, prompt, paired, conversation } = this;
    this.element.classList.toggle("generating", generating);
    this.element.setAttribute("aria-busy", String(generating));
    setText(this.modelButton.querySelector(".button-text"), message.model || "model");
    this.modelButton.setAttribute("aria-label", `${message.model}, about this model`);
    setText(this.editedNote, message.edited ? " (edited)" : "");
    setText(this.settings, paired ? settingsText(message.settings) : "");
    this.stats.title = settingsText(message.settings);
    this.versions.update(message, paired ? [message] : conversation.siblings(message));
    this.promptVersions.update(prompt, prompt ? conversation.siblings(prompt) : []);
    for (const tool of this.tools) {
      const isCopy = tool === this.copy;
      tool.hidden = generating || (paired && !isCopy) || (isCopy && message.text === "");
    }
    const { feedback } = this.viewOptions();
    for (const thumb of this.thumbs) {
      thumb.hidden = !feedback || generating || paired || message.edited || message.text === "";
      thumb.setAttribute("aria-pressed", String(thumb.dataset.action === `rate-${message.rating}`));
    }
  }

  #renderBody() {
    if (this.editing) return;
    const { message, prompt, isCompletion } = this;
    const { probabilities, formatted } = this.viewOptions();
    const kind = probabilities && message.tokens?.length ? "tokens" : isCompletion || !formatted ? "plain" : "markdown";
    if (kind !== this.kind) {
      this.kind = kind;
      this.legend.hidden = kind !== "tokens";
      this.view =
        kind === "tokens"
          ? new TokenView(isCompletion ? "span" : "div")
          : kind === "plain"
            ? new PlainTextView()
            : new MarkdownView();
      const promptText = prompt ? element("span", { class: "prompt" }, prompt.text) : "";
      this.body.replaceChildren(
        isCompletion ? element("div", { class: "passage" }, promptText, this.view.element) : this.view.element,
      );
    }
    if (kind === "tokens") this.view.update(message.tokens);
    else this.view.update(message.text, message.state === "generating");
  }

  /** Opens an editor in place of the text. @param {Message} edited the answer or its prompt */
  #edit(edited) {
    const isPrompt = edited === this.prompt;
    const noun = isPrompt ? "prompt" : this.isCompletion ? "continuation" : "answer";
    const action = isPrompt ? "edit-prompt" : "edit";
    this.editing = true;
    this.foot.hidden = true;
    this.body.replaceChildren(
      editor({
        text: edited.text,
        label: `New version of the ${noun}`,
        save: isPrompt ? "Continue from here" : "Save as a version",
        onDone: (text) => {
          this.editing = false;
          this.foot.hidden = false;
          this.kind = null;
          this.#renderBody();
          if (text !== null && text !== edited.text) this.actions.edit(edited, text, action);
          else this.element.querySelector(`[data-action="${action}"]`).focus();
        },
      }),
    );
  }
}
