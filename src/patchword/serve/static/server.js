// Requests to the server, and what it says when it refuses.

import { reason } from "./translation.js";
import { t } from "./words.js";

const STORED = "patchword-key";
const SENDABLE = /^[\x20-\x7e]+$/; // a header holds nothing else, and no key has it
let key = sessionStorage.getItem(STORED) || "";

/** What the server said: message is its sentence. */
export class ServerError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function refusal(response) {
  let said;
  try {
    said = (await response.json()).error;
  } catch {
    said = null; // not of this server: a proxy's page
  }
  const sentence = said?.message ? reason(said.message) : t("not_answered", { status: response.status });
  return new ServerError(sentence, response.status, said?.code);
}

let asking = null; // one dialog, however many requests wait for the key

function askForKey(sentence) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key");
    dialog.querySelector(".error").textContent = sentence;
    dialog.querySelector(".error").hidden = !key; // of the key that was tried
    dialog.addEventListener("close", () => {
      key = dialog.querySelector("input").value;
      sessionStorage.setItem(STORED, key);
      asking = null;
      resolve(key !== "");
    }, { once: true });
    dialog.querySelector("input").value = "";
    dialog.showModal();
  });
  return asking;
}

async function fetched(path, options) {
  const tried = key;
  const headers = { ...options.headers, ...(SENDABLE.test(key) && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(t("unreachable"), 0, "unreachable");
  }
  if (response.ok) return response;
  const refused = await refusal(response);
  if (response.status === 401 && (tried !== key || (await askForKey(refused.message)))) return fetched(path, options);
  throw refused;
}

/** What an answer holds; it may break off, and not be of this server. */
async function content(response, kind) {
  try {
    return await response[kind]();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error instanceof SyntaxError) throw new ServerError(t("not_answered", { status: response.status }), response.status);
    throw new ServerError(t("unreachable"), 0, "unreachable");
  }
}

export async function get(path, signal) {
  return content(await fetched(path, { signal }), "json");
}

function posted(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return fetched(path, { method: "POST", body: JSON.stringify(body), headers, signal });
}

export async function post(path, body, signal) {
  return content(await posted(path, body, signal), "json");
}

/** An address that <img> can show of what the server answers with a picture. */
export async function picture(path, body) {
  if (!body && !key) return path;
  const response = body ? await posted(path, body) : await fetched(path, {});
  return URL.createObjectURL(await content(response, "blob"));
}
