// Starts the page, switches tabs, and gets over a server that went away.

import * as api from "./api.js";
import * as teach from "./teach.js";
import * as watch from "./watch.js";

const at = (id) => document.getElementById(id), tabs = [at("tab-teach"), at("tab-watch")];
let recovering = null;

// Runs some work; waits for a lost server, and teaches a new session what a gone one knew, then tries once more.
async function guard(work) {
  if (recovering) await recovering;
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof api.Lost || error instanceof api.Gone)) throw error;
    recovering ??= recover().finally(() => { recovering = null; });
    await recovering;
    return null;
  }
}

async function recover() {
  const { port, pathname } = location;
  let but = "";
  at("lost").textContent = `The server does not answer. What you taught is kept in this page; it goes on when this runs again: metacontrast play --no-browser --port ${port} --token ${pathname.split("/")[1]}`;
  for (let waited = 0; ; waited++) {
    if (waited > 0) at("lost").hidden = false;
    try {
      const opened = await api.open();
      if (opened.session || teach.isLost()) but = await teach.teachAgain(opened); else teach.show(opened.state);
      break;
    } catch (error) {
      if (error instanceof api.Problem) at("lost").textContent = `${error.message}.`;
    }
    await new Promise((done) => setTimeout(done, 1000));
  }
  if (but) teach.note(`This page was taught again, but: ${but}.`);
  else if (!at("lost").hidden) teach.note("The server is back, and so is what you taught.");
  at("lost").hidden = true;
  teach.ask();
}

function select(tab, focus = false) {
  for (const each of tabs) {
    const on = each === tab;
    each.setAttribute("aria-selected", String(on));
    each.tabIndex = on ? 0 : -1;
    at(each.getAttribute("aria-controls")).hidden = !on;
  }
  if (focus) tab.focus();
  sessionStorage.setItem("tab", tab.id);
  if (tab.id === "tab-watch") watch.follow();
}

for (const tab of tabs) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") select(tabs[1 - tabs.indexOf(tab)], true);
  });
}
document.addEventListener("visibilitychange", () => { if (!at("watch").hidden) watch.follow(); });
setInterval(() => { if (!document.hidden) guard(api.alive); }, 15000);

try {
  const opened = await api.open();
  teach.begin(opened, guard);
  watch.begin(guard);
  select(at(sessionStorage.getItem("tab") ?? "tab-teach"));
  document.body.dataset.ready = "yes";
} catch (error) {
  at("lost").textContent = error.message;
  at("lost").hidden = false;
  if (!(error instanceof api.Problem || error instanceof api.Lost)) throw error;
}
