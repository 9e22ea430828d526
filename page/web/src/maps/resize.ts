/**
 * Bicubic resizing of maps, number for number as `analysis/kernel/resize.py` does it.
 *
 * Cubic convolution with a = -0.75, half-pixel centres, edges repeated, no antialiasing. It is
 * separable: each line of the result is made of four lines of the map.
 */

const CUBIC_A = -0.75;

export type Grid = readonly [height: number, width: number];

/** Of each wanted position of a line, four positions and their weights, flat. */
interface Line {
  readonly at: Int32Array;
  readonly weight: Float64Array;
}

const lines = new Map<string, Line>();

function cubicLine(size: number, wanted: number): Line {
  const key = `${size}>${wanted}`;
  const known = lines.get(key);
  if (known) return known;
  const line = { at: new Int32Array(4 * wanted), weight: new Float64Array(4 * wanted) };
  for (let place = 0; place < wanted; place++) {
    const centre = ((place + 0.5) * size) / wanted - 0.5;
    const first = Math.floor(centre);
    for (let tap = 0; tap < 4; tap++) {
      const own = first + tap - 1;
      line.at[4 * place + tap] = Math.min(Math.max(own, 0), size - 1);
      line.weight[4 * place + tap] = cubic(Math.abs(centre - own));
    }
  }
  lines.set(key, line);
  return line;
}

function cubic(distance: number): number {
  if (distance <= 1) {
    return ((CUBIC_A + 2) * distance - (CUBIC_A + 3)) * distance ** 2 + 1;
  }
  return distance < 2 ? CUBIC_A * (((distance - 5) * distance + 8) * distance - 4) : 0;
}

/** A map on another grid; the same array if the grid is the same. Frames lie above one another. */
export function resize(map: Float32Array, own: Grid, wanted: Grid, frames = 1): Float32Array {
  if (own[0] === wanted[0] && own[1] === wanted[1]) return map;
  const [height, width] = [own[0] / frames, own[1]];
  const [newHeight, newWidth] = [wanted[0] / frames, wanted[1]];
  const [rows, columns] = [cubicLine(height, newHeight), cubicLine(width, newWidth)];
  const wide = weigh(map, own[0], columns, { from: [width, 1], to: [newWidth, 1] });
  const resized = new Float32Array(wanted[0] * wanted[1]);
  for (let frame = 0; frame < frames; frame++) {
    const part = wide.subarray(frame * height * newWidth, (frame + 1) * height * newWidth);
    const found = weigh(part, newWidth, rows, { from: [1, newWidth], to: [1, newWidth] });
    resized.set(found, frame * newHeight * newWidth);
  }
  return resized;
}

/** Add a flat map, resized to a grid and clamped at 0, to sums. */
export function addResized(
  sums: Float64Array,
  map: Float32Array,
  own: Grid,
  wanted: Grid,
  frames: number,
): void {
  const resized = resize(map, own, wanted, frames);
  for (let at = 0; at < sums.length; at++) {
    const value = resized[at] ?? 0;
    if (value > 0) sums[at] = (sums[at] ?? 0) + value;
  }
}

/** The grid with the most positions; the first of several. */
export function largestGrid(grids: readonly Grid[]): Grid {
  return grids.reduce((best, grid) => (grid[0] * grid[1] > best[0] * best[1] ? grid : best));
}

interface Strides {
  /** From one line to the next, and from one position of it to the next. */
  readonly from: readonly [number, number];
  readonly to: readonly [number, number];
}

function weigh(map: Float32Array, count: number, line: Line, strides: Strides): Float32Array {
  const wanted = line.at.length / 4;
  const found = new Float32Array(count * wanted);
  const [fromLine, fromNext] = strides.from;
  const [toLine, toNext] = strides.to;
  for (let number = 0; number < count; number++) {
    for (let place = 0; place < wanted; place++) {
      let sum = 0;
      for (let tap = 4 * place; tap < 4 * place + 4; tap++) {
        const at = number * fromLine + (line.at[tap] ?? 0) * fromNext;
        sum += (line.weight[tap] ?? 0) * (map[at] ?? 0);
      }
      found[number * toLine + place * toNext] = sum;
    }
  }
  return found;
}
