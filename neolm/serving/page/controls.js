/** The sampling settings as sliders and fields, each with a plain explanation. */

import { button, element } from "./element.js";
import { DEFAULTS, FIELDS, PRESETS, fit, presetOf } from "./settings.js";

export class Controls {
  /** @param {HTMLElement} root @param {(settings: import("./settings.js").Settings) => void} changed */
  constructor(root, changed) {
    Object.assign(this, { root, changed, settings: { ...DEFAULTS }, most: 4096 });
    this.presets = PRESETS.map(({ name, explain, values }) =>
      button(name, { class: "chip", title: explain, "aria-pressed": "false", press: () => this.#set(values) }),
    );
    this.fields = FIELDS.map((field) => this.#field(field));
    root.append(
      element("div", { class: "presets", role: "group", "aria-label": "Presets" }, ...this.presets),
      ...this.fields.map((field) => field.element),
      button("Reset to defaults", { icon: "again", class: "button-quiet", press: () => this.#set(DEFAULTS) }),
    );
  }

  #field(field) {
    const { key, label, explain, min, max, step, text, whole, slider = !text } = field;
    const id = `setting-${key}`;
    const help = element("p", { class: "field-help", id: `${id}-help` }, explain);
    const common = { id, "aria-describedby": help.id };
    const input = text
      ? element("textarea", { ...common, rows: "2", spellcheck: "false" })
      : element("input", {
          ...common,
          type: "number",
          min,
          max,
          step: whole ? 1 : "any",
          inputmode: whole ? "numeric" : "decimal",
          placeholder: field.start === null ? "none" : null,
        });
    const range = slider
      ? element("input", {
          type: "range",
          min,
          max,
          step,
          "aria-label": `${label}, slider`,
          "aria-describedby": help.id,
        })
      : null;
    // While one types, only what is already good counts; on leaving the field it is made good.
    input.addEventListener("input", () => {
      const good = text || (input.validity.valid && (input.value !== "" || field.start === null));
      if (good) this.#set({ [key]: fit(field, input.value, this.#mostOf(field)) }, input);
    });
    input.addEventListener("change", () => this.#set({ [key]: fit(field, input.value, this.#mostOf(field)) }));
    range?.addEventListener("input", () => this.#set({ [key]: fit(field, range.value, this.#mostOf(field)) }, range));
    const made = element(
      "div",
      { class: text ? "field field-text" : "field" },
      element("div", { class: "field-head" }, element("label", { for: id }, label), text ? null : input),
      text ? input : range,
      help,
    );
    return { field, input, range, element: made };
  }

  #mostOf(field) {
    return field.key === "max_tokens" ? this.most : field.max;
  }

  /** @param {Object} values @param {HTMLElement} [by] the field they were typed into, which is left alone */
  #set(values, by) {
    this.settings = { ...this.settings, ...values };
    this.settings.max_tokens = Math.min(this.settings.max_tokens, this.most);
    this.#draw(by);
    this.changed(this.settings);
  }

  /** @param {import("./settings.js").Settings} settings @param {number} most tokens that the server lets one ask for */
  update(settings, most) {
    this.settings = { ...settings, max_tokens: Math.min(settings.max_tokens, most) };
    this.most = most;
    this.#draw();
  }

  #draw(by) {
    for (const { field, input, range } of this.fields) {
      const value = this.settings[field.key];
      if (field.key === "max_tokens")
        [input, range].forEach((control) => {
          control.max = this.most;
        });
      if (input !== by && input.value !== String(value ?? "")) input.value = value ?? "";
      if (range && range !== by) range.value = value;
    }
    const preset = presetOf(this.settings);
    this.presets.forEach((chip) => chip.setAttribute("aria-pressed", String(chip.textContent === preset)));
  }
}
