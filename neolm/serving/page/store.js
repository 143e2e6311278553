/**
 * The browser's storage, as it really is: it may be missing, full, or hold what something else has written.
 */

const PREFIX = "neolm.";

/** Why something was not kept. */
export class StoreError extends Error {
  /** @param {"full"|"missing"} kind */
  constructor(kind) {
    super(
      kind === "full"
        ? "The browser's storage for this page is full."
        : "The browser does not let this page keep anything.",
    );
    this.kind = kind;
  }
}

export class Store {
  /** @param {() => Storage} area asked anew each time: even to look at it throws where storage is forbidden */
  constructor(area = () => window.localStorage) {
    this.area = area;
  }

  /** @returns {any} the value, or undefined where there is none or it is unreadable */
  read(key) {
    try {
      return JSON.parse(this.raw(key) ?? "null") ?? undefined;
    } catch {
      return undefined;
    }
  }

  /** @returns {string|null} what lies there, unread */
  raw(key) {
    try {
      return this.area().getItem(PREFIX + key);
    } catch {
      return null;
    }
  }

  /** @throws {StoreError} */
  write(key, value) {
    const text = JSON.stringify(value);
    let area;
    try {
      area = this.area();
      area.setItem(PREFIX + key, text);
    } catch (error) {
      throw new StoreError(area && error.name === "QuotaExceededError" ? "full" : "missing");
    }
  }

  remove(key) {
    try {
      this.area().removeItem(PREFIX + key);
    } catch {
      // Where nothing can be kept there is nothing to remove.
    }
  }

  /** @returns {string[]} the keys that begin with `start`, without it */
  keys(start) {
    try {
      const area = this.area();
      const all = Array.from({ length: area.length }, (_, index) => area.key(index));
      return all.filter((key) => key.startsWith(PREFIX + start)).map((key) => key.slice(PREFIX.length + start.length));
    } catch {
      return [];
    }
  }

  /** Calls `listener` with the key when another tab has written one that begins with `start`. */
  watch(start, listener) {
    window.addEventListener("storage", ({ key }) => {
      if (key?.startsWith(PREFIX + start)) listener(key.slice(PREFIX.length + start.length));
    });
  }
}
