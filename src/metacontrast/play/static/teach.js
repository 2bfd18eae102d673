// The tab on which one teaches.

import * as api from "./api.js";
import { asBytes, Pad, takePicture, takesFiles } from "./pad.js";
import { element, fixed, number, percent, signed } from "./format.js";
import { draw, rowOf, setExplanation, showTip } from "./lines.js";

const at = (id) => document.getElementById(id);
const blobs = new Map(); // what was taught, so that it can be taught again
let state = null, explanation = null, openPad = new Set(), closedPad = new Set(), pads = new Map();
let asking = false, askAgain = false, query = null, guard = (work) => work();

export function begin(opened, guarded) {
  guard = guarded;
  query = new Pad(at("query-pad"), { label: "Query board", onchange: ask, onproblem: (file) => askFile(file) });
  if (opened.gallery) sessionStorage.setItem("gallery", JSON.stringify(opened.gallery));
  for (const entry of JSON.parse(sessionStorage.getItem("gallery") ?? "[]")) {
    at("teach").querySelector(".gallery").append(element("button", { type: "button", title: entry.note, "data-entry": entry.name, onclick: () => openEntry(entry) }, entry.title));
  }
  at("teach").querySelector(".gallery").append(element("span", { class: "hint", id: "entry-note", "aria-live": "polite" }));
  listen();
  show(opened.state);
  if (opened.state.classes.length) restoreQuery();
}

async function openEntry(entry) {
  if (state.classes.some((each) => each.examples.length) && !state.fromGallery && !confirm("Replace what is on the boards? “Undo last change” brings it back.")) return;
  await change(() => api.act("gallery", { name: entry.name }), at("class-problem"), true);
  state.fromGallery = true;
  at("entry-note").textContent = `${entry.note}.`;
  await restoreQuery();
}

async function restoreQuery() {
  const image = await guard(() => api.blob("query"));
  if (image?.size) { await query.show(image); } else ask();
}

// Runs one change; what goes wrong is said at its own place.
async function change(work, place, fresh = false) {
  for (const each of document.querySelectorAll(".problem")) each.hidden = true;
  document.body.setAttribute("aria-busy", "true");
  try {
    const found = await guard(work);
    if (found?.state) { show(found.state, fresh); ask(); }
    return found;
  } catch (error) {
    if (!(error instanceof api.Problem)) throw error;
    say(place, error.message, error.file);
    return null;
  } finally {
    document.body.removeAttribute("aria-busy");
  }
}

function say(place, sentence, file = "") {
  place.textContent = file + (file ? sentence : sentence[0].toUpperCase() + sentence.slice(1)) + (/[.!?]$/.test(sentence) ? "" : ".");
  place.hidden = false;
}

export function note(sentence) {
  at("notice").firstElementChild.textContent = sentence;
  at("notice").hidden = !sentence;
}

function listen() {
  at("notice").querySelector("button").addEventListener("click", () => note(""));
  at("add-class").addEventListener("submit", async (event) => {
    event.preventDefault();
    const name = at("new-class").value.trim() || nextName();
    if (await change(() => api.act("add_class", { name }), at("class-problem"))) at("new-class").value = "";
  });
  at("undo").addEventListener("click", () => change(() => api.act("undo"), at("class-problem")));
  for (const radio of document.querySelectorAll("input[name=head]")) radio.addEventListener("change", setHead);
  at("seed").addEventListener("change", setHead);
  at("next-seed").addEventListener("click", () => { at("seed").value = (Number(at("seed").value) + 1) % 1000000; setHead(); });
  at("compare").addEventListener("click", () => compare());
  at("zip").addEventListener("click", (event) => { event.preventDefault(); download("classifier.zip"); });
  at("onnx").addEventListener("click", () => download("classifier.onnx", at("onnx")));
  at("picture").addEventListener("click", () => download("explanation.png", at("picture")));
  at("save").addEventListener("click", async () => {
    const found = await change(() => api.send("save", ""), at("keep-problem"));
    if (found) at("kept").replaceChildren("Saved in ", element("code", {}, found.folder), ".");
  });
  at("load").addEventListener("change", async () => {
    const [file] = at("load").files;
    at("load").value = "";
    if (file && await change(() => api.send("load", file), at("keep-problem"), true)) note(`Loaded ${file.name}.`);
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file && !at("teach").hidden) { event.preventDefault(); query.show(file); }
  });
  for (const type of ["dragover", "drop"]) document.addEventListener(type, (event) => event.preventDefault());
}

async function download(name, button) {
  if (button) button.disabled = true;
  try {
    const found = await change(() => api.blob(name, { patience: 120000 }), at("keep-problem"));
    if (!found) return;
    const link = element("a", { href: URL.createObjectURL(found), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    at("kept").textContent = `${name} is in your downloads.`;
  } finally {
    if (button) button.disabled = false;
  }
}

function nextName() {
  const taken = new Set(state.classes.map((each) => each.name));
  for (let k = 0; ; k++) {
    const name = k < 26 ? String.fromCharCode(65 + k) : `class ${k}`;
    if (!taken.has(name)) return name;
  }
}

function setHead() {
  const random = document.querySelector("input[name=head]:checked").value === "random";
  return change(() => api.act("settings", { random_head: random ? Number(at("seed").value) : null }), at("settings-problem")).then(() => { if (at("starts").childElementCount) compare(); });
}

// --- the boards

export function show(next, fresh = false) {
  state = next;
  if (fresh) { openPad = new Set(); closedPad = new Set(); }
  const kept = new Set(next.classes.map((each) => each.id));
  for (const [id, each] of pads) if (!kept.has(id)) { each.node.remove(); pads.delete(id); }
  for (const each of next.classes) {
    if (!pads.has(each.id)) pads.set(each.id, makeBoard(each.id));
    fillBoard(pads.get(each.id), each);
    at("boards").append(pads.get(each.id).node);
  }
  at("undo").disabled = !next.can_undo;
  at("boards").classList.toggle("few", next.classes.length <= 8);
  showSettings();
  if (!next.ready) { explanation = null; setExplanation(null); showAnswer(null); showWhy(null); }
  remember();
  draw();
}

function makeBoard(id) {
  const name = element("input", { "aria-label": "Name of the class", maxlength: "40", spellcheck: "false" });
  const remove = element("button", { type: "button", onclick: () => change(() => api.act("remove_class", { id }), at("class-problem")) }, "×");
  const thumbs = element("div", { class: "thumbs" });
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const input = element("input", { type: "file", accept: "image/*", multiple: true, class: "hidden-file" });
  const holder = element("div", { hidden: true });
  const toggle = element("button", { type: "button", "aria-expanded": "false" }, "Draw");
  const node = element("section", { class: "card board", "data-class": id }, element("header", {}, name, remove),
    element("div", { class: "shown" }, thumbs, element("div", { class: "tools" }, toggle, element("label", { class: "button" }, "Images…", input),
      element("button", { type: "button", onclick: async () => { const shot = await takePicture(); if (shot) add(id, [shot]); } }, "Camera"))),
    holder, problem);
  const made = { node, name, thumbs, problem, holder, toggle, remove, pad: null };
  name.addEventListener("change", async () => {
    if (!await change(() => api.act("rename_class", { id, name: name.value }), problem)) name.value = state.classes.find((each) => each.id === id)?.name ?? "";
  });
  name.addEventListener("keydown", (event) => { if (event.key === "Enter") name.blur(); });
  input.addEventListener("change", () => { add(id, [...input.files]); input.value = ""; });
  toggle.addEventListener("click", () => { const open = made.holder.hidden; (open ? openPad : closedPad).add(id); (open ? closedPad : openPad).delete(id); togglePad(made, id, open); draw(); });
  takesFiles(node, (files) => add(id, files));
  return made;
}

function togglePad(board, id, open) {
  board.holder.hidden = !open;
  board.toggle.setAttribute("aria-expanded", String(open));
  if (open && !board.pad) {
    board.pad = new Pad(board.holder, { label: "Board of this class", hint: "Draw an example", files: false, onchange: () => { addButton.disabled = board.pad.isEmpty; }, onproblem: (file) => add(id, [file]) });
    const addButton = element("button", { type: "button", class: "primary", disabled: true, onclick: async () => {
      const { strokes } = board.pad, data = await board.pad.bytes();
      board.pad.clear();
      if (!await add(id, [data])) { board.pad.strokes = strokes; board.pad.changed(); }
    } }, "Add example");
    board.pad.canvas.addEventListener("keydown", (event) => { if (event.key === "Enter") addButton.click(); });
    board.pad.root.querySelector(".tools").prepend(addButton);
  }
}

function fillBoard(board, each) {
  if (document.activeElement !== board.name) board.name.value = each.name;
  board.remove.setAttribute("aria-label", `Remove the class ${each.name}`);
  const label = (k) => `Example ${k + 1} of ${each.name}`;
  const known = new Map([...board.thumbs.children].map((child) => [child.dataset.id, child]));
  board.thumbs.replaceChildren(...each.examples.map((id, k) => {
    const thumb = known.get(id) ?? makeThumb(id);
    thumb.dataset.label = label(k);
    thumb.setAttribute("aria-label", label(k));
    return thumb;
  }));
  if (!each.examples.length) board.thumbs.append(element("span", { class: "hint" }, "no example yet"));
  const open = openPad.has(each.id) || (!each.examples.length && !closedPad.has(each.id));
  if (open) openPad.add(each.id);
  togglePad(board, each.id, open);
}

function makeThumb(id) {
  const thumb = element("button", { type: "button", class: "thumb", "data-id": id }, element("img", { src: api.url(`thumbnails/${id}`), alt: "", width: "46", height: "46" }));
  const place = () => { const box = thumb.getBoundingClientRect(); return [box.left + box.width / 2, box.bottom - 10]; };
  thumb.addEventListener("focus", () => { if (thumb.matches(":focus-visible")) showTip(rowOf(id), ...place()); });
  thumb.addEventListener("blur", (event) => { if (!at("tip").contains(event.relatedTarget)) showTip(null); });
  thumb.addEventListener("click", () => {
    showTip(rowOf(id), ...place());
    const remove = element("button", { type: "button" }, "Remove this example");
    remove.addEventListener("click", () => { showTip(null); change(() => api.act("remove_example", { id }), at("class-problem")); });
    if (!rowOf(id)) { at("tip").replaceChildren(); at("tip").hidden = false; const [x, y] = place(); at("tip").style.left = `${Math.min(x, innerWidth - 220)}px`; at("tip").style.top = `${y}px`; }
    at("tip").append(remove);
    remove.focus();
  });
  thumb.addEventListener("keydown", (event) => { if (event.key === "Delete") change(() => api.act("remove_example", { id }), at("class-problem")); });
  return thumb;
}

async function add(id, files) {
  const board = pads.get(id);
  let added = false;
  for (const file of files) {
    const name = file.name ? `${file.name}: ` : "";
    const data = await asBytes(file);
    const found = await change(async () => {
      try { return await api.send(`examples/${id}`, data); } catch (error) {
        error.file = name;
        throw error;
      }
    }, board.problem);
    if (!found) break;
    blobs.set(found.state.classes.find((each) => each.id === id).examples.at(-1), data);
    added = true;
  }
  return added;
}

// Keeps a copy of every example here, for a server that goes away.
async function remember() {
  for (const id of state.classes.flatMap((each) => each.examples)) {
    if (blobs.has(id)) continue;
    blobs.set(id, null);
    try { blobs.set(id, await api.blob(`examples/${id}`)); } catch { blobs.delete(id); return; }
  }
}

let lost = null; // what a session that is gone knew, until all of it is taught again

export const isLost = () => lost !== null;

// Teaches a new session everything that is on this page; returns what could not be brought back, in words.
export async function teachAgain(opened) {
  lost ??= { classes: state.classes, settings: state.settings, images: new Map(blobs) };
  const { classes, settings, images } = lost;
  const known = opened.state.models.some((model) => model.name === settings.model);
  blobs.clear();
  let now = (await api.act("restore", { names: classes.map((each) => each.name), ...(known ? settings : { random_head: settings.random_head }) })).state;
  let missing = 0;
  for (const [k, { examples }] of classes.entries()) {
    for (const example of examples) {
      const data = images.get(example);
      if (!data) { missing++; continue; }
      now = (await api.send(`examples/${now.classes[k].id}`, data)).state;
      blobs.set(now.classes[k].examples.at(-1), data);
    }
  }
  lost = null;
  show(now, true);
  ask();
  return [
    known ? "" : `the model “${settings.model}” is gone, and “${now.settings.model}” is in its place with its own settings`,
    missing ? `${missing} ${missing === 1 ? "image" : "images"} could not be kept` : "",
  ].filter(Boolean).join("; ");
}

// --- the answer

async function askFile(file) {
  try { await guard(() => api.send("query", file)); } catch (error) {
    if (!(error instanceof api.Problem)) throw error;
    say(at("ask-problem"), error.message, file.name ? `${file.name}: ` : "");
  }
}

export async function ask() {
  if (asking) { askAgain = true; return; }
  at("ask-problem").hidden = true;
  if (query.isEmpty || !state.ready) { showAnswer(null); explanation = null; setExplanation(null); showWhy(null); return; }
  asking = true;
  at("ask-card").setAttribute("aria-busy", "true");
  try {
    const found = await guard(async () => api.send("query", await query.bytes()));
    if (found) {
      explanation = found.explanation;
      showAnswer(found.probabilities);
      showNode();
      setExplanation(explanation);
      showWhy(explanation);
    }
  } catch (error) {
    if (!(error instanceof api.Problem)) throw error;
    say(at("ask-problem"), error.message);
  } finally {
    asking = false;
    at("ask-card").removeAttribute("aria-busy");
    if (askAgain) { askAgain = false; ask(); } else if (at("starts").childElementCount) { clearTimeout(ask.later); ask.later = setTimeout(compare, 350); }
  }
}

function showAnswer(probabilities) {
  const place = at("answer");
  for (const { node } of pads.values()) node.classList.remove("answered");
  if (!probabilities) {
    const missing = !state?.ready ? "Teach two classes with an example each first." : "Draw or drop an image: the answer follows every stroke.";
    place.replaceChildren(element("p", { class: "hint" }, missing));
    return;
  }
  const all = Object.entries(probabilities), sorted = [...all].sort((a, b) => b[1] - a[1]);
  const listed = all.length <= 6 ? all : sorted.slice(0, 6);
  const rows = listed.map(([name, value]) => {
    const fill = element("span", { class: "fill" });
    fill.style.width = `${100 * value}%`;
    const teach = element("button", { type: "button", title: `Add this image to ${name}`, "aria-label": `Add this image to ${name}`, onclick: async () => add(state.classes.find((each) => each.name === name).id, [await query.bytes()]) }, "+", element("span", { class: "word" }, " add"));
    return element("div", { class: `row${name === sorted[0][0] ? " best" : ""}` }, fill, element("span", { class: "name", title: name }, name), element("span", { class: "value" }, percent(value)), teach);
  });
  const more = all.length - listed.length;
  const notes = [more > 0 ? `and ${more} less likely` : null, state.calibrated ? null : `not calibrated: ${state.settings.scope === "head" ? "no class has a second example" : "the whole network adapts"}`].filter(Boolean);
  place.replaceChildren(...rows, ...(notes.length ? [element("p", { class: "hint" }, notes.join("; "))] : []));
  const best = state.classes.find((each) => each.name === sorted[0][0]);
  pads.get(best?.id)?.node.classList.add("answered");
}

function showNode() {
  const node = at("start-node"), random = state.settings.random_head !== null;
  node.hidden = !random || !explanation;
  if (!node.hidden) node.replaceChildren(element("b", {}, `Interference ${signed(explanation.start)}`), ` from the random head (seed ${state.settings.random_head}): it comes from none of your images.`);
}

function showWhy(found) {
  const place = at("why-body"), table = at("table");
  showNode();
  if (!found) {
    place.replaceChildren(element("p", { class: "hint" }, "Ask about an image to see what pulled and what pushed."));
    table.replaceChildren();
    return;
  }
  const pulled = found.support.filter((row) => row.contribution > 0).reduce((sum, row) => sum + row.contribution, 0);
  const gap = found.difference - found.sum - found.start;
  const exact = found.exact
    ? [element("span", { class: "badge" }, "exact"), " The sum equals the difference of the logits", Math.abs(gap) > 5e-4 ? ` (rounding ${number(Math.abs(gap))})` : "", "."]
    : [element("span", { class: "badge" }, "approximate"), ` The encoder adapted too. With the encoder as it was, the difference would be ${fixed(found.difference - found.through_encoder)}: ${fixed(found.through_encoder)} of it came through the encoder, from all images together.`];
  place.replaceChildren(
    element("p", {}, "Why ", element("b", {}, found.label), " rather than ", element("b", {}, found.against), "? Blue pulls the answer towards ", element("b", {}, found.label), ", red and dashed pushes it away. Width is the contribution."),
    element("dl", { class: "sum", id: "sum" },
      element("dt", {}, element("span", { class: "swatch" }), "pulls"), element("dd", {}, fixed(pulled)),
      element("dt", {}, element("span", { class: "swatch push" }), "pushes"), element("dd", {}, fixed(found.sum - pulled)),
      ...(state.start === "zero" ? [] : [element("dt", {}, element("span", { class: "swatch start" }), state.start === "random" ? "random head" : "the head's start"), element("dd", {}, fixed(found.start))]),
      element("dt", { class: "total" }, "sum"), element("dd", { class: "total", id: "total" }, fixed(found.sum + found.start)),
      element("dt", {}, "logit difference"), element("dd", { id: "difference" }, fixed(found.difference))),
    element("p", { class: "hint" }, ...exact));
  const sorted = [...found.support].sort((a, b) => Math.abs(b.contribution) - Math.abs(a.contribution));
  const cell = (value) => element("td", { class: "number" }, value);
  table.replaceChildren(
    element("caption", { class: "hint" }, `${found.label} rather than ${found.against}: contribution = coefficient × similarity${found.exact ? "" : ", nearly, for the encoder adapted too"}. Similarity is the inner product of the features${state.bias ? ", plus 1 for the bias" : ""}.`),
    element("thead", {}, element("tr", {}, ...["Example", "Class"].map((text) => element("th", { scope: "col" }, text)), ...["Effect", "Coefficient", "Similarity", "Contribution"].map((text, k) => element("th", { scope: "col", class: k ? "number" : "" }, text)))),
    element("tbody", {}, ...sorted.map((row) => element("tr", {}, element("td", {}, element("img", { src: api.url(`thumbnails/${row.id}`), alt: document.querySelector(`.thumb[data-id="${row.id}"]`)?.dataset.label ?? "example", loading: "lazy" })), element("td", {}, row.label), element("td", {}, row.contribution === 0 ? "none" : row.contribution > 0 ? "pulls" : "pushes"), cell(number(row.coefficient)), cell(number(row.similarity)), cell(signed(row.contribution))))));
}

async function compare() {
  const button = at("compare"), place = at("starts");
  if (query.isEmpty || !state.ready) { place.replaceChildren(element("p", { class: "hint" }, "Ask about an image first.")); return; }
  button.disabled = true;
  const found = await change(() => api.send("starts", ""), at("ask-problem"));
  button.disabled = false;
  if (!found || !explanation) return;
  const items = found.rows.map((row) => element("li", { class: row.label === explanation.label ? "" : "other" },
    element("b", {}, `${row.label} ${percent(row.probability)}`), row.turn ? `classes shifted by ${row.turn}` : `seed ${row.seed}`));
  const others = found.rows.filter((row) => row.label !== explanation.label).length;
  const values = found.rows.map((row) => row.probability), range = `${percent(Math.min(...values))} to ${percent(Math.max(...values))}`;
  const sentence = found.random
    ? `With random heads of six seeds and other orders of the classes, ${others ? `${others} of ${found.rows.length} answers are another class` : "the class stays"}, at ${range}. None of that comes from your images.`
    : `A zeroed head has no seed, and its rows are alike: ${found.rows.length ? `in ${found.rows.length === 1 ? "another order" : `${found.rows.length} other orders`} of the classes ${others ? "the answer changes, which should not be" : `the answer is ${explanation.label}, at ${range}`}.` : "nothing about it is left to chance."}`;
  place.replaceChildren(element("p", {}, sentence), element("ol", {}, ...items));
}

// --- settings

const HEAD_HINTS = {
  zero: "The head starts at zero, so the answer is made of your images alone.",
  random: "The head starts at random numbers. What they add to the answer is the interference: the grey arrow.",
  own: "This model's head starts where it was trained to start, not at zero; what that adds to the answer is listed with the lines.",
};

function showSettings() {
  const now = state.settings, random = now.random_head !== null;
  document.querySelector(`input[name=head][value=${random ? "random" : "zero"}]`).checked = true;
  if (random && document.activeElement !== at("seed")) at("seed").value = now.random_head;
  at("seed-part").hidden = !random;
  at("head-hint").textContent = HEAD_HINTS[state.start];
  if (at("settings").contains(document.activeElement) && at("settings").dataset.models === String(state.models.length)) return updateValues();
  at("settings").dataset.models = state.models.length;
  const set = (key, read) => (event) => change(() => api.act("settings", { [key]: read(event.target) }), at("settings-problem")).then(() => updateValues());
  const row = (text, input, hint) => element("label", {}, text, input, element("span", { class: "hint" }, hint));
  const models = state.models.map((model) => element("option", { value: model.name }, `${model.channels === 1 ? "drawings" : "photographs"}: ${model.name}`));
  at("settings").replaceChildren(
    row("Model", element("select", { name: "model", onchange: set("model", (input) => input.value) }, ...models), "The encoder that was meta-trained before; it turns an image into features."),
    row("Inner steps", element("input", { name: "steps", type: "number", min: "1", max: "100", step: "1", onchange: set("steps", (input) => Number(input.value)) }), "How many gradient steps are taken on your examples. More steps fit them more closely."),
    row("Step size", element("input", { name: "lr", type: "number", min: "0.001", max: "10", step: "any", onchange: set("lr", (input) => Number(input.value)) }), "How far each step goes. Large steps give large logits and may overshoot."),
    row("What adapts", element("select", { name: "scope", onchange: set("scope", (input) => input.value) }, element("option", { value: "head" }, "the head alone"), element("option", { value: "all" }, "the whole network")), "With the head alone the lines explain everything. The whole network is slower, and the lines are an approximation unless the head starts at zero and takes one step; the page says by how much."));
  updateValues();
}

function updateValues() {
  const form = at("settings").elements;
  for (const key of ["model", "steps", "lr", "scope"]) if (form[key]) form[key].value = String(key === "lr" ? Number(state.settings.lr.toPrecision(6)) : state.settings[key]);
}
