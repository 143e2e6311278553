/**
 * The page: makes the parts and puts them together. Each part knows its own piece of the page; what they have to do
 * with each other is said here.
 */

import { announce } from "./announcer.js";
import { CompareStrip, ModelPicker } from "./compare.js";
import { Composer } from "./composer.js";
import { askKey, showHelp } from "./dialogs.js";
import { Drawer } from "./drawers.js";
import { button } from "./element.js";
import { Follow } from "./follow.js";
import { Keyring } from "./keyring.js";
import { Library } from "./library.js";
import { LibraryPanel } from "./library-panel.js";
import { showCard } from "./model-card.js";
import { Notices } from "./notices.js";
import { Preferences } from "./preferences.js";
import { Server, explain } from "./server.js";
import { Session } from "./session.js";
import { parameters } from "./settings.js";
import { SettingsPanel } from "./settings-panel.js";
import { Sharing } from "./sharing.js";
import { listen } from "./shortcuts.js";
import { Store } from "./store.js";
import { Thread } from "./thread.js";
import { Welcome } from "./welcome.js";

const OPEN = "open";
const MOST_TOKENS = 4096;
const SIDES = ["left", "right"];

const at = (id) => document.getElementById(id);

class App {
  constructor() {
    this.store = new Store();
    this.tab = new Store(() => window.sessionStorage);
    this.preferences = new Preferences(this.store);
    this.keyring = new Keyring(this.tab, this.store);
    this.server = new Server(this.keyring);
    this.library = new Library(this.store);
    this.notices = new Notices(at("notices"));
    this.info = { version: "", feedback: false, key_required: false, limits: {} };
    /** @type {import("./server.js").Model[]} */
    this.models = [];
    this.session = new Session(
      {
        server: this.server,
        library: this.library,
        sides: () => this.#sides(),
        probabilities: () => this.preferences.get("probabilities"),
        contextOf: (id) => this.models.find((model) => model.id === id)?.context,
      },
      {
        changed: () => this.draw(),
        grew: (piece) => this.thread.grow(piece, () => this.follow.update()),
        finished: (pieces) => this.#finished(pieces),
        kept: () => this.notices.hide("kept"),
        notKept: (error) => this.panel.notKept(error),
      },
    );
    this.sharing = new Sharing(this);
    this.#makeParts();
    this.#listen();
  }

  #makeParts() {
    const { preferences, session } = this;
    this.panel = new LibraryPanel(this);
    this.settingsPanel = new SettingsPanel(this);
    const drawn = [
      "leftModel",
      "rightModel",
      "left",
      "right",
      "compare",
      "probabilities",
      "formatted",
      "consent",
      "mode",
    ];
    preferences.watch(drawn, () => this.draw());
    for (const id of ["compare", "probabilities"]) {
      at(`${id}-toggle`).addEventListener("click", () => preferences.toggle(id));
    }
    preferences.watch(["compare"], (on) => announce(on ? "Two answers side by side." : "One answer at a time."));
    this.thread = new Thread(at("thread"), this.#threadActions(), () => this.look());
    this.follow = new Follow(at("scroller"), at("jump"));
    this.composer = new Composer(at("composer"), this.tab, {
      send: (text) => this.#say(text),
      stop: () => session.stop(),
      editLast: () => this.thread.editLast(),
    });
    this.welcome = new Welcome(at("welcome"), {
      begin: (text) => {
        this.composer.set(text);
        this.composer.focus();
      },
      mode: (mode) => preferences.set("mode", mode),
    });
    this.picker = new ModelPicker(at("model"), (id) => preferences.set("leftModel", id));
    this.strip = new CompareStrip(at("compare"), {
      pick: (side, id) => preferences.set(`${side}Model`, id),
      tune: (side) => {
        this.settingsPanel.tune(SIDES.indexOf(side));
        this.settings.show();
      },
    });
    const centre = at("centre");
    const drawer = (name, other) =>
      new Drawer({
        panel: at(`${name}-panel`),
        toggle: at(`${name}-toggle`),
        rest: [centre, at(`${other}-panel`)],
        escape: name === "settings",
        kept: () => preferences.get(`${name}Open`),
        keep: (open) => preferences.set(`${name}Open`, open),
      });
    this.list = drawer("list", "settings");
    this.settings = drawer("settings", "list");
  }

  #threadActions() {
    const { session } = this;
    const withFocus =
      (act) =>
      (...given) => {
        act(...given);
        this.follow.update();
      };
    return {
      show: (piece) => {
        session.show(piece);
        const siblings = session.conversation.siblings(piece);
        announce(`Version ${siblings.indexOf(piece) + 1} of ${siblings.length}.`);
      },
      again: withFocus((piece) => session.again(piece)),
      retry: withFocus((piece) => session.retry(piece)),
      edit: (piece, text, action) => {
        const version = session.edit(piece, text);
        if (!version) return;
        const leaf = session.conversation.leaf();
        this.thread.focus(action === "edit-lead" ? leaf : version, action);
      },
      key: async (piece) => {
        if (await this.unlock(false)) session.retry(piece);
      },
      card: (model) => showCard(this.server, model),
      rate: (piece, rating) => this.sharing.rate(piece, rating),
      choose: (pair, choice) => this.sharing.choose(pair, choice),
    };
  }

  #listen() {
    const { preferences, session } = this;
    at("card").addEventListener("click", () => this.#showCard());
    at("help").addEventListener("click", () => showHelp(this.info.version));
    listen({
      Escape: () => {
        if (session.busy) session.stop();
        else if (this.settings.open) this.settings.close();
      },
      KeyN: () => this.begin(),
      KeyR: () => {
        const leaf = session.conversation.leaf();
        if (leaf?.role === "assistant") session.again(leaf);
      },
      KeyM: () => this.composer.focus(),
      KeyP: () => preferences.toggle("probabilities"),
      KeyC: () => preferences.toggle("compare"),
      KeyL: () => this.list.flip(),
      KeyS: () => this.settings.flip(),
      KeyI: () => this.#showCard(),
      Slash: () => showHelp(this.info.version),
    });
  }

  #showCard() {
    const [{ model }] = this.#chosen();
    if (model) showCard(this.server, model);
  }

  /** Whom would be asked on each side, and how; both sides, compared or not. */
  #chosen() {
    const known = (id) => (this.models.some((model) => model.id === id) ? id : null);
    const first = known(this.preferences.get("leftModel")) ?? this.models[0]?.id ?? "";
    // The right side starts with another model, if there is one.
    const second = known(this.preferences.get("rightModel")) ?? this.models.find(({ id }) => id !== first)?.id ?? first;
    return [first, second].map((model, side) => ({ model, settings: this.preferences.get(SIDES[side]) }));
  }

  #sides() {
    const chosen = this.#chosen().map(({ model, settings }) => ({
      model,
      settings: parameters({ ...settings, max_tokens: Math.min(settings.max_tokens, this.#most(model)) }),
    }));
    return this.preferences.get("compare") ? chosen : chosen.slice(0, 1);
  }

  /** The longest answer that a model can be asked for. */
  #most(model) {
    const context = this.models.find(({ id }) => id === model)?.context ?? Infinity;
    return Math.min(this.info.limits?.max_tokens || MOST_TOKENS, context);
  }

  /** What the thread has to know to draw itself. @returns {import("./thread.js").Look} */
  look() {
    return {
      formatted: this.preferences.get("formatted"),
      probabilities: this.preferences.get("probabilities"),
      feedback: this.info.feedback,
      consent: this.preferences.get("consent"),
      waiting: (id) =>
        this.models.find((model) => model.id === id)?.loaded === false ? "Loading the model…" : "Reading…",
    };
  }

  /** The mode of a new conversation: as chosen, or what fits the model. */
  mode() {
    const [{ model }] = this.#chosen();
    const plain = this.models.find(({ id }) => id === model)?.chat_template === "plain";
    return this.preferences.get("mode") || (plain ? "completion" : "chat");
  }

  /** Begins a new conversation. */
  begin() {
    this.session.start(this.mode());
    this.list.done();
    this.composer.focus();
  }

  #say(text) {
    if (!this.models.length) {
      this.connect();
      return false;
    }
    this.notices.hide("sharing");
    const said = this.session.say(text);
    if (said) this.follow.toEnd();
    return said;
  }

  async #finished(pieces) {
    const here = pieces.filter((piece) => this.session.conversation.pieces.get(piece.id) === piece);
    const words = here.map((piece) =>
      piece.state === "failed" ? explain(piece.problem) : `${piece.model}: ${piece.text || "an empty answer"}`,
    );
    if (words.length) announce(words.join("\n"));
    this.follow.update();
    const asked = new Set(pieces.map(({ model }) => model));
    const gone = here.some(({ problem }) => problem?.kind === "gone"); // the server has other models now
    if (gone || this.models.some(({ id, loaded }) => asked.has(id) && !loaded)) this.#refreshModels();
    const locked = here.find(({ problem }) => problem?.kind === "key");
    if (locked && (await this.unlock(this.keyring.key !== null))) this.session.retry(locked);
  }

  async #refreshModels() {
    try {
      this.models = await this.server.models();
      this.draw();
    } catch {
      // The list is as it was; the next answer will say what is wrong.
    }
  }

  /** Asks for the server's key. @returns {Promise<boolean>} whether it was given and the server took it */
  async unlock(refused) {
    const given = await askKey(refused);
    if (!given) {
      if (this.keyring.key === null)
        this.notices.show("server", "The server wants a key.", [
          button("Enter the key", { press: () => this.unlock(false) }),
        ]);
      return false;
    }
    this.keyring.set(given.key, given.remember);
    return this.connect();
  }

  /** Finds out what the server has. @returns {Promise<boolean>} */
  async connect() {
    this.notices.hide("server");
    try {
      this.info = { ...this.info, ...(await this.server.info()) };
      if (this.info.key_required && this.keyring.key === null) return await this.unlock(false);
      this.models = await this.server.models();
    } catch (error) {
      if (error.kind === "key") return this.unlock(this.keyring.key !== null);
      this.notices.show("server", explain(error), [
        button("Try again", { icon: "again", press: () => this.connect() }),
      ]);
      return false;
    } finally {
      this.draw();
    }
    if (!this.models.length) this.notices.show("server", "This server has no models.");
    return true;
  }

  /** Draws everything anew that may have changed. */
  draw() {
    const { preferences, session, models } = this;
    const chosen = this.#chosen();
    const { conversation } = session;
    const started = conversation.pieces.size > 0;
    if (!started) conversation.mode = this.mode();
    const isText = conversation.mode === "completion";
    const compare = preferences.get("compare");
    document.body.classList.toggle("is-text", isText);
    document.body.classList.toggle("comparing", compare);
    this.thread.render(conversation);
    this.welcome.update(!started, { mode: conversation.mode, model: models.find(({ id }) => id === chosen[0].model) });
    this.picker.update(models, chosen[0].model);
    at("model-group").hidden = compare;
    this.strip.update(compare, models, chosen);
    this.settingsPanel.draw(
      chosen.map((side) => ({ ...side, most: this.#most(side.model) })),
      isText,
    );
    this.composer.update({ busy: session.busy, isText, started, model: chosen[0].model });
    at("compare-toggle").setAttribute("aria-pressed", String(compare));
    at("probabilities-toggle").setAttribute("aria-pressed", String(preferences.get("probabilities")));
    this.panel.draw();
    document.title = started ? `${conversation.name} · NeoLM` : "NeoLM";
    if (conversation !== this.drawn) {
      this.drawn = conversation;
      this.notices.hide("sharing");
      this.#rememberOpen(conversation);
      this.follow.begin(!started);
    } else if (this.follow.empty === started) {
      this.follow.begin(!started);
    }
  }

  #rememberOpen(conversation) {
    try {
      this.tab.write(OPEN, conversation.id);
    } catch {
      // A reload begins a new conversation then.
    }
  }

  start() {
    const open = this.tab.read(OPEN);
    if (typeof open !== "string" || !this.library.heads.has(open) || !this.session.open(open))
      this.session.start(this.mode());
    this.connect();
    if (window.matchMedia("(hover: hover)").matches) this.composer.focus();
  }
}

new App().start();
