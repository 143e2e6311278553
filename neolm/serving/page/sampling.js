/**
 * The sampling settings: ranges, defaults, help texts, presets, and the parameters to send.
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
 * @property {string} stop one stop sequence per line, with \n for a line break
 */

/** `initial` is the page's default (null: the field may be empty); `neutral` is the server's, which is not sent. */
export const FIELDS = [
  {
    key: "temperature",
    label: "Temperature",
    min: 0,
    max: 2,
    step: 0.05,
    initial: 0.8,
    help: "Randomness of the choice. 0 always takes the most likely token; higher values allow less likely ones.",
  },
  {
    key: "top_p",
    label: "Top-p",
    min: 0,
    max: 1,
    step: 0.01,
    initial: 0.95,
    neutral: 1,
    help: "Sample only from the most likely tokens whose probabilities add up to this value. 1 allows all tokens.",
  },
  {
    key: "top_k",
    label: "Top-k",
    min: 1,
    max: 100000,
    step: 1,
    initial: null,
    neutral: null,
    help: "Sample only from this number of most likely tokens. Empty: all tokens.",
  },
  {
    key: "max_tokens",
    label: "Max tokens",
    min: 1,
    max: 4096,
    step: 1,
    initial: 256,
    help: "The maximum length of an answer. A token is a short word or a part of one.",
  },
  {
    key: "repetition_penalty",
    label: "Repetition penalty",
    min: 1,
    max: 2,
    step: 0.01,
    initial: 1,
    neutral: 1,
    help: "Above 1, tokens that occur anywhere in the text become less likely.",
  },
  {
    key: "presence_penalty",
    label: "Presence penalty",
    min: -2,
    max: 2,
    step: 0.05,
    initial: 0,
    neutral: 0,
    help: "Above 0, tokens that occur in the answer become less likely, which favours new topics.",
  },
  {
    key: "frequency_penalty",
    label: "Frequency penalty",
    min: -2,
    max: 2,
    step: 0.05,
    initial: 0,
    neutral: 0,
    help: "Above 0, a token becomes less likely each time it is used, which reduces repetition.",
  },
  {
    key: "seed",
    label: "Seed",
    min: -(2 ** 53 - 1),
    max: 2 ** 53 - 1,
    step: 1,
    initial: null,
    neutral: null,
    help: "With a number, the same prompt and settings give the same answer. Empty: a new seed each time.",
  },
  {
    key: "stop",
    label: "Stop sequences",
    initial: "",
    text: true,
    help: "The answer ends before any of these texts. One per line; \\n stands for a line break.",
  },
];

const MAX_STOP_SEQUENCES = 16;
const MAX_STOP_LENGTH = 256;

/** @type {Settings} */
export const DEFAULTS = Object.freeze(Object.fromEntries(FIELDS.map(({ key, initial }) => [key, initial])));

export const PRESETS = [
  { name: "Greedy", help: "Always the most likely token", values: { temperature: 0, top_p: 1, top_k: null } },
  { name: "Precise", help: "Close to the most likely tokens", values: { temperature: 0.4, top_p: 0.9, top_k: null } },
  { name: "Balanced", help: "The default", values: { temperature: 0.8, top_p: 0.95, top_k: null } },
  { name: "Creative", help: "More varied, more mistakes", values: { temperature: 1.2, top_p: 0.98, top_k: null } },
];

/** The name of the preset that matches the settings, or null. */
export function presetName(settings) {
  const matches = ({ values }) => Object.entries(values).every(([key, value]) => settings[key] === value);
  return PRESETS.find(matches)?.name ?? null;
}

/** `value` within the field's range, rounded as the field requires; null where the field may be empty. */
export function clamp(field, value, max = field.max) {
  if (field.text) return typeof value === "string" ? value.slice(0, 8192) : field.initial;
  if (field.initial === null && (value === null || value === "" || value === undefined)) return null;
  const number = typeof value === "string" && value.trim() === "" ? NaN : Number(value);
  if (!Number.isFinite(number)) return field.initial;
  const clamped = Math.min(Math.max(number, field.min), max);
  return field.step === 1 ? Math.round(clamped) : Math.round(clamped * 1000) / 1000;
}

/** Valid settings from untrusted data. @returns {Settings} */
export function parseSettings(data) {
  const values = typeof data === "object" && data !== null ? data : {};
  return Object.fromEntries(
    FIELDS.map((field) => [
      field.key,
      clamp(field, Object.hasOwn(values, field.key) ? values[field.key] : field.initial),
    ]),
  );
}

/** The stop sequences of the text field, with the escapes `\n`, `\t` and `\\`. */
function stopSequences(text) {
  const escapes = { n: "\n", t: "\t", "\\": "\\" };
  const lines = text.split("\n").filter((line) => line !== "");
  const stops = lines.map((line) =>
    line.replace(/\\([nt\\])/g, (_, letter) => escapes[letter]).slice(0, MAX_STOP_LENGTH),
  );
  return [...new Set(stops)].slice(0, MAX_STOP_SEQUENCES);
}

/** The parameters to send: those that differ from the server's defaults. @param {Settings} settings */
export function requestParameters(settings) {
  const parameters = {};
  for (const { key, neutral, text } of FIELDS) {
    if (text) {
      const stops = stopSequences(settings[key]);
      if (stops.length) parameters[key] = stops;
    } else if (settings[key] !== neutral) {
      parameters[key] = settings[key];
    }
  }
  return parameters;
}

/** Request parameters from an imported file: known names and valid values only. */
export function parseParameters(data) {
  const parameters = {};
  for (const { key, text } of FIELDS) {
    const value = typeof data === "object" && data !== null && Object.hasOwn(data, key) ? data[key] : undefined;
    const isStops = Array.isArray(value) && value.every((stop) => typeof stop === "string");
    if (text ? isStops : Number.isFinite(value)) parameters[key] = value;
  }
  return parameters;
}

/** The settings in a few words. @param {Settings} settings */
export function settingsSummary(settings) {
  const words = [presetName(settings) ?? `temperature ${settings.temperature}`];
  if (!presetName(settings) && settings.top_p !== 1) words.push(`top-p ${settings.top_p}`);
  if (settings.top_k !== null) words.push(`top-k ${settings.top_k}`);
  words.push(`${settings.max_tokens} tokens`);
  if (settings.seed !== null) words.push(`seed ${settings.seed}`);
  return words.join(" · ");
}
