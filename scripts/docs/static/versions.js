// The switch of versions: each version of the site is a folder, and versions.json beside them names them, the newest
// first: ["0.2.0", "0.1.0"]. Without that file, or from a disk, the page only says which version it is.
addEventListener("DOMContentLoaded", async () => {
  const place = document.querySelector(".versions");
  const root = new URL(document.documentElement.dataset.content_root || "./", location.href);
  const folders = new URL("../", root);
  let names = [];
  try {
    const answer = await fetch(new URL("versions.json", folders));
    names = answer.ok ? await answer.json() : [];
  } catch { /* There is one version. */ }
  if (!place || names.length < 2) return;
  const here = decodeURIComponent(root.pathname.split("/").at(-2));
  const select = document.createElement("select");
  select.setAttribute("aria-label", "Version");
  for (const name of names) select.add(new Option(name, name, name === here, name === here));
  select.addEventListener("change", async () => {
    const other = new URL(encodeURIComponent(select.value) + "/", folders);
    const page = new URL(location.href.slice(root.href.length), other);
    const there = await fetch(page, { method: "HEAD" }).catch(() => null);
    location.href = there?.ok ? page : other;
  });
  place.replaceChildren(select);
});
