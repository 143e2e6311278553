/** Copying, also where the page does not come over https or localhost and the browser's clipboard is out of reach. */

import { announce } from "./announcer.js";
import { icon } from "./element.js";

const SHOWN = 1600; // milliseconds

async function put(text) {
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
    const done = document.execCommand("copy");
    field.remove();
    focused?.focus();
    return done;
  }
}

/** Copies, and says so on the button that was pressed. */
export async function copyText(text, pressed) {
  const done = await put(text);
  announce(done ? "Copied." : "The browser does not let this page copy.");
  pressed.querySelector("svg").replaceWith(icon(done ? "check" : "close"));
  const label = pressed.querySelector(".button-text");
  if (label) label.textContent = done ? "Copied" : "Not copied";
  clearTimeout(pressed.reverts);
  pressed.reverts = setTimeout(() => {
    pressed.querySelector("svg").replaceWith(icon("copy"));
    if (label) label.textContent = "Copy";
  }, SHOWN);
}
