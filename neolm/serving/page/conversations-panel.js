/** The conversations panel: list, search, import and export. */

import { singleLine } from "./conversation.js";
import { ConversationList } from "./conversation-list.js";
import { excerpt, findMessage, searchPattern } from "./conversation-search.js";
import { askText, confirm } from "./dialogs.js";
import { button } from "./dom.js";
import { chooseFile, download } from "./files.js";
import { FormatError, MAX_FILE_BYTES, fileName, parseFile, serializeFile, toMarkdown } from "./import-export.js";
import { announce } from "./live-region.js";

export class ConversationsPanel {
  /** @param {Object} app its store, session, notices, list drawer and `showMatch` */
  constructor(app) {
    this.app = app;
    this.list = new ConversationList(document.getElementById("list"), {
      open: (id) => this.#open(id),
      rename: (id) => this.#rename(id),
      remove: (id) => this.#remove(id),
      save: (id, kind) => this.#save(id, kind),
      saveDamaged: () => download("damaged.txt", app.store.damagedText()),
      removeDamaged: () => this.#removeDamaged(),
    });
    const onClick = (id, action) => document.getElementById(id).addEventListener("click", action);
    onClick("new", () => app.begin());
    onClick("import", () => this.#import());
    onClick("export", () => this.exportAll());
    this.search = document.getElementById("search");
    this.search.addEventListener("input", () => this.#onSearch());
    this.search.addEventListener("keydown", (event) => this.#onSearchKey(event));
    app.store.watch((id) => this.#changedElsewhere(id));
  }

  get #pattern() {
    return searchPattern(this.search.value);
  }

  /** The conversations to list; during a search, those with a match, and where it is. */
  #items() {
    const { store } = this.app;
    const pattern = this.#pattern;
    if (!pattern) return store.list();
    return store.list().flatMap((summary) => {
      if (summary.name.search(pattern) >= 0) return [summary];
      const conversation = store.open(summary.id);
      const message = conversation && findMessage(conversation, pattern);
      return message ? [{ ...summary, excerpt: excerpt(message.text, pattern) }] : [];
    });
  }

  render() {
    const { store, session } = this.app;
    const openId = session.conversation.id;
    const query = this.search.value.trim();
    const key = JSON.stringify([store.list(), openId, store.damaged, query]);
    if (key === this.rendered) return;
    this.rendered = key;
    const items = this.#items();
    const emptyText = query ? `No conversation contains “${query}”.` : "Conversations are saved here, in this browser.";
    this.list.update({ items, openId, pattern: this.#pattern, emptyText, damaged: store.damaged.length });
    this.found = items.length;
  }

  #onSearch() {
    this.render();
    CSS.highlights?.delete("search");
    const found = this.found === 1 ? "One conversation found." : `${this.found} conversations found.`;
    announce(this.#pattern ? found : "All conversations are listed.");
  }

  #onSearchKey(event) {
    if (event.isComposing) return;
    const first = this.list.root.querySelector(".list-open");
    if (event.key === "Escape" && this.search.value) {
      event.preventDefault();
      this.search.value = "";
      this.#onSearch();
    } else if (event.key === "ArrowDown") {
      event.preventDefault();
      first?.focus();
    } else if (event.key === "Enter" && this.#pattern) {
      event.preventDefault(); // or else Enter presses the button that gets the focus
      first?.click();
    }
  }

  #open(id) {
    const { app } = this;
    if (!app.session.open(id)) {
      app.notices.show("conversations", "This conversation cannot be read.");
      return;
    }
    app.list.closeOverlay();
    if (this.#pattern) app.showMatch(this.#pattern);
  }

  async #rename(id) {
    const { store, session } = this.app;
    const conversation = store.open(id);
    if (!conversation) return;
    const title = await askText("Rename", "Name of the conversation", conversation.name, "Rename");
    if (title === null) return;
    conversation.title = singleLine(title).trim();
    session.save(conversation, false);
    this.app.render();
  }

  async #remove(id) {
    const { store, session } = this.app;
    const text = `“${store.summaries.get(id).name}” will be deleted from this browser. There is no other copy.`;
    if (!(await confirm("Delete this conversation?", text, "Delete", { danger: true }))) return;
    session.discard(id);
    store.remove(id);
    announce("Deleted.");
    if (session.conversation.id === id) session.start(this.app.mode());
    else this.app.render();
    document.getElementById("new").focus();
  }

  #save(id, kind) {
    const conversation = this.app.store.open(id);
    if (conversation)
      download(
        fileName(conversation, kind),
        kind === "json" ? serializeFile([conversation]) : toMarkdown(conversation),
      );
  }

  exportAll() {
    const { store, notices } = this.app;
    const all = store.all();
    const day = new Date().toISOString().slice(0, 10);
    if (all.length) download(`neolm-conversations-${day}.json`, serializeFile(all));
    else notices.show("conversations", "There are no conversations to export.");
  }

  async #import() {
    const { store, notices, session } = this.app;
    const file = await chooseFile(".json,application/json");
    if (!file) return;
    try {
      if (file.size > MAX_FILE_BYTES) throw new FormatError("The file is too large.");
      const conversations = parseFile(await file.text());
      const failure = store.add(conversations);
      session.open(conversations[0].id);
      this.app.list.closeOverlay();
      const count = conversations.length === 1 ? "One conversation" : `${conversations.length} conversations`;
      if (failure) this.showSaveError(failure);
      else notices.show("conversations", `${count} imported.`);
    } catch (error) {
      notices.show("conversations", `Nothing was imported. ${error.message}`);
    }
  }

  async #removeDamaged() {
    const text = "The page cannot read them, but you can save their data to a file first.";
    if (!(await confirm("Delete damaged conversations?", text, "Delete", { danger: true }))) return;
    this.app.store.removeDamaged();
    this.app.render();
  }

  /** @param {StorageError|null} error null: saved without the log-probabilities */
  showSaveError(error) {
    const { notices } = this.app;
    const advice = error?.kind === "full" ? "Delete other conversations, or export this one." : "Export it to keep it.";
    const text = error
      ? `${error.message} New messages are lost when the page is closed. ${advice}`
      : "The browser’s storage for this page is nearly full: this conversation is saved without its probabilities.";
    if (notices.has("save", text)) return;
    notices.show("save", text, [button("Export all", { class: "button-quiet", onClick: () => this.exportAll() })]);
  }

  #changedElsewhere(id) {
    const { session, store } = this.app;
    // While an answer is generated here, this tab has the newer version.
    if (!session.isGenerating(id)) {
      store.refresh(id);
      if (session.conversation.id === id && store.summaries.has(id)) session.open(id);
    }
    this.app.render();
  }
}
