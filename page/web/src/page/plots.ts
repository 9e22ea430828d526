/** Curves over the steps, and the histogram of a score beside chance. */

import type { Curves, Score } from "../source.ts";
import { el, svg } from "./dom.ts";
import { formatNumber } from "./words.ts";

const WIDTH = 360;
const HEIGHT = 190;
const EDGE = { left: 64, right: 10, top: 10, bottom: 36 };
/** Dashes tell lines apart for those who do not see their colors. */
const DASHES = ["", "7 3", "2 3", "8 3 2 3", "12 4", "1 4"];

/** A plot of lines; x runs from the first position, the noisiest step, to the last. */
export function curvePlot(curves: Curves): HTMLElement {
  const shown = curves.lines.flatMap((line) => line.y).filter(isNumber);
  if (curves.chance !== null) shown.push(curves.chance);
  const [low, high] = padded(shown);
  const [first = 0, last = 1] = [curves.x[0], curves.x.at(-1)];
  const x = (value: number) =>
    EDGE.left +
    (last === first ? 0.5 : (value - first) / (last - first)) * (WIDTH - EDGE.left - EDGE.right);
  const y = scaleUp(low, high);
  const parts: SVGElement[] = axes(curves.x_label, curves.y_label);
  for (const value of [low, (low + high) / 2, high]) {
    parts.push(
      svg("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(value), y2: y(value) }),
      text(EDGE.left - 5, y(value) + 4, formatNumber(value), "end"),
    );
  }
  parts.push(
    text(EDGE.left, HEIGHT - 21, formatNumber(first), "start"),
    text(WIDTH - EDGE.right, HEIGHT - 21, formatNumber(last), "end"),
  );
  if (curves.chance !== null) {
    const at = y(curves.chance);
    parts.push(svg("line", { class: "chance", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: at, y2: at }));
  }
  curves.lines.forEach((line, number) => {
    for (const run of runsOf(line.y)) {
      const [alone, second] = run;
      if (alone && !second) {
        const [cx, cy] = [x(curves.x[alone[0]] ?? 0), y(alone[1])];
        parts.push(svg("circle", { class: `line line-${number % DASHES.length}`, cx, cy, r: 2.5 }));
        continue;
      }
      const points = run.map(([at, value]) => `${x(curves.x[at] ?? 0)},${y(value)}`).join(" ");
      const place = { class: `line line-${number % DASHES.length}`, points };
      parts.push(svg("polyline", { ...place, "stroke-dasharray": DASHES[number % DASHES.length] ?? "" }));
    }
  });
  const legend = curves.lines.map((line, number) =>
    el("li", {}, sampleLine(`line line-${number % DASHES.length}`, DASHES[number % DASHES.length] ?? ""), line.name),
  );
  if (curves.chance !== null) legend.push(el("li", {}, sampleLine("chance", "4 3"), "chance"));
  return el(
    "figure",
    { class: "plot" },
    el("figcaption", {}, curves.title),
    chart(describe(curves), parts),
    el("ul", { class: "legend" }, ...legend),
  );
}

/** From how many samples on it says something how they are spread. */
const SPREAD_FROM = 6;

/** How the samples' values of a score are spread, beside chance; null if there are too few to say. */
export function histogram(score: Score, values: readonly number[]): HTMLElement | null {
  if (values.length < SPREAD_FROM) return null;
  const [low, high] = padded(score.chance === null ? values : [...values, score.chance]);
  const bins = Math.min(20, Math.max(6, Math.ceil(Math.sqrt(values.length) * 1.5)));
  const counts = new Array<number>(bins).fill(0);
  for (const value of values) {
    const bin = Math.min(bins - 1, Math.floor(((value - low) / (high - low)) * bins));
    counts[bin] = (counts[bin] ?? 0) + 1;
  }
  const most = Math.max(...counts);
  const [left, width, floor, height] = [4, 252, 92, 70];
  const parts: SVGElement[] = counts.map((count, bin) =>
    svg("rect", {
      class: "bin",
      x: left + (bin * width) / bins + 1,
      width: width / bins - 2,
      y: floor - (count / most) * height,
      height: (count / most) * height,
    }),
  );
  parts.push(
    svg("line", { class: "axis", x1: left, x2: left + width, y1: floor, y2: floor }),
    text(left, 108, formatNumber(low), "start"),
    text(left + width, 108, formatNumber(high), "end"),
  );
  if (score.chance !== null) {
    const at = left + ((score.chance - low) / (high - low)) * width;
    parts.push(
      svg("line", { class: "chance", x1: at, x2: at, y1: 17, y2: floor }),
      text(Math.min(Math.max(at, 38), 222), 12, `chance ${formatNumber(score.chance)}`, "middle"),
    );
  }
  const median = [...values].sort((one, other) => one - other)[values.length >> 1];
  const chance = score.chance === null ? "" : `; chance is ${formatNumber(score.chance)}`;
  const [least, highest] = [Math.min(...values), Math.max(...values)].map(formatNumber);
  return el(
    "figure",
    { class: "plot histogram" },
    el("figcaption", {}, score.title),
    chart(
      `${score.title}: ${values.length} samples from ${least} to ${highest}, median ${formatNumber(median)}${chance}`,
      parts,
      [260, 112],
    ),
  );
}

function chart(
  label: string,
  parts: readonly SVGElement[],
  [width, height]: readonly [number, number] = [WIDTH, HEIGHT],
): SVGElement {
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, ...parts);
}

function sampleLine(kind: string, dashes: string): SVGElement {
  const line = svg("line", { class: kind, x1: 0, x2: 28, y1: 5, y2: 5, "stroke-dasharray": dashes });
  return svg("svg", { viewBox: "0 0 28 10", class: "key", "aria-hidden": "true" }, line);
}

function axes(xLabel: string, yLabel: string): SVGElement[] {
  const [middleX, middleY] = [(EDGE.left + WIDTH - EDGE.right) / 2, (HEIGHT - EDGE.bottom + EDGE.top) / 2];
  const turned = text(11, middleY, yLabel, "middle");
  turned.setAttribute("transform", `rotate(-90 11 ${middleY})`);
  return [text(middleX, HEIGHT - 6, xLabel, "middle"), turned];
}

function text(x: number, y: number, words: string, anchor: string): SVGElement {
  return svg("text", { x, y, "text-anchor": anchor }, words);
}

function scaleUp(low: number, high: number): (value: number) => number {
  return (value) =>
    HEIGHT - EDGE.bottom - ((value - low) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
}

/** The lowest and highest of some values; a range around one alone. */
function padded(values: readonly number[]): [number, number] {
  if (!values.length) return [0, 1];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = high > low ? 0 : Math.max(Math.abs(high) * 0.1, 1e-6);
  return [low - room, high + room];
}

/** The stretches of a line that have values. */
function runsOf(values: readonly (number | null)[]): [number, number][][] {
  const runs: [number, number][][] = [[]];
  values.forEach((value, at) => {
    if (isNumber(value)) runs.at(-1)?.push([at, value]);
    else runs.push([]);
  });
  return runs.filter((run) => run.length > 0);
}

function describe(curves: Curves): string {
  const lines = curves.lines.map((line) => {
    const known = line.y.filter(isNumber);
    return known.length
      ? `${line.name} from ${formatNumber(known[0])} to ${formatNumber(known.at(-1))}`
      : `${line.name} without values`;
  });
  return `${curves.title}, ${curves.y_label} over ${curves.x_label}: ${lines.join("; ")}`;
}

function isNumber(value: number | null | undefined): value is number {
  return value !== null && value !== undefined && Number.isFinite(value);
}
