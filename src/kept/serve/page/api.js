// The server: its key, its answers, its streams. The key is in this tab's storage and in headers.

const KEY = "kept key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

// Called when the server wants a key that it knows.
export const asking = { forKey: () => {} };

export class Failure extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export async function call(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, {
    method, headers, signal, credentials: "omit", cache: "no-store",
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (answer.ok) return answer;
  let said = {};
  try {
    said = (await answer.json()).error ?? {};
  } catch {
    // no JSON, so its status is all there is
  }
  if (answer.status === 401) asking.forKey(Boolean(key.get()));
  throw new Failure(said.message ?? `the server answered ${answer.status}`, answer.status, said.code);
}

export const json = async (path, given) => (await call(path, given)).json();

// The events of a stream, as {event, data}; data is parsed, or "[DONE]".
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        let event = "message";
        const data = [];
        for (const line of block.split("\n")) {
          if (line.startsWith("event: ")) event = line.slice(7);
          else if (line.startsWith("data: ")) data.push(line.slice(6));
        }
        if (!data.length) continue;
        const text = data.join("\n");
        yield { event, data: text === "[DONE]" ? text : JSON.parse(text) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
