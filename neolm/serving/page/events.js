/**
 * Server-sent events out of a stream of bytes, as the HTML standard reads them; only `data` is of use here.
 */

/**
 * @param {ReadableStream<Uint8Array>} stream
 * @returns {AsyncGenerator<string>} the data of each event
 */
export async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder(); // keeps the bytes of a character that is cut in two
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return; // what has no empty line after it is not an event
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop();
      for (const ended of lines) {
        const line = ended.endsWith("\r") ? ended.slice(0, -1) : ended;
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already, which the reader has been told
  }
}
