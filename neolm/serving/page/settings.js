/**
 * The sampling settings: what there is, in which range, what it means, and what of it is sent. Pure.
 *
 * @typedef {Object} Settings
 * @property {number} temperature
 * @property {number} top_p
 * @property {number|null} top_k
 * @property {number} max_tokens
 * @property {number} repetition_penalty
 * @property {number} presence_penalty
 * @property {number} frequency_penalty
 * @property {number|null} seed
 * @property {string} stop one a line, with \n for a line break
 */

/** `neutral` is what the server does where nothing is sent. */
export const FIELDS = [
  {
    key: "temperature",
    label: "Temperature",
    min: 0,
    max: 2,
    step: 0.05,
    start: 0.8,
    explain: "How daring the choice is. 0 always takes the likeliest token; higher lets unlikely ones through.",
  },
  {
    key: "top_p",
    label: "Top-p",
    min: 0,
    max: 1,
    step: 0.01,
    start: 0.95,
    neutral: 1,
    explain: "Choose only among the likeliest tokens that together hold this share of the probability. 1 allows all.",
  },
  {
    key: "top_k",
    label: "Top-k",
    min: 1,
    max: 100000,
    step: 1,
    start: null,
    neutral: null,
    whole: true,
    slider: false,
    explain: "Choose only among this many of the likeliest tokens. Empty allows all.",
  },
  {
    key: "max_tokens",
    label: "Longest answer",
    min: 1,
    max: 4096,
    step: 1,
    start: 256,
    whole: true,
    explain: "In tokens. A token is a short word or a piece of one.",
  },
  {
    key: "repetition_penalty",
    label: "Repetition penalty",
    min: 1,
    max: 2,
    step: 0.01,
    start: 1,
    neutral: 1,
    explain: "Above 1, whatever is in the text already becomes less likely.",
  },
  {
    key: "presence_penalty",
    label: "Presence penalty",
    min: -2,
    max: 2,
    step: 0.05,
    start: 0,
    neutral: 0,
    explain: "Above 0, what the answer has mentioned once becomes less likely: it moves on to new things.",
  },
  {
    key: "frequency_penalty",
    label: "Frequency penalty",
    min: -2,
    max: 2,
    step: 0.05,
    start: 0,
    neutral: 0,
    explain: "Above 0, a token becomes less likely each time the answer uses it: fewer repeats.",
  },
  {
    key: "seed",
    label: "Seed",
    min: -(2 ** 53 - 1),
    max: 2 ** 53 - 1,
    step: 1,
    start: null,
    neutral: null,
    whole: true,
    slider: false,
    explain: "With a number, the same text and settings give the same answer again. Empty: a new one each time.",
  },
  {
    key: "stop",
    label: "Stop at",
    start: "",
    text: true,
    explain: "The answer ends before any of these texts. One a line; \\n stands for a line break.",
  },
];

const MOST_STOPS = 16;
const LONGEST_STOP = 256;

/** @type {Settings} */
export const DEFAULTS = Object.freeze(Object.fromEntries(FIELDS.map(({ key, start }) => [key, start])));

export const PRESETS = [
  { name: "Surest", explain: "Always the likeliest token", values: { temperature: 0, top_p: 1, top_k: null } },
  { name: "Careful", explain: "Close to what is likely", values: { temperature: 0.4, top_p: 0.9, top_k: null } },
  { name: "Balanced", explain: "What the page starts with", values: { temperature: 0.8, top_p: 0.95, top_k: null } },
  { name: "Daring", explain: "Surprises, and more mistakes", values: { temperature: 1.2, top_p: 0.98, top_k: null } },
];

/** The preset that the settings are, or null. */
export function presetOf(settings) {
  const fits = ({ values }) => Object.entries(values).every(([key, value]) => settings[key] === value);
  return PRESETS.find(fits)?.name ?? null;
}

/** `value` as the field allows it: in its range, whole where it must be; null where it may be empty. */
export function fit(field, value, most = field.max) {
  if (field.text) return typeof value === "string" ? value.slice(0, 8192) : field.start;
  if (field.start === null && (value === null || value === "" || value === undefined)) return null;
  const number = typeof value === "string" && value.trim() === "" ? NaN : Number(value);
  if (!Number.isFinite(number)) return field.start;
  const kept = Math.min(Math.max(number, field.min), most);
  return field.whole ? Math.round(kept) : Math.round(kept * 1000) / 1000;
}

/** Settings from wherever, made good. @returns {Settings} */
export function settingsFrom(data, mostTokens) {
  const given = typeof data === "object" && data !== null ? data : {};
  return Object.fromEntries(
    FIELDS.map((field) => [
      field.key,
      Object.hasOwn(given, field.key)
        ? fit(field, given[field.key], field.key === "max_tokens" ? mostTokens : undefined)
        : fit(field, field.start, field.key === "max_tokens" ? mostTokens : undefined),
    ]),
  );
}

/** The texts of the stop field. `\n`, `\t` and `\\` stand for what they stand for in Python. */
export function stopsOf(text) {
  const escapes = { n: "\n", t: "\t", "\\": "\\" };
  const lines = text.split("\n").filter((line) => line !== "");
  const stops = lines.map((line) => line.replace(/\\([nt\\])/g, (_, letter) => escapes[letter]).slice(0, LONGEST_STOP));
  return [...new Set(stops)].slice(0, MOST_STOPS);
}

/** What is sent: only what changes something. @param {Settings} settings */
export function parameters(settings) {
  const sent = {};
  for (const { key, neutral, text } of FIELDS) {
    if (text) {
      const stops = stopsOf(settings[key]);
      if (stops.length) sent[key] = stops;
    } else if (settings[key] !== neutral) {
      sent[key] = settings[key];
    }
  }
  return sent;
}

/** Parameters that were sent once, from a file: known names and plain values only. */
export function parametersFrom(data) {
  const kept = {};
  for (const { key, text } of FIELDS) {
    const value = typeof data === "object" && data !== null && Object.hasOwn(data, key) ? data[key] : undefined;
    if (!text && Number.isFinite(value)) kept[key] = value;
    if (text && Array.isArray(value) && value.every((stop) => typeof stop === "string")) kept[key] = value;
  }
  return kept;
}

/** In a few words. @param {Settings} settings */
export function summary(settings) {
  const words = [presetOf(settings) ?? `temperature ${settings.temperature}`];
  if (!presetOf(settings) && settings.top_p !== 1) words.push(`top-p ${settings.top_p}`);
  if (settings.top_k !== null) words.push(`top-k ${settings.top_k}`);
  words.push(`${settings.max_tokens} tokens`);
  if (settings.seed !== null) words.push(`seed ${settings.seed}`);
  return words.join(" · ");
}
