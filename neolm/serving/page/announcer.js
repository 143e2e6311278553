/** What screen readers are told: whole answers and events, never token by token. */

const LONGEST = 1200;

/** @param {string} message */
export function announce(message) {
  const region = document.getElementById("announcements");
  // The same words twice in a row are said twice only if the region changes in between.
  region.textContent = "";
  const said = message.length > LONGEST ? `${message.slice(0, LONGEST)}… The answer goes on in the page.` : message;
  setTimeout(() => {
    region.textContent = said;
  }, 50);
}
