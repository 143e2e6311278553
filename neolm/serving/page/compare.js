/** Two at a time: whom to ask on the left and on the right, each with a model and settings of its own. */

import { button, element } from "./element.js";
import { summary } from "./settings.js";

/** Words for a place that is beside on a wide screen and below on a narrow one. @returns {HTMLElement[]} */
export function placeWords(wide, narrow) {
  return [element("span", { class: "when-wide" }, wide), element("span", { class: "when-narrow" }, narrow)];
}

/** @param {0|1} side */
export function sideName(side) {
  return side === 0 ? placeWords("Left", "First") : placeWords("Right", "Second");
}

/** A select of models. */
export class ModelPicker {
  /** @param {HTMLSelectElement} select @param {(id: string) => void} chosen */
  constructor(select, chosen) {
    this.select = select;
    select.addEventListener("change", () => chosen(select.value));
  }

  /** @param {import("./server.js").Model[]} models @param {string} id */
  update(models, id) {
    const names = models.map((model) => `${model.id}${model.loaded ? "" : " (not loaded)"}`);
    const key = JSON.stringify(names);
    if (key !== this.drawn) {
      this.drawn = key;
      this.select.replaceChildren(
        ...models.map((model, index) => element("option", { value: model.id }, names[index])),
      );
    }
    this.select.value = id;
    this.select.disabled = models.length === 0;
  }
}

export class CompareStrip {
  /**
   * @param {HTMLElement} root
   * @param {{pick: (side: "left"|"right", model: string) => void, tune: (side: "left"|"right") => void}} actions
   */
  constructor(root, actions) {
    this.root = root;
    this.sides = ["left", "right"].map((side, index) => {
      const select = element("select", { id: `${side}-model`, class: "model-select" });
      const tune = button(`Settings of the ${side} side`, {
        icon: "sliders",
        text: "settings",
        class: "button-quiet",
        press: () => actions.tune(side),
      });
      root.append(
        element(
          "div",
          { class: "compare-side" },
          element(
            "label",
            { for: `${side}-model`, class: "side" },
            ...sideName(index),
            element("span", { class: "visually-hidden" }, " model"),
          ),
          select,
          tune,
        ),
      );
      return { side, picker: new ModelPicker(select, (id) => actions.pick(side, id)), tune };
    });
  }

  /**
   * @param {boolean} shown
   * @param {import("./server.js").Model[]} models
   * @param {{model: string, settings: import("./settings.js").Settings}[]} chosen
   */
  update(shown, models, chosen) {
    this.root.hidden = !shown;
    this.sides.forEach(({ picker, tune, side }, index) => {
      picker.update(models, chosen[index].model);
      const words = summary(chosen[index].settings);
      tune.querySelector(".button-text").textContent = words;
      tune.setAttribute("aria-label", `Settings of the ${side} side: ${words}`);
    });
  }
}
