/** Keeps the end of the conversation in view while it grows, unless the person has scrolled away from it. */

const NEAR = 48; // pixels from the end that count as being there

export class Follow {
  /** @param {HTMLElement} scroller @param {HTMLButtonElement} jump shown while the end is out of view */
  constructor(scroller, jump) {
    Object.assign(this, { scroller, jump, following: true, empty: true, last: 0, height: 0 });
    scroller.addEventListener("scroll", () => this.#look(), { passive: true });
    jump.addEventListener("click", () => this.toEnd());
    // Also for what grows by itself: entries are measured only when they come into view.
    const observer = new ResizeObserver(() => this.update());
    [scroller, ...scroller.children].forEach((part) => observer.observe(part));
  }

  #look() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    // Turning back ends it; growing, which also leaves the end behind, does not, nor does shrinking.
    const near = scrollHeight - scrollTop - clientHeight < NEAR;
    if (near) this.following = true;
    else if (scrollTop < this.last - 2 && scrollHeight >= this.height) this.following = false;
    this.last = scrollTop;
    this.height = scrollHeight;
    this.jump.hidden = this.empty || near || this.following;
  }

  update() {
    if (this.following && !this.empty) this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#look();
  }

  toEnd() {
    this.following = true;
    this.update();
  }

  /** @param {boolean} empty whether there is no conversation yet, whose end could be followed */
  begin(empty) {
    this.empty = empty;
    if (empty) this.scroller.scrollTop = 0;
    this.toEnd();
  }
}
