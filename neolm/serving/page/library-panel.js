/** The panel of conversations: the list, and what can be done with what is in it. */

import { announce } from "./announcer.js";
import { askText, confirm } from "./dialogs.js";
import { button } from "./element.js";
import { FormatError, MOST_BYTES, fileName, fromFile, toFile, toMarkdown } from "./exchange.js";
import { pick, save } from "./files.js";
import { ConversationList } from "./list.js";

export class LibraryPanel {
  /** @param {Object} app the page: its library, session, notices and list drawer */
  constructor(app) {
    this.app = app;
    this.list = new ConversationList(document.getElementById("list"), {
      open: (id) => this.open(id),
      rename: (id) => this.rename(id),
      remove: (id) => this.remove(id),
      save: (id, kind) => this.save(id, kind),
      saveDamaged: () => save("damaged.txt", app.library.damagedText()),
      removeDamaged: () => this.removeDamaged(),
    });
    const on = (id, act) => document.getElementById(id).addEventListener("click", act);
    on("new", () => app.begin());
    on("import", () => this.import());
    on("export", () => this.exportAll());
    app.library.watch((id) => this.#changedElsewhere(id));
  }

  draw() {
    const { library, session } = this.app;
    const heads = library.list();
    const key = JSON.stringify([heads, session.conversation.id, library.damaged]);
    if (key === this.drawn) return;
    this.drawn = key;
    this.list.update(heads, session.conversation.id, library.damaged.length);
  }

  open(id) {
    const { app } = this;
    if (app.session.open(id)) app.list.done();
    else app.notices.show("library", "This conversation cannot be read any more.");
  }

  async rename(id) {
    const { library, session } = this.app;
    const conversation = library.open(id);
    if (!conversation) return;
    const title = await askText("Rename", "Name of the conversation", conversation.name, "Rename");
    if (title === null) return;
    conversation.title = title.replace(/[\p{C}\s]+/gu, " ").trim();
    session.save(conversation, false);
    this.app.draw();
  }

  async remove(id) {
    const { library, session } = this.app;
    const { name } = library.heads.get(id);
    if (
      !(await confirm(
        "Delete this conversation?",
        `“${name}” will be deleted from this browser. It is kept nowhere else.`,
        "Delete",
        { danger: true },
      ))
    )
      return;
    session.forget(id);
    library.remove(id);
    announce("Deleted.");
    if (session.conversation.id === id) session.start(this.app.mode());
    else this.app.draw();
    document.getElementById("new").focus();
  }

  save(id, kind) {
    const conversation = this.app.library.open(id);
    if (conversation)
      save(fileName(conversation, kind), kind === "json" ? toFile([conversation]) : toMarkdown(conversation));
  }

  exportAll() {
    const { library, notices } = this.app;
    const all = library
      .list()
      .map(({ id }) => library.open(id))
      .filter(Boolean);
    if (all.length) save(`neolm-conversations-${new Date().toISOString().slice(0, 10)}.json`, toFile(all));
    else notices.show("library", "There are no conversations to export yet.");
  }

  async import() {
    const { library, notices, session } = this.app;
    const file = await pick(".json,application/json");
    if (!file) return;
    try {
      if (file.size > MOST_BYTES) throw new FormatError("The file is too large.");
      const conversations = fromFile(await file.text());
      const lost = library.add(conversations);
      session.open(conversations[0].id);
      this.app.list.done();
      const count = conversations.length === 1 ? "One conversation" : `${conversations.length} conversations`;
      if (lost) this.notKept(lost);
      else notices.show("library", `${count} imported.`);
    } catch (error) {
      notices.show(
        "library",
        error instanceof FormatError
          ? `Nothing was imported. ${error.message}`
          : `Nothing was imported: ${error.message}`,
      );
    }
  }

  async removeDamaged() {
    if (
      !(await confirm(
        "Delete what is damaged?",
        "What is there cannot be shown, but it could still be saved as a file first.",
        "Delete",
        { danger: true },
      ))
    )
      return;
    this.app.library.removeDamaged();
    this.app.draw();
  }

  /** @param {import("./store.js").StoreError|null} error null: kept, but without its probabilities */
  notKept(error) {
    const { notices } = this.app;
    const text =
      error === null
        ? "The browser’s storage for this page is nearly full: this conversation is kept without its probabilities."
        : `${error.message} What is new is lost when the page is closed. ` +
          (error.kind === "full"
            ? "Export and delete something, or export this conversation."
            : "Export it to keep it.");
    if (notices.has("kept", text)) return;
    notices.show("kept", text, [button("Export all", { class: "button-quiet", press: () => this.exportAll() })]);
  }

  #changedElsewhere(id) {
    const { session, library } = this.app;
    // What is being written here is newer than what another tab has kept.
    if (!session.isWriting(id)) {
      library.refresh(id);
      if (session.conversation.id === id && library.heads.has(id)) session.open(id);
    }
    this.app.draw();
  }
}
