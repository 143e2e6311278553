/** Files to and from the person's disk. */

import { element } from "./element.js";

/** @param {string} name @param {string} text */
export function save(name, text) {
  const address = URL.createObjectURL(
    new Blob([text], { type: name.endsWith(".json") ? "application/json" : "text/plain;charset=utf-8" }),
  );
  const link = element("a", { href: address, download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/** Lets the person pick a file. @param {string} accept @returns {Promise<File|null>} */
export function pick(accept) {
  return new Promise((resolve) => {
    const input = element("input", {
      type: "file",
      accept,
      hidden: true,
      "aria-label": "File",
      on: {
        change: () => finish(input.files[0] ?? null),
        cancel: () => finish(null),
      },
    });
    const finish = (file) => {
      input.remove();
      resolve(file);
    };
    document.body.append(input);
    input.click();
  });
}
