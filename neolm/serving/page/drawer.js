/**
 * The side panels: columns on a wide screen, drawers over the page on a narrow one. While a drawer is open, the rest of
 * the page is inert.
 */

const NARROW = window.matchMedia("(max-width: 60rem)");

export class Drawer {
  /**
   * @param {Object} parts
   * @param {HTMLElement} parts.panel
   * @param {HTMLButtonElement} parts.button opens and closes the panel
   * @param {HTMLElement[]} parts.rest inert while the drawer is open
   * @param {boolean} parts.escape whether Esc also closes the column of a wide screen
   * @param {() => boolean} parts.isColumnOpen
   * @param {(open: boolean) => void} parts.setColumnOpen
   */
  constructor(parts) {
    Object.assign(this, parts, { over: false });
    this.button.addEventListener("click", () => this.toggle());
    this.panel.querySelector(".drawer-close").addEventListener("click", () => this.close());
    this.panel.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.defaultPrevented || event.isComposing) return;
      if (document.querySelector(":popover-open") || !(this.over || this.escape)) return;
      event.stopPropagation();
      this.close();
    });
    document.getElementById("shade").addEventListener("click", () => this.closeOverlay());
    NARROW.addEventListener("change", () => {
      this.over = false;
      this.#render();
    });
    this.#render();
  }

  get open() {
    return NARROW.matches ? this.over : this.isColumnOpen();
  }

  toggle() {
    if (this.open) this.close();
    else this.show();
  }

  show() {
    this.#setOpen(true);
    if (this.over) this.panel.querySelector(".drawer-close").focus();
  }

  close() {
    const { activeElement } = document;
    const moveFocus = this.panel.contains(activeElement) || activeElement === document.body;
    this.#setOpen(false);
    if (moveFocus) this.button.focus();
  }

  /** Closes the panel if it covers the page. */
  closeOverlay() {
    if (this.over) this.close();
  }

  #setOpen(open) {
    if (NARROW.matches) this.over = open;
    else this.setColumnOpen(open);
    this.#render();
  }

  #render() {
    const { open } = this;
    this.panel.hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
    this.rest.forEach((part) => {
      part.inert = this.over;
    });
    document.getElementById("shade").hidden = !document.querySelector(".drawer:not([hidden])") || !NARROW.matches;
  }
}
