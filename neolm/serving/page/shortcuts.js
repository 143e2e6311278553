/** Keys that work everywhere on the page. Letters with Alt only: single letters would be in screen readers' way. */

/** @param {Object<string, () => void>} actions by key code; `Escape` is called where Esc has nothing else to close */
export function listen(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") {
      if (!document.querySelector(":popover-open")) actions.Escape();
      return;
    }
    // By the key's place: Alt turns letters into others on some keyboards. AltGr is for writing.
    const plain =
      event.altKey && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.getModifierState("AltGraph");
    if (plain && Object.hasOwn(actions, event.code)) {
      event.preventDefault();
      actions[event.code]();
    }
  });
}
