// Talks to the server; remembers the examples, so that a page outlives its server.

export class Problem extends Error {}
export class Lost extends Error {}
export class Gone extends Error {}

let session = sessionStorage.getItem("session"), claimed = null;

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, signal: AbortSignal.timeout(options.patience ?? 60000) });
  } catch {
    throw new Lost("The server does not answer.");
  }
  if (response.ok) return response;
  let sentence = `the server answered ${response.status}`;
  try { sentence = (await response.json()).error; } catch { /* keep the number */ }
  if (response.status === 404 && sentence.includes("session")) throw new Gone(sentence);
  throw new Problem(sentence);
}

const post = (path, body, options) => call(path, { method: "POST", body, ...options });
const json = async (response) => (await response).json();

// Whether the session is this tab's alone: a duplicated tab begins with the other one's number.
async function claim(id) {
  if (id === claimed || !navigator.locks) return true;
  const granted = await new Promise((resolve) => {
    const signal = AbortSignal.timeout(1000); // a page that is being reloaded lets go of its own
    navigator.locks.request(`metacontrast ${id}`, { signal }, () => { resolve(true); return new Promise(() => {}); }).catch(() => resolve(false));
  });
  if (granted) claimed = id;
  return granted;
}

export async function open() {
  if (session && await claim(session)) {
    try { return await json(call(`s/${session}`)); } catch (error) { if (!(error instanceof Gone)) throw error; }
  }
  const opened = await json(post("s", "{}"));
  session = opened.session;
  await claim(session);
  sessionStorage.setItem("session", session);
  return opened;
}

export const url = (path) => `s/${session}/${path}`;
export const get = (path, options) => json(call(url(path), options));
export const send = (path, body, options) => json(post(url(path), body, options));
export const act = (name, given = {}) => send("do", JSON.stringify({ do: name, ...given }));
export const blob = async (path, options) => (await call(url(path), options)).blob();
export const alive = () => json(call(`s/${session}`, { patience: 5000 }));
