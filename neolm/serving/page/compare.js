/** Side-by-side comparison: the bar with a model and settings for each side. */

import { button, element } from "./dom.js";
import { settingsSummary } from "./sampling.js";

/** A text that depends on the width: CSS shows one of the two. @returns {HTMLElement[]} */
export function responsiveLabel(wide, narrow) {
  return [element("span", { class: "when-wide" }, wide), element("span", { class: "when-narrow" }, narrow)];
}

export function sideLabel(side) {
  return side === 0 ? responsiveLabel("Left", "First") : responsiveLabel("Right", "Second");
}

/** A select element with the models. */
export class ModelPicker {
  constructor(select, onChange) {
    this.select = select;
    select.addEventListener("change", () => onChange(select.value));
  }

  update(models, id) {
    const names = models.map((model) => `${model.id}${model.loaded ? "" : " (not loaded)"}`);
    const key = JSON.stringify(names);
    if (key !== this.rendered) {
      this.rendered = key;
      this.select.replaceChildren(
        ...models.map((model, index) => element("option", { value: model.id }, names[index])),
      );
    }
    this.select.value = id;
    this.select.disabled = models.length === 0;
  }
}

export class CompareBar {
  constructor(root, { pickModel, openSettings }) {
    this.root = root;
    this.sides = ["left", "right"].map((name, side) => {
      const select = element("select", { id: `${name}-model`, class: "model-select" });
      const settings = button(`Settings of the ${name} side`, {
        icon: "sliders",
        text: "settings",
        class: "button-quiet",
        onClick: () => openSettings(side),
      });
      const label = element(
        "label",
        { for: select.id, class: "side" },
        ...sideLabel(side),
        element("span", { class: "visually-hidden" }, " model"),
      );
      root.append(element("div", { class: "compare-side" }, label, select, settings));
      return { name, picker: new ModelPicker(select, (id) => pickModel(side, id)), settings };
    });
  }

  /**
   * @param {boolean} shown
   * @param {Model[]} models
   * @param {{model: string, settings: Settings}[]} chosen
   */
  update(shown, models, chosen) {
    this.root.hidden = !shown;
    this.sides.forEach(({ picker, settings, name }, side) => {
      picker.update(models, chosen[side].model);
      const summary = settingsSummary(chosen[side].settings);
      settings.querySelector(".button-text").textContent = summary;
      settings.setAttribute("aria-label", `Settings of the ${name} side: ${summary}`);
    });
  }
}
