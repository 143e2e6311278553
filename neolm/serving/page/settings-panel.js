/** The panel of settings: sampling on each side, the system message, view, theme, sharing and the key. */

import { sideName } from "./compare.js";
import { Controls } from "./controls.js";
import { consentWords } from "./feedback.js";
import { applyTheme, segments } from "./theme.js";

const SIDES = ["left", "right"];

const at = (id) => document.getElementById(id);

export class SettingsPanel {
  /** @param {Object} app the page: its preferences, session, keyring, notices */
  constructor(app) {
    this.app = app;
    this.tuned = 0; // the side whose settings are shown
    const { preferences } = app;
    this.controls = new Controls(at("controls"), (settings) => preferences.set(SIDES[this.tuned], settings));
    this.showSide = segments(
      at("side"),
      [
        ["0", sideName(0)],
        ["1", sideName(1)],
      ],
      (side) => this.tune(Number(side)),
    );
    const themes = [
      ["system", ["System"]],
      ["light", ["Light"]],
      ["dark", ["Dark"]],
    ];
    segments(at("theme"), themes, (theme) => preferences.set("theme", theme))(preferences.get("theme"));
    preferences.watch(["theme"], applyTheme);
    at("consent-words").append(...consentWords());
    for (const id of ["formatted", "consent"]) {
      at(id).addEventListener("change", () => preferences.set(id, at(id).checked));
    }
    at("system").addEventListener("input", () => {
      app.session.conversation.system = at("system").value;
      app.session.saveSoon();
    });
    at("forget-key").addEventListener("click", () => this.#forgetKey());
  }

  #forgetKey() {
    const { app } = this;
    app.keyring.forget();
    app.draw();
    app.notices.show("key", "The key is forgotten.");
    at("settings-toggle").focus();
  }

  /** Shows the settings of a side. @param {0|1} side */
  tune(side) {
    this.tuned = side;
    this.app.draw();
  }

  /**
   * @param {{settings: import("./settings.js").Settings, most: number}[]} chosen of both sides
   * @param {boolean} isText
   */
  draw(chosen, isText) {
    const { preferences, info, keyring, session } = this.app;
    const compare = preferences.get("compare");
    if (!compare) this.tuned = 0;
    at("side").hidden = !compare;
    this.showSide(String(this.tuned));
    this.controls.update(chosen[this.tuned].settings, chosen[this.tuned].most);
    at("formatted").checked = preferences.get("formatted");
    at("consent").checked = preferences.get("consent");
    at("sharing").hidden = !info.feedback;
    at("key-group").hidden = keyring.key === null;
    at("system-group").hidden = isText;
    if (at("system") !== document.activeElement) at("system").value = session.conversation.system;
  }
}
