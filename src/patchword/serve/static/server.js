// Requests to the server, and its errors.

import { errorMessage } from "./translation.js";
import { t } from "./words.js";

const STORAGE_KEY = "patchword-key";
const SENDABLE = /^[\x20-\x7e]+$/; // headers can contain no other characters, and so can keys
let key = sessionStorage.getItem(STORAGE_KEY) || "";

/** An error answer; message is for the user. */
export class ServerError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function errorOf(response) {
  let error;
  try {
    error = (await response.json()).error;
  } catch {
    error = null; // not this server's answer: a proxy's page
  }
  const message = error?.message ? errorMessage(error.message) : t("not_answered", { status: response.status });
  return new ServerError(message, response.status, error?.code);
}

let keyDialog = null; // a promise: one dialog, however many requests wait for the key

function askForKey(message) {
  keyDialog ??= new Promise((resolve) => {
    const dialog = document.getElementById("key");
    dialog.querySelector(".error").textContent = message;
    dialog.querySelector(".error").hidden = !key; // the message is about a key that was tried
    dialog.addEventListener("close", () => {
      key = dialog.querySelector("input").value;
      sessionStorage.setItem(STORAGE_KEY, key);
      keyDialog = null;
      resolve(key !== "");
    }, { once: true });
    dialog.querySelector("input").value = "";
    dialog.showModal();
  });
  return keyDialog;
}

/** Sends a request with the key. Returns the answer; throws ServerError. */
async function send(path, options) {
  const usedKey = key;
  const headers = { ...options.headers, ...(SENDABLE.test(key) && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(t("unreachable"), 0, "unreachable");
  }
  if (response.ok) return response;
  const error = await errorOf(response);
  if (response.status === 401 && (usedKey !== key || (await askForKey(error.message)))) return send(path, options);
  throw error;
}

/** The content of an answer, by a method of Response. The answer may break off, or not be this server's. */
async function content(response, method) {
  try {
    return await response[method]();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error instanceof SyntaxError) throw new ServerError(t("not_answered", { status: response.status }), response.status);
    throw new ServerError(t("unreachable"), 0, "unreachable");
  }
}

export async function get(path, signal) {
  return content(await send(path, { signal }), "json");
}

function sendPost(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return send(path, { method: "POST", body: JSON.stringify(body), headers, signal });
}

export async function post(path, body, signal) {
  return content(await sendPost(path, body, signal), "json");
}

/** An address for <img> of a picture that the server answers with. */
export async function pictureAddress(path, body) {
  if (!body && !key) return path;
  const response = body ? await sendPost(path, body) : await send(path, {});
  return URL.createObjectURL(await content(response, "blob"));
}
