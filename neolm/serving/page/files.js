/** Downloads and file selection. */

import { element } from "./dom.js";

export function download(name, text) {
  const type = name.endsWith(".json") ? "application/json" : "text/plain;charset=utf-8";
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = element("a", { href: url, download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Opens the browser's file chooser. @param {string} accept @returns {Promise<File|null>} */
export function chooseFile(accept) {
  return new Promise((resolve) => {
    const finish = () => {
      input.remove();
      resolve(input.files[0] ?? null);
    };
    const on = { change: finish, cancel: finish };
    const input = element("input", { type: "file", accept, hidden: true, "aria-label": "File", on });
    document.body.append(input);
    input.click();
  });
}
