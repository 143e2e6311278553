/** Keeps the end of the conversation in view while it grows, unless the user has scrolled up. */

const END_MARGIN = 48; // pixels from the end that count as the end

export class AutoScroll {
  /** @param {HTMLElement} scroller @param {HTMLButtonElement} jump shown while the end is out of view */
  constructor(scroller, jump) {
    Object.assign(this, { scroller, jump, following: true, empty: true, lastTop: 0, lastHeight: 0 });
    scroller.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    jump.addEventListener("click", () => this.scrollToEnd());
    const observer = new ResizeObserver(() => this.#update());
    [scroller, ...scroller.children].forEach((part) => observer.observe(part));
  }

  #onScroll() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    const atEnd = scrollHeight - scrollTop - clientHeight < END_MARGIN;
    // Only the user scrolls up. Content that grows moves the end away, content that shrinks moves the top.
    if (atEnd) this.following = true;
    else if (scrollTop < this.lastTop - 2 && scrollHeight >= this.lastHeight) this.following = false;
    this.lastTop = scrollTop;
    this.lastHeight = scrollHeight;
    this.jump.hidden = this.empty || atEnd || this.following;
  }

  #update() {
    if (this.following && !this.empty) this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#onScroll();
  }

  scrollToEnd() {
    this.following = true;
    this.#update();
  }

  /** Scrolls a part of the text to the middle of the view. @param {Range} range */
  scrollTo(range) {
    this.following = false;
    const { top } = range.getBoundingClientRect();
    this.scroller.scrollTop += top - this.scroller.getBoundingClientRect().top - this.scroller.clientHeight / 2;
    this.#onScroll();
  }

  /** @param {boolean} empty whether the conversation has no messages yet */
  reset(empty) {
    this.empty = empty;
    if (empty) this.scroller.scrollTop = 0;
    this.scrollToEnd();
  }
}
