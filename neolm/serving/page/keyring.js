/**
 * The server's key: kept for this tab, or on this device if the person wants that.
 */

import { Store } from "./store.js";

const KEY = "key";

export class Keyring {
  constructor(tab = new Store(() => window.sessionStorage), device = new Store()) {
    this.tab = tab;
    this.device = device;
    const kept = tab.read(KEY) ?? device.read(KEY);
    this.key = typeof kept === "string" ? kept : null;
  }

  /** @param {boolean} remember on this device, not only in this tab */
  set(key, remember) {
    this.forget();
    this.key = key;
    try {
      (remember ? this.device : this.tab).write(KEY, key);
    } catch {
      // It holds until the page is closed.
    }
  }

  forget() {
    this.key = null;
    this.tab.remove(KEY);
    this.device.remove(KEY);
  }

  get headers() {
    return this.key === null ? {} : { Authorization: `Bearer ${this.key}` };
  }
}
