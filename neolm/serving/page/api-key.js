/** The API key: stored for this tab, or on this device if the user chooses so. */

const KEY = "key";

export class ApiKey {
  constructor(tab, device) {
    Object.assign(this, { tab, device });
    const stored = tab.read(KEY) ?? device.read(KEY);
    this.value = typeof stored === "string" ? stored : null;
  }

  /** @param {string} value @param {boolean} remember on this device, not only in this tab */
  set(value, remember) {
    this.forget();
    this.value = value;
    (remember ? this.device : this.tab).tryWrite(KEY, value);
  }

  forget() {
    this.value = null;
    this.tab.remove(KEY);
    this.device.remove(KEY);
  }

  get headers() {
    return this.value === null ? {} : { Authorization: `Bearer ${this.value}` };
  }
}
