/** The page: creates its parts and connects them. */

import { ApiKey } from "./api-key.js";
import { AutoScroll } from "./auto-scroll.js";
import { BrowserStorage } from "./browser-storage.js";
import { ClassifyView } from "./classify-view.js";
import { CompareBar, ModelPicker } from "./compare.js";
import { Composer } from "./composer.js";
import { ContextGauge } from "./context-gauge.js";
import { findMessage } from "./conversation-search.js";
import { ConversationStore } from "./conversation-store.js";
import { ConversationView } from "./conversation-view.js";
import { ConversationsPanel } from "./conversations-panel.js";
import { askApiKey, showHelp } from "./dialogs.js";
import { button } from "./dom.js";
import { Drawer } from "./drawer.js";
import { EmbeddingView } from "./embedding-view.js";
import { Feedback } from "./feedback.js";
import { announce } from "./live-region.js";
import { showCard } from "./model-card.js";
import { ModelChoice } from "./model-choice.js";
import { Notices } from "./notices.js";
import { Preferences } from "./preferences.js";
import { requestParameters } from "./sampling.js";
import { Server, errorText } from "./server.js";
import { Session } from "./session.js";
import { SettingsPanel } from "./settings-panel.js";
import { listen } from "./shortcuts.js";
import { Welcome } from "./welcome.js";

const OPEN_KEY = "open";
const SIDES = ["left", "right"];

const byId = (id) => document.getElementById(id);

class App {
  constructor() {
    const storage = new BrowserStorage();
    this.tab = new BrowserStorage(() => window.sessionStorage);
    this.preferences = new Preferences(storage);
    this.apiKey = new ApiKey(this.tab, storage);
    this.server = new Server(this.apiKey);
    this.store = new ConversationStore(storage);
    this.notices = new Notices(byId("notices"));
    this.info = { version: "", feedback: false, key_required: false, limits: {} };
    this.models = new ModelChoice(this.preferences);
    this.session = new Session(
      {
        server: this.server,
        store: this.store,
        sides: () => this.#sides(),
        probabilities: () => this.preferences.get("probabilities"),
        contextOf: (id) => this.models.find(id)?.context,
      },
      {
        onChange: () => this.render(),
        onText: (message) => this.conversationView.grow(message),
        onFinish: (messages) => this.#onFinish(messages),
        onSave: () => this.notices.hide("save"),
        onSaveError: (error) => this.panel.showSaveError(error),
      },
    );
    this.feedback = new Feedback(this);
    this.#createParts();
    this.#listen();
  }

  #createParts() {
    const { preferences, session } = this;
    this.panel = new ConversationsPanel(this);
    this.settingsPanel = new SettingsPanel(this);
    this.conversationView = new ConversationView(byId("conversation"), this.#messageActions(), () => ({
      formatted: preferences.get("formatted"),
      probabilities: preferences.get("probabilities"),
      feedback: this.info.feedback,
      consent: preferences.get("consent"),
      waitingText: (id) => (this.models.find(id)?.loaded === false ? "Loading the model…" : "Reading the prompt…"),
    }));
    this.autoScroll = new AutoScroll(byId("scroller"), byId("jump"));
    this.contextGauge = new ContextGauge(byId("context"));
    this.composer = new Composer(byId("composer"), this.tab, {
      send: (text) => this.#send(text),
      stop: () => session.stop(),
      editLast: () => this.conversationView.editLast(),
    });
    this.welcome = new Welcome(byId("welcome"), {
      useExample: (text) => {
        this.composer.set(text);
        this.composer.focus();
      },
      setMode: (mode) => preferences.set("mode", mode),
    });
    const asking = (name) => async (model, input) => {
      const answer = await this.server[name](model, input);
      if (this.models.find(model)?.loaded === false) this.#refreshModels();
      return answer;
    };
    const enterKey = () => this.#askApiKey(this.apiKey.value !== null);
    this.embeddingView = new EmbeddingView(byId("embed"), asking("embed"), enterKey);
    this.classifyView = new ClassifyView(byId("classify"), asking("classify"), enterKey);
    this.skip = document.querySelector(".skip");
    this.picker = new ModelPicker(byId("model"), (id) => preferences.set("leftModel", id));
    this.compareBar = new CompareBar(byId("compare"), {
      pickModel: (side, id) => preferences.set(`${SIDES[side]}Model`, id),
      openSettings: (side) => {
        this.settingsPanel.selectSide(side);
        this.settings.show();
      },
    });
    const drawer = (name, other) =>
      new Drawer({
        panel: byId(`${name}-panel`),
        button: byId(`${name}-toggle`),
        rest: [byId("centre"), byId(`${other}-panel`)],
        escape: name === "settings",
        isColumnOpen: () => preferences.get(`${name}Open`),
        setColumnOpen: (open) => preferences.set(`${name}Open`, open),
      });
    this.list = drawer("list", "settings");
    this.settings = drawer("settings", "list");
  }

  #messageActions() {
    const { session } = this;
    return {
      show: (message) => {
        session.show(message);
        const siblings = session.conversation.siblings(message);
        announce(`Version ${siblings.indexOf(message) + 1} of ${siblings.length}.`);
      },
      regenerate: (message) => session.regenerate(message),
      retry: (message) => session.retry(message),
      edit: (message, text, action) => {
        const version = session.edit(message, text);
        if (!version) return;
        const leaf = session.conversation.leaf();
        this.conversationView.focus(action === "edit-prompt" ? leaf : version, action);
      },
      enterKey: async (message) => {
        if (await this.#askApiKey(false)) session.retry(message);
      },
      showCard: (model) => showCard(this.server, model),
      rate: (message, rating) => this.feedback.rate(message, rating),
      choose: (pair, choice) => this.feedback.choose(pair, choice),
    };
  }

  #listen() {
    const { preferences, session } = this;
    const rendered = "leftModel rightModel left right compare probabilities formatted consent mode".split(" ");
    preferences.watch(rendered, () => this.render());
    preferences.watch(["compare"], (on) => announce(on ? "Two answers side by side." : "One answer at a time."));
    for (const id of ["compare", "probabilities"]) {
      byId(`${id}-toggle`).addEventListener("click", () => preferences.toggle(id));
    }
    const help = () => showHelp(this.info.version);
    const card = () => {
      const model = this.models.reader?.id ?? this.#chosen()[0].model;
      if (model) showCard(this.server, model);
    };
    byId("card").addEventListener("click", card);
    byId("help").addEventListener("click", help);
    listen({
      Escape: () => {
        if (session.busy) session.stop();
        else if (this.settings.open) this.settings.close();
      },
      KeyN: () => this.begin(),
      KeyR: () => {
        const leaf = session.conversation.leaf();
        if (leaf?.role === "assistant") session.regenerate(leaf);
      },
      KeyM: () => this.composer.focus(),
      KeyP: () => preferences.toggle("probabilities"),
      KeyC: () => preferences.toggle("compare"),
      KeyL: () => this.list.toggle(),
      KeyK: () => {
        this.list.show();
        byId("search").focus();
      },
      KeyS: () => this.settings.toggle(),
      KeyI: card,
      Slash: help,
    });
  }

  #chosen() {
    return this.models.sides(this.info.limits?.max_tokens);
  }

  /** The sides that the next request goes to. */
  #sides() {
    return this.#chosen()
      .slice(0, this.preferences.get("compare") ? 2 : 1)
      .map(({ model, settings }) => ({ model, settings: requestParameters(settings) }));
  }

  /** The mode of a new conversation: as chosen, or what suits the model. */
  mode() {
    const [{ model }] = this.#chosen();
    const isBase = this.models.find(model)?.chat_template === "plain";
    return this.preferences.get("mode") || (isBase ? "completion" : "chat");
  }

  /** Starts a new conversation. */
  begin() {
    this.models.leaveReader();
    this.session.start(this.mode());
    this.list.closeOverlay();
    this.composer.focus();
  }

  /** Shows and highlights what a search has found in the open conversation. @param {RegExp} pattern */
  showMatch(pattern) {
    const { conversation } = this.session;
    const message = findMessage(conversation, pattern);
    if (message && !conversation.path().includes(message)) this.session.show(message);
    const range = this.conversationView.highlight(pattern);
    if (range) this.autoScroll.scrollTo(range);
  }

  #send(text) {
    if (!this.models.writers.length) {
      this.connect();
      return false;
    }
    this.notices.hide("feedback");
    const sent = this.session.send(text);
    if (sent) this.autoScroll.scrollToEnd();
    return sent;
  }

  async #onFinish(messages) {
    const { conversation } = this.session;
    const here = messages.filter((message) => conversation.messages.get(message.id) === message);
    const spoken = here.map(({ state, error, model, text }) =>
      state === "failed" ? errorText(error) : `${model}: ${text || "an empty answer"}`,
    );
    const { level, text } = this.contextGauge;
    if (level && level !== this.announcedLevel) spoken.push(text);
    this.announcedLevel = level;
    if (spoken.length) announce(spoken.join("\n"));
    // The server has other models than before, or has loaded one.
    const missing = here.some(({ error }) => error?.kind === "not_found");
    if (missing || messages.some(({ model }) => this.models.find(model)?.loaded === false)) this.#refreshModels();
    const locked = here.find(({ error }) => error?.kind === "unauthorized");
    if (locked && (await this.#askApiKey(this.apiKey.value !== null))) this.session.retry(locked);
  }

  async #refreshModels() {
    try {
      this.models.all = await this.server.models();
      this.render();
    } catch {
      // The list stays as it was; the next request reports the error.
    }
  }

  /** @param {boolean} refused whether the server refused a key @returns {Promise<boolean>} whether it accepted one */
  async #askApiKey(refused) {
    const entered = await askApiKey(refused);
    if (!entered) {
      const enter = button("Enter the API key", { onClick: () => this.#askApiKey(false) });
      if (this.apiKey.value === null) this.notices.show("server", "The server requires an API key.", [enter]);
      return false;
    }
    this.apiKey.set(entered.key, entered.remember);
    return this.connect();
  }

  /** Gets information about the server and its models. @returns {Promise<boolean>} whether that worked */
  async connect() {
    this.notices.hide("server");
    try {
      this.info = { ...this.info, ...(await this.server.info()) };
      if (this.info.key_required && this.apiKey.value === null) return await this.#askApiKey(false);
      this.models.all = await this.server.models();
    } catch (error) {
      if (error.kind === "unauthorized") return this.#askApiKey(this.apiKey.value !== null);
      const retry = button("Try again", { icon: "refresh", onClick: () => this.connect() });
      this.notices.show("server", errorText(error), [retry]);
      return false;
    } finally {
      this.render();
    }
    if (!this.models.all.length) this.notices.show("server", "This server has no models.");
    return true;
  }

  /** Updates every part that may have changed. */
  render() {
    const { preferences, session, models } = this;
    const { conversation } = session;
    // Opening a conversation shows it, with a model that writes; setting that renders the page.
    if (this.rendered && conversation !== this.rendered && this.models.leaveReader()) return;
    const { reader } = this.models;
    const chosen = this.#chosen();
    const [{ model }] = chosen;
    const started = conversation.messages.size > 0;
    if (!started) conversation.mode = this.mode();
    const isCompletion = conversation.mode === "completion";
    const compare = preferences.get("compare");
    document.body.classList.toggle("is-completion", isCompletion);
    document.body.classList.toggle("comparing", compare);
    this.conversationView.render(conversation);
    this.welcome.update(!started, { mode: conversation.mode, model: this.models.find(model) });
    const ofKind = (kind) => (reader?.kind === kind ? reader : undefined);
    this.embeddingView.update(ofKind("embed"));
    this.classifyView.update(ofKind("classify"));
    for (const id of ["scroller", "composer", "composer-info"]) byId(id).hidden = Boolean(reader);
    this.skip.href = reader ? `#${reader.kind}-text-0` : "#message";
    this.skip.textContent = reader ? "Skip to the texts" : "Skip to the message box";
    this.picker.update(models.all, reader?.id ?? model);
    byId("model-group").hidden = compare && !reader;
    this.compareBar.update(compare && !reader, this.models.writers, chosen);
    this.settingsPanel.render(chosen, isCompletion);
    this.composer.update({ busy: session.busy, isCompletion, started, model });
    this.contextGauge.update(conversation, compare ? chosen : [chosen[0]]);
    byId("compare-toggle").setAttribute("aria-pressed", String(compare));
    byId("probabilities-toggle").setAttribute("aria-pressed", String(preferences.get("probabilities")));
    this.panel.render();
    document.title = started ? `${conversation.name} · NeoLM` : "NeoLM";
    const opened = conversation !== this.rendered;
    if (opened || this.autoScroll.empty === started) this.autoScroll.reset(!started);
    if (!opened) return;
    this.rendered = conversation;
    this.notices.hide("feedback");
    this.tab.tryWrite(OPEN_KEY, conversation.id);
  }

  start() {
    const open = this.tab.read(OPEN_KEY);
    if (!this.store.summaries.has(open) || !this.session.open(open)) this.session.start(this.mode());
    this.connect();
    if (window.matchMedia("(hover: hover)").matches) this.composer.focus();
  }
}

new App().start();
