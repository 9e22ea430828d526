/** Maps as planes of numbers: their range and mean, and where their cells lie on an image. */

import type { Box, Plane } from "../source.ts";

export interface Summary {
  readonly low: number;
  readonly high: number;
  readonly mean: number;
}

/** The lowest, highest and mean value of those that are numbers; NaN each if there is none. */
export function summarise(plane: Plane): Summary {
  let [low, high, sum, count] = [Infinity, -Infinity, 0, 0];
  for (const value of plane.values) {
    if (!Number.isFinite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
    sum += value;
    count += 1;
  }
  return count ? { low, high, mean: sum / count } : { low: NaN, high: NaN, mean: NaN };
}

/** The mean of maps of one size, place by place, of those that have a value there. */
export function meanOf(planes: readonly Plane[]): Plane {
  const first = planes[0];
  if (!first) throw new Error("Expected at least one map, got none, at meanOf.");
  const { height, width } = first;
  const sums = new Float64Array(height * width);
  const counts = new Float64Array(height * width);
  for (const { values } of planes) {
    for (let at = 0; at < sums.length; at++) {
      const value = values[at] ?? NaN;
      if (Number.isNaN(value)) continue;
      sums[at] = (sums[at] ?? 0) + value;
      counts[at] = (counts[at] ?? 0) + 1;
    }
  }
  return { height, width, values: Float32Array.from(sums, (sum, at) => sum / (counts[at] ?? 0)) };
}

/** The row and column of the cell, of a grid over the box, that holds a pixel; null outside the box. */
export function cellAt(
  grid: readonly [number, number],
  box: Box,
  y: number,
  x: number,
): readonly [number, number] | null {
  const [y0, x0, y1, x1] = box;
  // A pixel covers one position to the next: one that the box cuts belongs to it.
  if (y >= y1 || x >= x1 || y + 1 <= y0 || x + 1 <= x0) return null;
  const row = Math.floor(((Math.max(y, y0) - y0) * grid[0]) / (y1 - y0));
  const column = Math.floor(((Math.max(x, x0) - x0) * grid[1]) / (x1 - x0));
  return [Math.min(row, grid[0] - 1), Math.min(column, grid[1] - 1)];
}

/** The box of one cell, in pixels of the image. */
export function boxOfCell(
  grid: readonly [number, number],
  box: Box,
  cell: readonly [number, number],
): Box {
  const [y0, x0, y1, x1] = box;
  const [height, width] = [(y1 - y0) / grid[0], (x1 - x0) / grid[1]];
  return [
    y0 + cell[0] * height,
    x0 + cell[1] * width,
    y0 + (cell[0] + 1) * height,
    x0 + (cell[1] + 1) * width,
  ];
}

/** The cell with the highest value; null if there is no value. */
export function peakOf(plane: Plane): readonly [number, number] | null {
  let best = -1;
  plane.values.forEach((value, at) => {
    if (Number.isFinite(value) && (best < 0 || value > (plane.values[best] ?? 0))) best = at;
  });
  return best < 0 ? null : [Math.floor(best / plane.width), best % plane.width];
}

/** What is drawn of an image: its pixels, and beyond them where the box reaches. */
export function frameOf(size: readonly [number, number], box: Box): Box {
  return [
    Math.min(0, Math.floor(box[0])),
    Math.min(0, Math.floor(box[1])),
    Math.max(size[0], Math.ceil(box[2])),
    Math.max(size[1], Math.ceil(box[3])),
  ];
}

/** A map resized bilinearly to its box on a canvas that shows a frame; NaN outside the box. */
export function place(
  plane: Plane,
  canvas: readonly [number, number],
  frame: Box,
  box: Box,
): Float32Array {
  const rows = taps(canvas[0], [frame[0], frame[2]], [box[0], box[2]], plane.height);
  const columns = taps(canvas[1], [frame[1], frame[3]], [box[1], box[3]], plane.width);
  const placed = new Float32Array(canvas[0] * canvas[1]).fill(NaN);
  rows.forEach((row, y) => {
    if (!row) return;
    const [above, below] = [row.first * plane.width, row.second * plane.width];
    columns.forEach((column, x) => {
      if (!column) return;
      const { first, second, share } = column;
      const { values } = plane;
      const top = mix(values[above + first], values[above + second], share);
      const bottom = mix(values[below + first], values[below + second], share);
      placed[y * canvas[1] + x] = mix(top, bottom, row.share);
    });
  });
  return placed;
}

function mix(first = NaN, second = NaN, share: number): number {
  return share === 0 ? first : first + (second - first) * share;
}

interface Tap {
  readonly first: number;
  readonly second: number;
  readonly share: number;
}

/** Of each canvas pixel, the two cells that its centre lies between; null outside the box. */
function taps(
  count: number,
  shown: readonly [number, number],
  box: readonly [number, number],
  cells: number,
): (Tap | null)[] {
  return Array.from({ length: count }, (_, at) => {
    const pixel = shown[0] + ((at + 0.5) * (shown[1] - shown[0])) / count;
    const share = (pixel - box[0]) / (box[1] - box[0]);
    if (share < 0 || share >= 1) return null;
    const cell = Math.min(Math.max(share * cells - 0.5, 0), cells - 1);
    const first = Math.floor(cell);
    return { first, second: Math.min(first + 1, cells - 1), share: cell - first };
  });
}
