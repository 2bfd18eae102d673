// The tab on which two models meta-train.

import * as api from "./api.js";
import { lineChart, shareChart } from "./charts.js";
import { drawn, element, percent, number } from "./format.js";

const at = (id) => document.getElementById(id), HEADS = ["random", "zeroed"], PARTS = ["contrast", "interference", "rest"];
const NAMES = { contrast: "contrast", interference: "interference", rest: "the rest" };
let records = [], latest = null, generation = -1, playing = false, running = false, guard = (work) => work(), frame = 0;

export function begin(guarded) {
  guard = guarded;
  at("play").addEventListener("click", () => control(playing ? "pause" : "play"));
  at("step").addEventListener("click", () => control("step"));
  at("reset").addEventListener("click", () => control("reset", { seed: Number(at("watch-seed").value) }));
  at("watch-seed").addEventListener("change", () => control("reset", { seed: Number(at("watch-seed").value) }));
  at("speed").addEventListener("input", () => { at("speed-value").textContent = `${at("speed").value} a second`; });
  at("speed").addEventListener("change", () => control("speed", { speed: Number(at("speed").value) }));
  for (const head of HEADS) {
    at(`watch-${head}`).append(
      element("h3", {}, "What the encoder’s gradient is made of"),
      element("div", { class: "legend" }, ...PARTS.map((part) => element("span", { class: `block ${part}` }, NAMES[part], " ", element("b", { "data-share": part })))),
      element("div", { class: "chart", "data-chart": head }),
      element("h3", {}, "One test task: what acts on the query’s features"),
      element("div", { class: "task", "data-task": head }),
      element("p", { class: "hint" }, head === "random" ? "Blue pulls, red and dashed pushes. With a random head the query’s own class may pull weakly, and another one may pull." : "Blue pulls, red and dashed pushes. With a zeroed head the query’s own class pulls, the others push."),
      element("h3", {}, "Similarity of classes: query (rows) with support (columns)"),
      element("div", { class: "map", "data-map": head, role: "img" }));
  }
  new ResizeObserver(() => paint()).observe(at("watch"));
}

// Polls while the tab is shown.
export async function follow() {
  if (running) return;
  running = true;
  while (!at("watch").hidden && !document.hidden) {
    try {
      take(await guard(() => api.get(`watch?generation=${generation}&since=${records.at(-1)?.update ?? -1}`)));
    } catch (error) {
      if (!(error instanceof api.Problem)) { running = false; throw error; }
      problem(error.message);
      await new Promise((done) => setTimeout(done, 1000));
    }
  }
  running = false;
}

async function control(wish, given = {}) {
  try { take(await guard(() => api.send("watch", JSON.stringify({ do: wish, ...given })))); problem(""); } catch (error) {
    if (!(error instanceof api.Problem)) throw error;
    problem(error.message);
  }
}

function problem(sentence) {
  at("watch-problem").textContent = sentence ? sentence[0].toUpperCase() + sentence.slice(1) + "." : "";
  at("watch-problem").hidden = !sentence;
}

function take(found) {
  if (!found) return;
  if (found.generation !== generation) { records = []; latest = null; generation = found.generation; at("watch-seed").value = found.seed; }
  const last = records.at(-1)?.update ?? -1;
  records.push(...found.records.filter((record) => record.update > last));
  if (found.latest) latest = found.latest;
  playing = found.playing;
  if (found.problem) problem(found.problem);
  at("play").textContent = playing ? "Pause" : "Play";
  at("play").setAttribute("aria-pressed", String(playing));
  const update = records.at(-1)?.update;
  const full = update >= found.limit;
  at("play").disabled = at("step").disabled = full;
  at("update").textContent = update === undefined ? "preparing the characters…" : full ? `update ${update}, the last: reset to start again` : `update ${update}`;
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(paint);
}

function paint() {
  if (at("watch").hidden) return;
  const now = records.at(-1);
  lineChart(at("accuracy"), records, HEADS, now ? `Accuracy after ${now.update} updates: random head ${percent(now.random.accuracy)}, zeroed head ${percent(now.zeroed.accuracy)}` : "Accuracy");
  for (const head of HEADS) {
    const card = at(`watch-${head}`);
    if (now) for (const part of PARTS) card.querySelector(`[data-share=${part}]`).textContent = percent(now[head][part]).replace("-", "−");
    shareChart(card.querySelector(`[data-chart=${head}]`), records, head, PARTS, now ? PARTS.map((part) => `${NAMES[part]} ${percent(now[head][part])}`).join(", ") : "Shares of the gradient");
    if (latest) { paintTask(card.querySelector(`[data-task=${head}]`), latest[head].weights); paintMap(card.querySelector(`[data-map=${head}]`), latest[head].map); }
  }
}

function paintTask(place, weights) {
  const width = Math.max(250, Math.min(416, place.clientWidth)), column = width - 150, middle = 133;
  const svg = drawn("svg", { viewBox: `0 0 ${width} 266`, role: "img", "aria-label": weights.map((weight, k) => `class ${k + 1} ${weight < 0 ? "pulls" : "pushes"} ${number(Math.abs(weight))}`).join(", ") });
  const image = (name, x, y, side) => svg.append(drawn("rect", { x: x - 1, y: y - 1, width: side + 2, height: side + 2, rx: 4 }), drawn("image", { href: api.url(`watch/${name}`), x, y, width: side, height: side }));
  weights.forEach((weight, k) => {
    const y = 27 + 53 * k, half = (76 + column) / 2;
    svg.append(drawn("path", { class: weight < 0 ? "pull" : "push", "stroke-width": Math.max(0.6, 12 * Math.min(1, Math.abs(weight))), d: `M76 ${middle}C${half} ${middle} ${half} ${y} ${column - 2} ${y}` }));
    image(`support-${k}`, column, y - 22, 44);
    svg.append(drawn("text", { x: column + 54, y: y + 5 }, `${weight < 0 ? "pulls" : "pushes"} ${Math.abs(weight).toFixed(2)}`));
  });
  image("query", 4, middle - 35, 70);
  svg.append(drawn("text", { x: 4, y: middle - 44 }, "query"));
  place.replaceChildren(svg);
}

function paintMap(place, map) {
  const cells = [element("span", {})];
  for (let k = 0; k < map.length; k++) cells.push(element("span", {}, element("img", { src: api.url(`watch/support-${k}`), alt: `class ${k + 1}` })));
  map.forEach((row, k) => {
    cells.push(element("span", {}, element("img", { src: api.url(`watch/support-${k}`), alt: `class ${k + 1}` })));
    for (const value of row) {
      const cell = element("span", {}, value.toFixed(2).replace("-", "−")), strength = Math.max(0, Math.min(1, value));
      cell.style.background = `color-mix(in srgb, var(--contrast) calc(${strength.toFixed(2)} * var(--strongest)), var(--card))`;
      cells.push(cell);
    }
  });
  place.setAttribute("aria-label", `Mean cosine similarity: ${map.map((row, k) => `query class ${k + 1}: ${row.map((value) => value.toFixed(2)).join(" ")}`).join("; ")}`);
  place.replaceChildren(...cells);
}
