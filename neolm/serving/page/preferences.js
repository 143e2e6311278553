/**
 * What the person chose on this page, kept in this browser: theme, switches, models and sampling settings.
 */

import { settingsFrom } from "./settings.js";

const KEY = "preferences";

const flag = (start) => (value) => (typeof value === "boolean" ? value : start);
const choice =
  (...allowed) =>
  (value) =>
    allowed.includes(value) ? value : allowed[0];
const name = (value) => (typeof value === "string" && value.length <= 512 ? value : "");

/** How each is read from what was kept. The first of a choice is what the page starts with. */
const READERS = {
  theme: choice("system", "light", "dark"),
  mode: choice("", "chat", "completion"), // empty: what fits the model
  formatted: flag(true),
  probabilities: flag(false),
  compare: flag(false),
  consent: flag(false),
  listOpen: flag(true),
  settingsOpen: flag(false),
  leftModel: name,
  rightModel: name,
  left: (value) => settingsFrom(value),
  right: (value) => settingsFrom(value),
};

export class Preferences {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.store = store;
    const kept = store.read(KEY);
    const readable = typeof kept === "object" && kept !== null ? kept : {};
    this.values = Object.fromEntries(Object.entries(READERS).map(([key, read]) => [key, read(readable[key])]));
    this.listeners = [];
  }

  get(key) {
    return this.values[key];
  }

  set(key, value) {
    this.values[key] = READERS[key](value);
    try {
      this.store.write(KEY, this.values);
    } catch {
      // It holds as long as the page does; the library says so when a conversation is not kept.
    }
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
