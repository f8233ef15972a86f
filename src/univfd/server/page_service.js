"use strict";
// Asking the service, the only one that is asked.
const NEIGHBORS = 3, TRIES = 30;
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
class Refused extends Error {
  constructor(problem, retry) { super(problem.message); this.problem = problem; this.retry = retry; }
}
const ask = async (path, options = {}) => {
  const headers = state.key ? { Authorization: `Bearer ${state.key}` } : {};
  let answer, body = null;
  try {
    answer = await fetch(path, { ...options, headers: { ...headers, ...options.headers }, credentials: "same-origin", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused({ code: "unreachable", message: "", what_to_do: "" });
  }
  try { body = await answer.json(); } catch { body = null; } // a proxy may answer with a page of its own
  if (answer.ok && body) return body;
  const said = body?.error || { code: "other", message: `HTTP ${answer.status}`, what_to_do: "" };
  throw new Refused(said, [429, 503].includes(answer.status) ? Number(answer.headers.get("Retry-After")) || 2 : 0);
};
// Sends a picture, again where the service is busy for now.
const post = async (path, file) => {
  const { signal } = state.ended;
  for (let tries = 0; ; tries += 1) {
    try {
      return await ask(path, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" }, signal });
    } catch (error) {
      if (!error.retry || tries >= TRIES) throw error;
      await pause(Math.min(30, error.retry));
      if (signal.aborted) throw new DOMException("", "AbortError");
    }
  }
};
const judge = async (item, heat = false) => {
  const wanted = !heat && state.provenance;
  const path = `v1/detect?neighbors=${NEIGHBORS}&heatmap=${heat}&provenance=`;
  try {
    return await post(path + wanted, item.file);
  } catch (error) {
    if (error.problem?.code !== "no-provenance" || !wanted) throw error;
    state.provenance = false; // verdicts do not need it
    return post(`${path}false`, item.file);
  }
};
