/** The user's preferences, stored in this browser: theme, switches, models and sampling settings. */

import { parseSettings } from "./sampling.js";

const KEY = "preferences";

const flag = (fallback) => (value) => (typeof value === "boolean" ? value : fallback);
const choice =
  (...allowed) =>
  (value) =>
    allowed.includes(value) ? value : allowed[0];
const name = (value) => (typeof value === "string" && value.length <= 512 ? value : "");

/** Parsers of the stored values. The first value of a choice is the default. */
const PARSERS = {
  theme: choice("system", "light", "dark"),
  mode: choice("", "chat", "completion"), // empty: what suits the model
  formatted: flag(true),
  probabilities: flag(false),
  compare: flag(false),
  consent: flag(false),
  listOpen: flag(true),
  settingsOpen: flag(false),
  leftModel: name,
  rightModel: name,
  left: parseSettings,
  right: parseSettings,
};

export class Preferences {
  constructor(storage) {
    this.storage = storage;
    const stored = storage.read(KEY);
    const values = typeof stored === "object" && stored !== null ? stored : {};
    this.values = Object.fromEntries(Object.entries(PARSERS).map(([key, parse]) => [key, parse(values[key])]));
    this.listeners = [];
  }

  get(key) {
    return this.values[key];
  }

  set(key, value) {
    this.values[key] = PARSERS[key](value);
    this.storage.tryWrite(KEY, this.values);
    this.listeners.filter(([watched]) => watched === key).forEach(([, listener]) => listener(this.values[key]));
  }

  toggle(key) {
    this.set(key, !this.get(key));
  }

  /** Calls `listener` when one of `keys` is set. */
  watch(keys, listener) {
    keys.forEach((key) => this.listeners.push([key, listener]));
  }
}
