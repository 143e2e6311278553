/** The list of the saved conversations, with a menu for each, and search results. */

import { markMatches } from "./conversation-search.js";
import { button, element } from "./dom.js";

const DAY = 24 * 3600 * 1000;

function ageText(time) {
  const startOfDay = new Date().setHours(0, 0, 0, 0);
  if (time >= startOfDay) return "Today";
  if (time >= startOfDay - DAY) return "Yesterday";
  if (time >= startOfDay - 6 * DAY) return "Earlier this week";
  return new Date(time).toLocaleDateString("en-GB", { month: "long", year: "numeric" });
}

export class ConversationList {
  /** @param {HTMLElement} root @param {Object} actions open, rename, remove, save, saveDamaged, removeDamaged */
  constructor(root, actions) {
    Object.assign(this, { root, actions });
    this.menu = this.#makeMenu();
    root.after(this.menu);
  }

  #makeMenu() {
    const item = (label, action, className = "") =>
      button(label, {
        class: `menu-item ${className}`,
        onClick: () => {
          this.menu.hidePopover();
          action(this.menuFor);
        },
      });
    return element(
      "div",
      { class: "menu", popover: "auto", role: "group", "aria-label": "Conversation" },
      item("Rename", (id) => this.actions.rename(id)),
      item("Export as Markdown", (id) => this.actions.save(id, "md")),
      item("Export as JSON", (id) => this.actions.save(id, "json")),
      item("Delete", (id) => this.actions.remove(id), "danger"),
    );
  }

  #openMenu(id, anchor) {
    this.menuFor = id;
    this.menu.showPopover();
    const { left, bottom, top } = anchor.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.menu;
    this.menu.style.left = `${Math.max(8, Math.min(left, window.innerWidth - width - 8))}px`;
    this.menu.style.top = `${bottom + height + 8 < window.innerHeight ? bottom + 4 : Math.max(8, top - height - 4)}px`;
    this.menu.querySelector("button").focus();
  }

  /**
   * @param {Object} state
   * @param {(Summary & {excerpt?: string})[]} state.items
   * @param {string} state.openId the open conversation
   * @param {RegExp|null} state.pattern what is searched for
   * @param {string} state.emptyText shown if there are no items
   * @param {number} state.damaged number of conversations that cannot be read
   */
  update({ items, openId, pattern, emptyText, damaged }) {
    const focused = this.root.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    const groups = new Map();
    for (const item of items) {
      const age = ageText(item.updated);
      groups.set(age, [...(groups.get(age) ?? []), this.#makeItem(item, item.id === openId, pattern)]);
    }
    const parts = [...groups].map(([age, members]) =>
      element("section", {}, element("h3", { class: "list-age" }, age), element("ul", {}, ...members)),
    );
    if (!items.length) parts.push(element("p", { class: "muted list-empty" }, emptyText));
    if (damaged) parts.push(this.#makeDamaged(damaged));
    this.root.replaceChildren(...parts);
    if (focused) this.root.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
  }

  #makeItem({ id, name, excerpt }, isOpen, pattern) {
    const more = button(`More for ${name}`, {
      icon: "more",
      text: false,
      class: "list-more",
      "aria-haspopup": "true",
      data: { focus: `more ${id}` },
      onClick: () => this.#openMenu(id, more),
    });
    const marked = (text) => (pattern ? markMatches(text, pattern) : [text]);
    const open = element(
      "button",
      {
        type: "button",
        class: "list-open",
        "aria-current": isOpen ? "true" : null,
        data: { focus: `open ${id}` },
        on: { click: () => this.actions.open(id) },
      },
      element("bdi", {}, ...marked(name)),
      excerpt ? element("span", { class: "list-excerpt", dir: "auto" }, ...marked(excerpt)) : null,
    );
    return element("li", { class: isOpen ? "list-item open" : "list-item" }, open, more);
  }

  #makeDamaged(count) {
    const text = `${count === 1 ? "One conversation is" : `${count} conversations are`} damaged and cannot be read.`;
    return element(
      "section",
      { class: "list-damaged" },
      element("p", {}, text),
      button("Save the data", { class: "button-quiet", onClick: () => this.actions.saveDamaged() }),
      button("Delete", {
        class: "button-quiet danger",
        "aria-label": "Delete damaged conversations",
        onClick: () => this.actions.removeDamaged(),
      }),
    );
  }
}
