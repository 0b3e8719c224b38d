// The service: its key, its models, and the transcription of a file.

const dialog = document.querySelector("#key"), form = dialog.querySelector("form");
let asking = null;

export const readKey = () => sessionStorage.getItem("key") ?? "";
const authorization = () => (readKey() ? { Authorization: `Bearer ${readKey()}` } : {});

/** Ask for a key; false if the user gives none. `used` is the key that was refused, which may have been replaced since. */
export function askKey(reason, used = readKey()) {
  if (readKey() !== used) return Promise.resolve(true);
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
document.querySelector("#change-key").onclick = () => askKey("Another key is used from now on.");
document.querySelector("#change-key").hidden = !readKey();

/** The names of the models; raises an Error with a sentence. */
export async function listModels() {
  for (;;) {
    const used = readKey();
    const response = await fetch("v1/models", { headers: authorization() }).catch(() => null);
    if (!response) throw new Error(UNREACHABLE);
    const body = await response.json().catch(() => null);
    if (response.ok) return body.data.map((each) => each.id);
    if (response.status !== 401) throw new Error(describe(body, response.status));
    if (!(await askKey(describe(body, 401), used))) throw new Error("This service needs an API key.");
  }
}

/** The transcript of a file. `show(text, uploaded)` gets what happens now, and the part that was uploaded. */
export async function transcribe(file, model, signal, show) {
  for (;;) {
    const used = readKey(), request = await upload(file, model, signal, show), { status } = request;
    let body = null;
    try { body = JSON.parse(request.responseText); } catch { /* It is not from the service. */ }
    const seconds = Number(request.getResponseHeader("Retry-After"));
    if (status === 200 && body) return body;
    if (status === 401) {
      if (!(await askKey(describe(body, status), used))) throw new Error("This service needs an API key.");
    } else if (status === 429 || (status === 503 && seconds)) {
      show(`${describe(body, status)} Next try in ${seconds || 5} s.`);
      await new Promise((resolve) => {
        setTimeout(resolve, 1000 * (seconds || 5));
        signal.addEventListener("abort", resolve);
      });
    } else throw new Error(describe(body, status));
    signal.throwIfAborted();
  }
}

function upload(file, model, signal, show) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(), data = new FormData();
    if (model) data.append("model", model);
    data.append("response_format", "verbose_json");
    for (const each of ["word", "segment"]) data.append("timestamp_granularities[]", each);
    data.append("file", file);
    request.open("POST", "v1/audio/transcriptions");
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    show("Uploading", 0);
    request.upload.onprogress = (event) => show("Uploading", event.loaded / event.total);
    request.upload.onload = () => show("Transcribing");
    request.onload = () => resolve(request);
    request.onerror = () => reject(new Error(UNREACHABLE));
    request.onabort = () => reject(signal.reason);
    signal.addEventListener("abort", () => request.abort());
    request.send(data);
  });
}

const UNREACHABLE = "The service can't be reached, or it has ended the connection.";
const describe = (body, status) => body?.error?.message ?? `The service answered with status ${status}.`;
