/** The sampling settings as presets, number fields and sliders, each with a help text. */

import { button, element } from "./dom.js";
import { DEFAULTS, FIELDS, PRESETS, clamp, presetName } from "./sampling.js";

export class SamplingControls {
  constructor(root, onChange) {
    Object.assign(this, { onChange, settings: { ...DEFAULTS }, maxTokens: 4096 });
    this.presets = PRESETS.map(({ name, help, values }) =>
      button(name, { class: "chip", title: help, "aria-pressed": "false", onClick: () => this.#set(values) }),
    );
    this.fields = FIELDS.map((field) => this.#makeField(field));
    root.append(
      element("div", { class: "presets", role: "group", "aria-label": "Presets" }, ...this.presets),
      ...this.fields.map((field) => field.element),
      button("Reset to defaults", { icon: "refresh", class: "button-quiet", onClick: () => this.#set(DEFAULTS) }),
    );
  }

  #makeField(field) {
    const { key, label, min, max, step, initial, text } = field;
    const id = `setting-${key}`;
    const help = element("p", { class: "field-help", id: `${id}-help` }, field.help);
    const common = { id, "aria-describedby": help.id };
    const input = text
      ? element("textarea", { ...common, rows: "2", spellcheck: "false" })
      : element("input", {
          ...common,
          type: "number",
          min,
          max,
          step: step === 1 ? 1 : "any",
          inputmode: step === 1 ? "numeric" : "decimal",
          placeholder: initial === null ? "none" : null,
        });
    const name = { "aria-label": `${label}, slider`, "aria-describedby": help.id };
    const range = text || initial === null ? null : element("input", { type: "range", min, max, step, ...name });
    const setFrom = (control, typing) => {
      const value = clamp(field, control.value, key === "max_tokens" ? this.maxTokens : max);
      this.#set({ [key]: value }, typing ? control : null);
    };
    // Invalid input is ignored while the user types and corrected when the field loses the focus.
    input.addEventListener("input", () => {
      if (text || (input.validity.valid && (input.value !== "" || initial === null))) setFrom(input, true);
    });
    input.addEventListener("change", () => setFrom(input, false));
    range?.addEventListener("input", () => setFrom(range, true));
    const group = element(
      "div",
      { class: "field" },
      element("div", { class: "field-head" }, element("label", { for: id }, label), text ? null : input),
      text ? input : range,
      help,
    );
    return { key, input, range, element: group };
  }

  /** @param {Object} values @param {HTMLElement|null} [source] the control being used, which keeps its text */
  #set(values, source = null) {
    this.settings = { ...this.settings, ...values };
    this.settings.max_tokens = Math.min(this.settings.max_tokens, this.maxTokens);
    this.#render(source);
    this.onChange(this.settings);
  }

  /** @param {Settings} settings @param {number} maxTokens limit of server and model */
  update(settings, maxTokens) {
    this.settings = { ...settings, max_tokens: Math.min(settings.max_tokens, maxTokens) };
    this.maxTokens = maxTokens;
    this.#render();
  }

  #render(source) {
    for (const { key, input, range } of this.fields) {
      const value = this.settings[key];
      if (key === "max_tokens") for (const control of [input, range]) control.max = this.maxTokens;
      if (input !== source && input.value !== String(value ?? "")) input.value = value ?? "";
      if (range && range !== source) range.value = value;
    }
    const preset = presetName(this.settings);
    this.presets.forEach((chip) => chip.setAttribute("aria-pressed", String(chip.textContent === preset)));
  }
}
