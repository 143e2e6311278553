/** Copies text, also on pages served over plain http, where the Clipboard API is not available. */

import { icon } from "./dom.js";
import { announce } from "./live-region.js";

const CONFIRMATION_TIME = 1600; // milliseconds

async function writeText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = document.createElement("textarea");
    field.value = text;
    field.className = "visually-hidden";
    const focused = document.activeElement;
    (focused?.closest("dialog") ?? document.body).append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    focused?.focus();
    return copied;
  }
}

/** Copies a text and shows the result on the button. */
export async function copyText(text, button) {
  const copied = await writeText(text);
  announce(copied ? "Copied." : "The browser does not let this page copy text.");
  button.querySelector("svg").replaceWith(icon(copied ? "check" : "close"));
  const label = button.querySelector(".button-text");
  if (label) label.textContent = copied ? "Copied" : "Not copied";
  clearTimeout(button.resetTimer);
  button.resetTimer = setTimeout(() => {
    button.querySelector("svg").replaceWith(icon("copy"));
    if (label) label.textContent = "Copy";
  }, CONFIRMATION_TIME);
}
