// Small charts as SVG.

import { drawn } from "./format.js";

const LEFT = 56, BOTTOM = 26, TOP = 10, RIGHT = 12;

function axes(width, height, most, ticks, words) {
  const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - (value - ticks[0]) / (ticks.at(-1) - ticks[0]));
  const x = (update) => LEFT + (width - LEFT - RIGHT) * update / most;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words });
  for (const tick of ticks) {
    svg.append(drawn("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }));
    svg.append(drawn("text", { x: LEFT - 8, y: y(tick) + 5, "text-anchor": "end" }, `${Math.round(100 * tick)} %`.replace("-", "−")));
  }
  for (const share of [0, 0.5, 1]) svg.append(drawn("text", { x: x(most * share), y: height - 6, "text-anchor": share === 0 ? "start" : share === 1 ? "end" : "middle" }, share === 1 ? `update ${Math.round(most)}` : String(Math.round(most * share))));
  return { svg, x, y };
}

export const span = (records) => Math.max(50, Math.ceil((records.at(-1)?.update ?? 0) / 50) * 50);

function thinned(records) {
  const every = Math.max(1, Math.floor(records.length / 400));
  return records.filter((_, k) => k % every === 0 || k === records.length - 1);
}

export function lineChart(place, records, heads, words) {
  const width = Math.max(300, place.clientWidth), { svg, x, y } = axes(width, 230, span(records), [0, 0.25, 0.5, 0.75, 1], words);
  for (const head of heads) {
    const points = thinned(records).map((record) => `${x(record.update).toFixed(1)},${y(record[head].accuracy).toFixed(1)}`);
    svg.append(drawn("polyline", { class: head, points: points.join(" ") }));
  }
  place.replaceChildren(svg);
}

// Shares that sum to 1; one that works against the gradient is drawn below zero.
export function shareChart(place, records, head, parts, words) {
  const width = Math.max(260, place.clientWidth), { svg, x, y } = axes(width, 180, span(records), [-0.5, 0, 0.5, 1, 1.5], words);
  const kept = thinned(records);
  if (kept.length > 1) {
    let above = kept.map(() => 0), below = kept.map(() => 0);
    for (const part of parts) {
      const high = [], low = [];
      kept.forEach((record, k) => {
        const value = record[head][part];
        const base = value >= 0 ? above[k] : below[k];
        const edge = Math.max(-0.5, Math.min(1.5, base + value));
        high.push(`${x(record.update).toFixed(1)},${y(edge).toFixed(1)}`);
        low.unshift(`${x(record.update).toFixed(1)},${y(base).toFixed(1)}`);
        if (value >= 0) above[k] = edge; else below[k] = edge;
      });
      svg.append(drawn("polygon", { class: part, points: [...high, ...low].join(" ") }));
    }
  }
  place.replaceChildren(svg);
}
