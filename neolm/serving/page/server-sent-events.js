/** Parses server-sent events (HTML standard, section 9.2). Only `data` fields are used. */

/**
 * @param {ReadableStream<Uint8Array>} stream
 * @returns {AsyncGenerator<string>} the data of each event
 */
export async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder(); // keeps the bytes of a character that is split between chunks
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return; // an event without an empty line after it is incomplete
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop();
      for (const terminated of lines) {
        const line = terminated.endsWith("\r") ? terminated.slice(0, -1) : terminated;
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // a failed stream rejects here too; the reader has thrown already
  }
}
