/** The conversations kept in this browser, to open, rename, export and delete. */

import { button, element } from "./element.js";

const DAY = 24 * 3600 * 1000;

/** @param {number} time @param {number} [now] */
export function ageText(time, now = Date.now()) {
  const start = new Date(now).setHours(0, 0, 0, 0);
  if (time >= start) return "Today";
  if (time >= start - DAY) return "Yesterday";
  if (time >= start - 6 * DAY) return "Earlier this week";
  return new Date(time).toLocaleDateString("en-GB", { month: "long", year: "numeric" });
}

export class ConversationList {
  /**
   * @param {HTMLElement} root
   * @param {{open: (id: string) => void, rename: (id: string) => void, remove: (id: string) => void,
   *   save: (id: string, kind: "json"|"md") => void, saveDamaged: () => void, removeDamaged: () => void}} actions
   */
  constructor(root, actions) {
    Object.assign(this, { root, actions });
    this.menu = this.#makeMenu();
    root.after(this.menu);
  }

  #makeMenu() {
    const item = (label, what, className = "") =>
      button(label, {
        class: `menu-item ${className}`,
        press: () => {
          this.menu.hidePopover();
          what(this.chosen);
        },
      });
    const menu = element(
      "div",
      { class: "menu", popover: "auto", role: "group", "aria-label": "Conversation" },
      item("Rename", (id) => this.actions.rename(id)),
      item("Export as Markdown", (id) => this.actions.save(id, "md")),
      item("Export as JSON", (id) => this.actions.save(id, "json")),
      item("Delete", (id) => this.actions.remove(id), "danger"),
    );
    return menu;
  }

  #openMenu(id, from) {
    this.chosen = id;
    this.menu.showPopover();
    const { left, bottom, top } = from.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.menu;
    this.menu.style.left = `${Math.max(8, Math.min(left, window.innerWidth - width - 8))}px`;
    this.menu.style.top = `${bottom + height + 8 < window.innerHeight ? bottom + 4 : Math.max(8, top - height - 4)}px`;
    this.menu.querySelector("button").focus();
  }

  /**
   * @param {import("./library.js").Head[]} heads @param {string} open @param {number} damaged how many cannot be read
   */
  update(heads, open, damaged) {
    const focused = this.root.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    const groups = Map.groupBy ? Map.groupBy(heads, ({ updated }) => ageText(updated)) : groupBy(heads);
    const parts = [...groups].map(([age, members]) =>
      element(
        "section",
        {},
        element("h3", { class: "list-age" }, age),
        element("ul", {}, ...members.map((head) => this.#item(head, head.id === open))),
      ),
    );
    if (!heads.length)
      parts.push(element("p", { class: "muted list-empty" }, "Conversations are kept here, in this browser."));
    if (damaged) parts.push(this.#damaged(damaged));
    this.root.replaceChildren(...parts);
    if (focused) this.root.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
  }

  #item({ id, name }, open) {
    const more = button(`More for ${name}`, {
      icon: "more",
      text: false,
      class: "list-more",
      "aria-haspopup": "true",
      data: { focus: `more ${id}` },
      press: () => this.#openMenu(id, more),
    });
    const title = element(
      "button",
      {
        type: "button",
        class: "list-open",
        "aria-current": open ? "true" : null,
        data: { focus: `open ${id}` },
        on: { click: () => this.actions.open(id) },
      },
      element("bdi", {}, name),
    );
    return element("li", { class: open ? "list-item open" : "list-item" }, title, more);
  }

  #damaged(count) {
    return element(
      "section",
      { class: "list-damaged" },
      element(
        "p",
        {},
        `${count === 1 ? "One conversation is" : `${count} conversations are`} damaged and cannot be read.`,
      ),
      button("Save what is there", { class: "button-quiet", press: () => this.actions.saveDamaged() }),
      button("Delete", {
        class: "button-quiet danger",
        "aria-label": "Delete what is damaged",
        press: () => this.actions.removeDamaged(),
      }),
    );
  }
}

/** For browsers that have no `Map.groupBy` yet. */
function groupBy(heads) {
  const groups = new Map();
  heads.forEach((head) => groups.set(ageText(head.updated), [...(groups.get(ageText(head.updated)) ?? []), head]));
  return groups;
}
