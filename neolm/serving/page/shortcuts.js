/** Keyboard shortcuts of the whole page. All letters need Alt: screen readers use single letters. */

/** The shortcuts as listed in the help. `Alt` is the Option key on a Mac. */
export const SHORTCUTS = [
  ["Enter", "Send"],
  ["Shift + Enter", "New line"],
  ["Esc", "Stop the answer; close a dialog or the settings"],
  ["↑ in an empty box", "Edit your last message"],
  ["Alt + N", "New conversation"],
  ["Alt + R", "Regenerate the answer"],
  ["Alt + M", "Go to the message box"],
  ["Alt + P", "Show or hide probabilities"],
  ["Alt + C", "Side by side on or off"],
  ["Alt + L", "Show or hide the conversations"],
  ["Alt + K", "Search in conversations"],
  ["Alt + S", "Show or hide the settings"],
  ["Alt + I", "About the model"],
  ["Alt + /", "Help"],
  ["← → Home End", "Move between tokens, where probabilities are shown"],
];

/** @param {Object<string, () => void>} actions by key code; `Escape` runs where Esc closes nothing else */
export function listen(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") {
      if (!document.querySelector(":popover-open")) actions.Escape();
      return;
    }
    // `code` is the position of the key: with Alt, some layouts produce other letters. AltGr types characters.
    const altOnly =
      event.altKey && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.getModifierState("AltGraph");
    if (altOnly && Object.hasOwn(actions, event.code)) {
      event.preventDefault();
      actions[event.code]();
    }
  });
}
