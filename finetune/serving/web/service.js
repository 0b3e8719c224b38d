// Requests to the service, and its key.

export const UNREACHABLE = "The service can't be reached, or it has ended the connection.";
const dialog = document.querySelector("#key"), form = dialog.querySelector("form");
let asking = null;

export const readKey = () => sessionStorage.getItem("key") ?? "";

/** The name of who reviews, on a service without keys; null as long as nobody was asked. */
export const readName = () => sessionStorage.getItem("reviewer");

/** Ask for a key; false if the user gives none. `used` is the key that was refused, which may have been replaced since. */
export function askKey(used) {
  if (readKey() !== used) return Promise.resolve(true);
  return openDialog(used ? "The service does not accept this key." : "This service needs an API key.");
}

function openDialog(reason) {
  asking ??= new Promise((resolve) => {
    document.querySelector("#key-reason").textContent = reason;
    form.reset();
    dialog.returnValue = "";
    dialog.showModal();
    dialog.addEventListener("close", () => {
      asking = null;
      const given = dialog.returnValue === "use";
      if (given) sessionStorage.setItem("key", form.elements.key.value.trim());
      document.querySelector("#change-key").hidden = !readKey();
      resolve(given);
    }, { once: true });
  });
  return asking;
}
document.querySelector("#cancel-key").onclick = () => dialog.close();
document.querySelector("#change-key").onclick = () => openDialog("The new key replaces the one in this tab.");
document.querySelector("#change-key").hidden = !readKey();

/**
 * The answer of the service to a request, in the end: its JSON or, with `asFile`, {buffer, type}.
 * `show(text, uploaded)` gets what happens, and the part that was sent. Data that are no form are sent as JSON.
 * An error has the `status` of the answer.
 */
export async function request(path, show, data = null, signal = new AbortController().signal, asFile = false) {
  for (;;) {
    const used = readKey(), answer = await send(path, show, data, signal), { status } = answer;
    if (status === 200 && asFile) return { buffer: answer.response, type: answer.getResponseHeader("Content-Type") };
    const seconds = Number(answer.getResponseHeader("Retry-After")) || (status === 429 ? 5 : 0);
    let body = null;
    try { body = JSON.parse(new TextDecoder().decode(answer.response)); } catch { /* It is not from the service. */ }
    const reason = body?.error?.message ?? `The service answered with status ${status}.`;
    if (status === 200 && body) return body;
    if (status === 401) {
      if (!(await askKey(used))) throw new Error("This service needs an API key.");
    } else if (seconds) {
      show(`${reason} The next try is in ${seconds} s.`);
      await new Promise((resolve) => {
        setTimeout(resolve, 1000 * seconds);
        signal.addEventListener("abort", resolve);
      });
    } else throw Object.assign(new Error(reason), { status });
    signal.throwIfAborted();
  }
}

function send(path, show, data, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(), isForm = data instanceof FormData;
    request.open(data ? "POST" : "GET", path);
    request.responseType = "arraybuffer";
    if (readName()) request.setRequestHeader("X-Reviewer", encodeURIComponent(readName()));
    if (readKey()) request.setRequestHeader("Authorization", `Bearer ${readKey()}`);
    if (data && !isForm) request.setRequestHeader("Content-Type", "application/json");
    if (isForm) {
      show("Uploading", 0);
      request.upload.onprogress = (event) => show("Uploading", event.loaded / event.total);
      request.upload.onload = () => show("Transcribing");
    }
    request.onload = () => resolve(request);
    request.onerror = () => reject(new Error(UNREACHABLE));
    request.onabort = () => reject(signal.reason);
    signal.addEventListener("abort", () => request.abort());
    request.send(data && !isForm ? JSON.stringify(data) : data);
  });
}
