// The lines from the query to every example, and what one says when it is pointed at.

import { drawn, element, number, signed } from "./format.js";
import { url } from "./api.js";

const WIDEST = 11, SEEN = 0.012;
const stage = document.getElementById("stage"), layer = document.getElementById("lines"), tip = document.getElementById("tip");
let rows = [], curves = [], shown = null, start = 0, names = ["", ""];

export function setExplanation(explanation) {
  shown = explanation;
  rows = explanation ? explanation.support : [];
  start = explanation ? explanation.start : 0;
  names = explanation ? [explanation.label, explanation.against] : names;
  const largest = Math.max(1e-12, Math.abs(start), ...rows.map((row) => Math.abs(row.contribution)));
  for (const thumb of document.querySelectorAll(".thumb")) {
    const row = rows.find((each) => each.id === thumb.dataset.id);
    const strong = row && Math.abs(row.contribution) > SEEN * largest;
    thumb.classList.toggle("pull", Boolean(strong && row.contribution > 0));
    thumb.classList.toggle("push", Boolean(strong && row.contribution < 0));
    thumb.setAttribute("aria-label", row ? `${thumb.dataset.label}: ${spoken(row)}` : thumb.dataset.label);
  }
  draw();
}

const effect = (row) => row.contribution === 0 ? `does nothing for or against ${names[0]}` : `${row.contribution > 0 ? "pulls towards" : "pushes away from"} ${names[0]}`;
const spoken = (row) => `${effect(row)}, contribution ${signed(row.contribution)}`;

export function draw() {
  const board = document.querySelector("#query-pad canvas");
  if (!board) return;
  const frame = stage.getBoundingClientRect(), query = board.getBoundingClientRect();
  const narrow = matchMedia("(max-width: 700px)").matches;
  const card = document.getElementById("ask-card").getBoundingClientRect();
  const from = narrow ? [card.left + 14, card.bottom] : [query.right + 4, query.top + query.height / 2];
  const origin = [from[0] - frame.left, from[1] - frame.top];
  const largest = Math.max(1e-12, Math.abs(start), ...rows.map((row) => Math.abs(row.contribution)));
  curves = [];
  const pieces = [];
  for (const row of rows) {
    const thumb = document.querySelector(`.thumb[data-id="${row.id}"]`);
    const share = Math.abs(row.contribution) / largest;
    if (!thumb || share < SEEN) continue;
    const box = thumb.getBoundingClientRect();
    const end = [box.left - frame.left, box.top + box.height / 2 - frame.top];
    const path = drawn("path", { d: curve(origin, end, narrow), class: row.contribution > 0 ? "pull" : "push", "stroke-width": Math.max(0.8, WIDEST * share).toFixed(2), "data-id": row.id });
    pieces.push(path);
    curves.push({ row, path });
  }
  const node = document.getElementById("start-node");
  if (start && !node.hidden) {
    const box = node.getBoundingClientRect();
    const end = [box.left - frame.left - 10, box.top + box.height / 2 - frame.top];
    const width = Math.max(1.5, WIDEST * Math.abs(start) / largest);
    pieces.push(drawn("path", { d: curve(origin, end, narrow), class: "start", "stroke-width": width.toFixed(2) }));
    const [x, y] = end, w = 5 + width / 2;
    pieces.push(drawn("polygon", { points: `${x - 2},${y - w} ${x - 2},${y + w} ${x + 10},${y}` }));
  }
  layer.replaceChildren(...pieces);
}

// From the side of the board; on a narrow screen down a gutter, so that no text is crossed.
function curve([x, y], [u, v], narrow) {
  if (narrow) return `M${x} ${y}V${Math.max(y, v - 60)}C${x} ${v} ${x} ${v} ${u} ${v}`;
  const half = (u - x) / 2;
  return `M${x} ${y}C${x + half} ${y} ${u - half} ${v} ${u} ${v}`;
}

// The nearest line to the pointer, found by geometry: a line never takes a click from what lies below it.
function nearest(x, y) {
  const frame = stage.getBoundingClientRect();
  let best = null, distance = 9;
  for (const { row, path } of curves) {
    const length = path.getTotalLength();
    for (let at = 0; at <= length; at += 7) {
      const point = path.getPointAtLength(at), d = Math.hypot(point.x + frame.left - x, point.y + frame.top - y);
      if (d < distance) { distance = d; best = row; }
    }
  }
  return best;
}

export function showTip(row, x, y) {
  layer.classList.toggle("focus", Boolean(row));
  for (const each of curves) each.path.classList.toggle("on", each.row === row);
  tip.hidden = !row;
  if (!row) return;
  const pulls = row.contribution > 0;
  tip.replaceChildren(element("div", { class: "inner" },
    element("img", { src: url(`thumbnails/${row.id}`), alt: "" }),
    element("div", {}, element("b", { class: pulls ? "pull" : "push" }, effect(row))),
    element("div", {}, `example of ${row.label}`),
    element("div", {}, `coefficient ${number(row.coefficient)}`),
    element("div", {}, `× similarity ${number(row.similarity)}`),
    element("div", {}, element("b", {}, `${shown.exact ? "=" : "≈"} contribution ${signed(row.contribution)}`))));
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - box.width - 8))}px`;
  tip.style.top = `${y + 18 + box.height > innerHeight ? Math.max(8, y - box.height - 14) : y + 18}px`;
}

export function rowOf(id) { return rows.find((row) => row.id === id) ?? null; }

let waiting = 0;
stage.addEventListener("pointermove", (event) => {
  if (event.pointerType === "touch" || event.buttons || event.target.closest("canvas, .tip")) return;
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(() => {
    const thumb = event.target.closest?.(".thumb");
    showTip(thumb ? rowOf(thumb.dataset.id) : nearest(event.clientX, event.clientY), event.clientX, event.clientY);
  });
});
stage.addEventListener("pointerleave", () => { cancelAnimationFrame(waiting); showTip(null); });
addEventListener("keydown", (event) => { if (event.key === "Escape") showTip(null); });
new ResizeObserver(draw).observe(stage);
addEventListener("resize", draw);
addEventListener("scroll", () => showTip(null), { passive: true });
