// The REST API. Failures are `Failure`s, whose message is fit for the page.

const MOST_TRIES = 4;
const MOST_WAIT_SECONDS = 10;

/** A request that failed; `code` as in the API, or "offline". */
export class Failure extends Error {
  constructor(code, message, status = 0, retrySeconds = null) {
    super(message);
    this.code = code;
    this.status = status;
    this.retrySeconds = retrySeconds;
  }
}

const OFFLINE =
  "The server does not answer. Check that vlmvid serve still runs and that you are connected, then try again.";

/** Whether an error only says that nobody waits any more. */
export const isAborted = (error) => error.name === "AbortError";

/** GET JSON; while the server is busy it is asked again, and `onWait(seconds)` is told. */
export function getJson(address, { signal, onWait } = {}) {
  return patient(() => request(address, { signal }), { signal, onWait });
}

/** POST JSON, as `getJson`. */
export function postJson(address, body, { signal, onWait } = {}) {
  const options = { method: "POST", signal };
  if (body !== null) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  return patient(() => request(address, options), { signal, onWait });
}

/** DELETE; a thing that is gone already is no failure. */
export async function remove(address) {
  try {
    await request(address, { method: "DELETE" });
  } catch (error) {
    if (error.status !== 404) throw error;
  }
}

/** Send a file as a form; `onProgress(share)` is told how much has left, in [0, 1]. */
export function sendFile(address, file, { signal, onProgress }) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    const form = new FormData();
    form.append("file", file);
    sending.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    });
    sending.upload.addEventListener("load", () => onProgress(1));
    sending.addEventListener("load", () => {
      const found = parsed(sending.responseText);
      if (sending.status >= 200 && sending.status < 300 && found) resolve(found);
      else reject(failureOf(sending.status, found, sending.getResponseHeader("Retry-After")));
    });
    sending.addEventListener("error", () => reject(new Failure("offline", OFFLINE)));
    sending.addEventListener("abort", () => reject(new DOMException("given up", "AbortError")));
    signal.addEventListener("abort", () => sending.abort());
    sending.open("POST", address);
    sending.send(form);
  });
}

async function patient(ask, { signal, onWait }) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await ask();
    } catch (error) {
      if (error.status !== 503 || error.retrySeconds === null || tries === MOST_TRIES) throw error;
      onWait?.(error.retrySeconds);
      await pause(error.retrySeconds, signal);
    }
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("given up", "AbortError"));
    });
  });
}

async function request(address, options) {
  let response;
  let text;
  try {
    response = await fetch(address, options);
    text = await response.text();
  } catch (error) {
    if (isAborted(error)) throw error;
    throw new Failure("offline", OFFLINE);
  }
  const found = parsed(text);
  if (!response.ok) throw failureOf(response.status, found, response.headers.get("Retry-After"));
  return found;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function failureOf(status, found, retryAfter) {
  const said = found?.error;
  const seconds = retryAfter === null ? null : Math.min(Number(retryAfter) || 1, MOST_WAIT_SECONDS);
  const words = said ? sentence(said.message) : `The server answered with status ${status}. Its log says more.`;
  return new Failure(said?.code ?? "unexpected", words, status, seconds);
}

/** The API's messages start small and end without a stop, as in a log. */
function sentence(text) {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}
