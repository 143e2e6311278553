/**
 * The list on the left and the settings on the right: columns on a wide screen, drawers over the page on a narrow one.
 * Where it is a drawer, the rest of the page is out of reach until it is closed.
 */

const NARROW = window.matchMedia("(max-width: 60rem)");

export class Drawer {
  /**
   * @param {{panel: HTMLElement, toggle: HTMLButtonElement, rest: HTMLElement[], escape: boolean,
   *   kept: () => boolean, keep: (open: boolean) => void}} parts `escape` is whether Esc also closes a column;
   *   `kept` is whether it is open on a wide screen
   */
  constructor(parts) {
    Object.assign(this, parts, { over: false });
    this.toggle.addEventListener("click", () => this.flip());
    this.panel.querySelector(".drawer-close").addEventListener("click", () => this.close());
    this.panel.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.defaultPrevented || event.isComposing) return;
      if (document.querySelector(":popover-open") || !(this.over || this.escape)) return;
      event.stopPropagation();
      this.close();
    });
    document.getElementById("shade").addEventListener("click", () => this.over && this.close());
    NARROW.addEventListener("change", () => {
      this.over = false;
      this.draw();
    });
    this.draw();
  }

  get open() {
    return NARROW.matches ? this.over : this.kept();
  }

  flip() {
    if (this.open) this.close();
    else this.show();
  }

  show() {
    if (NARROW.matches) this.over = true;
    else this.keep(true);
    this.draw();
    if (this.over) this.panel.querySelector(".drawer-close").focus();
  }

  close() {
    const { activeElement } = document;
    const focused = this.panel.contains(activeElement) || activeElement === document.body;
    if (NARROW.matches) this.over = false;
    else this.keep(false);
    this.draw();
    if (focused) this.toggle.focus();
  }

  /** Closes it if it lies over the page, after something was chosen in it. */
  done() {
    if (this.over) this.close();
  }

  draw() {
    const { open } = this;
    this.panel.hidden = !open;
    this.toggle.setAttribute("aria-expanded", String(open));
    this.rest.forEach((part) => {
      part.inert = this.over;
    });
    document.getElementById("shade").hidden = !document.querySelector(".drawer:not([hidden])") || !NARROW.matches;
  }
}
