/** Announcements for screen readers: complete answers and events, not single tokens. */

const MAX_LENGTH = 1200;

export function announce(message) {
  const region = document.getElementById("announcements");
  region.textContent = ""; // a change in between makes the same message be read again
  const text = message.length > MAX_LENGTH ? `${message.slice(0, MAX_LENGTH)}… The rest is on the page.` : message;
  setTimeout(() => {
    region.textContent = text;
  }, 50);
}
