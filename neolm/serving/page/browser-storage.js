/** JSON values in the browser's storage, which may be missing, full or damaged. */

const PREFIX = "neolm.";

/** A value could not be saved. */
export class StorageError extends Error {
  /** @param {"full"|"missing"} kind */
  constructor(kind) {
    const full = "The browser’s storage for this page is full.";
    super(kind === "full" ? full : "The browser does not let this page store data.");
    this.kind = kind;
  }
}

export class BrowserStorage {
  /** @param {() => Storage} area called each time, because access throws where storage is blocked */
  constructor(area = () => window.localStorage) {
    this.area = area;
  }

  /** @returns {any} the value, or undefined if it is missing or not JSON */
  read(key) {
    try {
      return JSON.parse(this.raw(key) ?? "null") ?? undefined;
    } catch {
      return undefined;
    }
  }

  /** @returns {string|null} the stored text */
  raw(key) {
    try {
      return this.area().getItem(PREFIX + key);
    } catch {
      return null;
    }
  }

  /** @throws {StorageError} */
  write(key, value) {
    const text = JSON.stringify(value);
    let area;
    try {
      area = this.area();
      area.setItem(PREFIX + key, text);
    } catch (error) {
      throw new StorageError(area && error.name === "QuotaExceededError" ? "full" : "missing");
    }
  }

  /** Writes a value that may be lost when the page is closed. */
  tryWrite(key, value) {
    try {
      this.write(key, value);
    } catch {
      // The value stays in memory.
    }
  }

  remove(key) {
    try {
      this.area().removeItem(PREFIX + key);
    } catch {
      // Blocked storage is empty.
    }
  }

  /** @returns {string[]} the keys that begin with `prefix`, without it */
  keys(prefix) {
    try {
      const area = this.area();
      const all = Array.from({ length: area.length }, (_, index) => area.key(index));
      const start = PREFIX + prefix;
      return all.filter((key) => key.startsWith(start)).map((key) => key.slice(start.length));
    } catch {
      return [];
    }
  }

  /** Calls `listener` with the key, without `prefix`, when another tab has changed it. */
  watch(prefix, listener) {
    const start = PREFIX + prefix;
    window.addEventListener("storage", ({ key }) => key?.startsWith(start) && listener(key.slice(start.length)));
  }
}
