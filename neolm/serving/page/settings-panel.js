/** The settings panel: sampling of each side, system prompt, view, feedback and API key; and the theme. */

import { sideLabel } from "./compare.js";
import { element } from "./dom.js";
import { consentText } from "./feedback.js";
import { SamplingControls } from "./sampling-controls.js";

const SIDES = ["left", "right"];

const byId = (id) => document.getElementById(id);

/**
 * Adds a row of radio buttons.
 *
 * @param {HTMLElement} root a fieldset
 * @param {[string, Array<Node|string>][]} choices value and label
 * @param {(value: string) => void} onChange
 * @returns {(value: string) => void} selects a value
 */
function addRadioButtons(root, choices, onChange) {
  const inputs = choices.map(([value, label]) => {
    const input = element("input", {
      type: "radio",
      name: root.id,
      value,
      class: "visually-hidden",
      on: { change: () => onChange(value) },
    });
    root.append(element("label", { class: "segment" }, input, element("span", {}, ...label)));
    return input;
  });
  return (value) =>
    inputs.forEach((input) => {
      input.checked = input.value === value;
    });
}

function applyTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

export class SettingsPanel {
  /** @param {Object} app its preferences, session, apiKey and notices */
  constructor(app) {
    this.app = app;
    this.side = 0; // whose settings are shown
    const { preferences } = app;
    this.controls = new SamplingControls(byId("controls"), (settings) => preferences.set(SIDES[this.side], settings));
    const sides = [0, 1].map((side) => [String(side), sideLabel(side)]);
    this.showSide = addRadioButtons(byId("side"), sides, (side) => this.selectSide(Number(side)));
    const themes = ["System", "Light", "Dark"].map((name) => [name.toLowerCase(), [name]]);
    const showTheme = addRadioButtons(byId("theme"), themes, (theme) => preferences.set("theme", theme));
    showTheme(preferences.get("theme"));
    preferences.watch(["theme"], applyTheme);
    byId("consent-text").append(...consentText());
    for (const id of ["formatted", "consent"]) {
      byId(id).addEventListener("change", () => preferences.set(id, byId(id).checked));
    }
    byId("system").addEventListener("input", () => {
      app.session.conversation.system = byId("system").value;
      app.session.saveSoon();
    });
    byId("forget-key").addEventListener("click", () => this.#forgetKey());
  }

  #forgetKey() {
    const { app } = this;
    app.apiKey.forget();
    app.render();
    app.notices.show("key", "The API key was removed from this browser.");
    byId("settings-toggle").focus();
  }

  /** Shows the settings of a side. @param {0|1} side */
  selectSide(side) {
    this.side = side;
    this.app.render();
  }

  /**
   * @param {{settings: Settings, maxTokens: number}[]} chosen of both sides
   * @param {boolean} isCompletion
   */
  render(chosen, isCompletion) {
    const { preferences, info, apiKey, session } = this.app;
    const compare = preferences.get("compare");
    if (!compare) this.side = 0;
    byId("side").hidden = !compare;
    this.showSide(String(this.side));
    this.controls.update(chosen[this.side].settings, chosen[this.side].maxTokens);
    byId("formatted").checked = preferences.get("formatted");
    byId("consent").checked = preferences.get("consent");
    byId("sharing").hidden = !info.feedback;
    byId("key-group").hidden = apiKey.value === null;
    byId("system-group").hidden = isCompletion;
    if (byId("system") !== document.activeElement) byId("system").value = session.conversation.system;
  }
}
