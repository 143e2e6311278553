/** The dialog with a model's card, lineage and configuration. */

import { button, element } from "./dom.js";
import { copyText } from "./clipboard.js";
import { openDialog } from "./dialogs.js";
import { renderMarkdown } from "./markdown.js";
import { errorText } from "./server.js";

const KINDS = {
  embed: "encoder: it reads texts and cannot write",
  classify: "classifier: it gives texts labels and cannot write",
};

function sizeText(parameters) {
  if (!Number.isFinite(parameters)) return "";
  const [unit, name] = [
    [1e9, "billion"],
    [1e6, "million"],
    [1e3, "thousand"],
  ].find(([size]) => parameters >= size) ?? [1, ""];
  return `${(parameters / unit).toFixed(parameters / unit < 10 ? 1 : 0)} ${name}`.trim();
}

function plainValue(value) {
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
}

function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return element(
    "dl",
    { class: "facts" },
    ...shown.map(([name, value]) =>
      element(
        "div",
        {},
        element("dt", {}, name),
        element("dd", {}, ...(Array.isArray(value) ? value : [plainValue(value)])),
      ),
    ),
  );
}

function renderStage({ stage, directory, created, details }) {
  const rows = Object.entries(details ?? {});
  return element(
    "li",
    {},
    element(
      "p",
      { class: "stage" },
      element("strong", {}, plainValue(stage)),
      created ? element("time", { class: "muted" }, plainValue(created).slice(0, 16).replace("T", " ")) : null,
    ),
    directory && directory !== stage ? element("p", { class: "muted path" }, plainValue(directory)) : null,
    rows.length ? element("details", {}, element("summary", {}, "Details"), facts(rows)) : null,
  );
}

function render(model) {
  const { id, kind, digest, family, parameters, context, dimensions, labels } = model;
  const { dtype, quantize, config, card, lineage } = model;
  const copy = digest
    ? button("Copy", {
        icon: "copy",
        class: "button-quiet",
        "aria-label": "Copy the digest",
        onClick: () => copyText(digest, copy),
      })
    : null;
  return [
    facts([
      ["Name", id],
      ["Kind", KINDS[kind]],
      ["Family", family],
      ["Parameters", sizeText(parameters)],
      ["Context", Number.isFinite(context) ? `${context.toLocaleString("en-GB")} tokens` : null],
      ["Dimensions", dimensions],
      ["Labels", labels?.join(", ")],
      ["Data type", quantize ? `${dtype}, weights quantised to ${quantize}` : dtype],
      ["Digest", digest ? [element("code", { class: "digest" }, digest), " ", copy] : null],
    ]),
    element("h3", {}, "Model card"),
    typeof card === "string" && card.trim()
      ? renderMarkdown(card)
      : element("p", { class: "muted" }, "This model has no model card."),
    element("h3", {}, "Lineage"),
    Array.isArray(lineage) && lineage.length
      ? element("ol", { class: "lineage" }, ...lineage.map(renderStage))
      : element("p", { class: "muted" }, "No record of how this model was trained."),
    config
      ? element(
          "details",
          {},
          element("summary", {}, "Configuration"),
          element("pre", { tabindex: "0", "aria-label": "Configuration" }, JSON.stringify(config, null, 2)),
        )
      : null,
  ];
}

export function showCard(server, id) {
  const place = element(
    "div",
    { class: "card", "aria-live": "polite" },
    element("p", { class: "muted" }, "Loading…"),
  );
  const done = openDialog({ title: "About the model", content: () => [place], wide: true });
  server.model(id).then(
    (model) => place.replaceChildren(...render(model).filter(Boolean)),
    (error) => place.replaceChildren(element("p", {}, errorText(error))),
  );
  return done;
}
