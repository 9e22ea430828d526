/**
 * The attention of one patch, from Q and K: what `i2am.analysis.sram` returns, as estimates that get better.
 *
 * Each layer is read by chunks of steps, the first ones far apart; a pass reads as many chunks of every
 * layer, and gives an estimate in which each layer has the weight that it has in the end.
 */

import { addResized, largestGrid, type Grid } from "../maps/resize.ts";
import type { Absent, SramEstimate } from "../source.ts";
import type { Layer } from "./layers.ts";
import { factoredLogits, softmaxRow, storedLogits } from "./softmax.ts";

export interface SramRequest {
  readonly layers: readonly Layer[];
  /** Whether a place of the reference was asked about, and the answer lies on the generated image. */
  readonly fromReference: boolean;
  /** Where it lies in the box, from its corner, and the height and width of the box: in pixels. */
  readonly place: readonly [y: number, x: number];
  readonly boxSize: readonly [height: number, width: number];
  /** Positions of the steps, ascending. */
  readonly steps: readonly number[];
  /** The label of one head; null for all. */
  readonly head: number | null;
}

/** Yield better and better estimates; the last one has the share 1. */
export async function* liveSram(
  request: SramRequest,
  signal: AbortSignal,
): AsyncGenerator<SramEstimate | Absent> {
  const grid = largestGrid(request.layers.map((layer) => mapGrid(layer, request.fromReference)));
  const unfit = request.layers.find((layer) => request.fromReference && grid[0] % layer.frames);
  if (unfit) {
    yield { absent: `The frames of ${unfit.name} do not fit into the common grid: choose a layer.` };
    return;
  }
  const layers = request.layers.map((layer, at) => new LayerSram(layer, request, grid, at));
  const batches = Math.max(...layers.map((layer) => layer.batches.length));
  // The first estimate is there soon; after that each one takes as much as all before it.
  for (let begin = 0, end = 1; begin < batches; [begin, end] = [end, 2 * end]) {
    const numbers = Array.from({ length: end - begin }, (_, at) => begin + at);
    await Promise.all(
      layers.flatMap((layer) => numbers.map((number) => layer.readBatch(number, signal))),
    );
    signal.throwIfAborted();
    yield estimate(layers, grid);
  }
}

function mapGrid(layer: Layer, fromReference: boolean): Grid {
  return (fromReference ? layer.own.generated_grid : layer.own.reference_grid) ?? [1, 1];
}

/** The mean over layers, steps and heads, as if all steps of a layer were like those that were read. */
function estimate(layers: readonly LayerSram[], grid: Grid): SramEstimate {
  const sums = new Float64Array(grid[0] * grid[1]);
  let [count, done, all] = [0, 0, 0];
  for (const layer of layers) {
    const weight = layer.steps / layer.stepsDone;
    count += layer.maps * weight;
    [done, all] = [done + layer.stepsDone, all + layer.steps];
    for (let at = 0; at < sums.length; at++) {
      sums[at] = (sums[at] as number) + (layer.sums[at] as number) * weight;
    }
  }
  const values = Float32Array.from(sums, (sum) => sum / count);
  return { plane: { height: grid[0], width: grid[1], values }, share: done / all };
}

/** One layer: the sum of its maps over the steps that were read. */
class LayerSram {
  readonly batches: readonly (readonly number[])[];
  readonly steps: number;
  readonly sums: Float64Array;
  stepsDone = 0;
  /** How many maps are in the sums. */
  maps = 0;
  readonly #layer: Layer;
  readonly #request: SramRequest;
  readonly #grid: Grid;
  /** The row of the softmax's matrix that holds the place. */
  readonly #row: number;
  /** The positions of the heads, as a range. */
  readonly #heads: readonly [number, number];

  constructor(layer: Layer, request: SramRequest, grid: Grid, offset: number) {
    [this.#layer, this.#request, this.#grid] = [layer, request, grid];
    const { own } = layer;
    const [height, width] = (request.fromReference ? own.reference_grid : own.generated_grid) ?? [1, 1];
    const { place, boxSize } = request;
    const row = Math.floor((place[0] * height) / boxSize[0]);
    const column = Math.floor((place[1] * width) / boxSize[1]);
    const special = request.fromReference ? own.special_tokens : 0;
    this.#row = special + Math.min(row, height - 1) * width + Math.min(column, width - 1);
    const head = request.head === null ? -1 : layer.heads.indexOf(request.head);
    this.#heads = head < 0 ? [0, layer.heads.length] : [head, head + 1];
    this.batches = vanDerCorputOrder(request.steps, layer.stepChunk, offset);
    this.steps = request.steps.length;
    this.sums = new Float64Array(grid[0] * grid[1]);
  }

  /** Read one more chunk of steps, if there is one. */
  async readBatch(number: number, signal: AbortSignal): Promise<void> {
    const steps = this.batches[number];
    const [first, last] = [steps?.[0], steps?.at(-1)];
    if (!steps || first === undefined || last === undefined) return;
    const maps = await this.#maps([first, last + 1], signal);
    signal.throwIfAborted();
    const { own, frames } = this.#layer;
    const { fromReference } = this.#request;
    const special = fromReference ? 0 : own.special_tokens;
    const from = mapGrid(this.#layer, fromReference);
    for (const map of maps) {
      if (!Number.isFinite(map.reduce((sum, value) => sum + value, 0))) {
        throw new Error(
          `Expected finite values, got others, at steps ${first} to ${last} of ${this.#layer.name}. ` +
            "The model itself had none there: run i2am validate.",
        );
      }
      addResized(this.sums, map.subarray(special), from, this.#grid, fromReference ? frames : 1);
    }
    this.maps += maps.length;
    this.stepsDone += steps.length;
  }

  /** The softmax of the row, of each step and head. */
  async #maps(step: readonly [number, number], signal: AbortSignal): Promise<Float32Array[]> {
    return this.#request.fromReference ? this.#toPatches(step, signal) : this.#toTokens(step, signal);
  }

  async #toTokens(step: readonly [number, number], signal: AbortSignal): Promise<Float32Array[]> {
    const layer = this.#layer;
    const at = { step, head: this.#heads, generated: [this.#row, this.#row + 1] as const };
    const [query, keys, logits, total, region] = await Promise.all([
      layer.has("query") ? layer.read("query", at, signal) : null,
      layer.has("key") ? this.#keys(step, signal) : null,
      layer.has("logits") ? layer.read("logits", at, signal) : null,
      layer.has("logsumexp") ? layer.read("logsumexp", at, signal) : null,
      layer.region(),
    ]);
    const factor = region?.[this.#row] ?? 1;
    return this.#each(step, (number, matrix) => {
      const { channels, tokens } = layer;
      const own =
        query && keys
          ? factoredLogits(part(query, number, channels), keys(matrix), channels, layer.own.scale)
          : storedLogits(part(logits ?? new Float32Array(), number, tokens), tokens);
      const row = new Float32Array(tokens);
      own.fill(0, row);
      softmaxRow(row, total?.[number] ?? null, factor);
      return row;
    });
  }

  async #toPatches(step: readonly [number, number], signal: AbortSignal): Promise<Float32Array[]> {
    const layer = this.#layer;
    const token = [this.#row, this.#row + 1] as const;
    const [query, keys, logits, region] = await Promise.all([
      layer.has("query") ? layer.read("query", { step, head: this.#heads }, signal) : null,
      layer.has("key") ? this.#keys(step, signal) : null,
      layer.has("logits")
        ? layer.read("logits", { step, head: this.#heads, reference: token }, signal)
        : null,
      layer.region(),
    ]);
    const [height, width] = layer.own.generated_grid;
    const patches = height * width;
    return this.#each(step, (number, matrix) => {
      const { channels } = layer;
      const row = new Float32Array(patches);
      if (query && keys) {
        const key = part(keys(matrix), this.#row, channels);
        factoredLogits(key, part(query, number, patches * channels), channels, layer.own.scale).fill(0, row);
      } else if (logits) {
        row.set(part(logits, number, patches));
      }
      softmaxRow(row, null);
      if (region) for (let at = 0; at < patches; at++) row[at] = (row[at] as number) * (region[at] ?? 1);
      return row;
    });
  }

  /** What gives the keys (reference, channel) of each matrix of these steps. */
  async #keys(
    step: readonly [number, number],
    signal: AbortSignal,
  ): Promise<(matrix: Matrix) => Float32Array> {
    const layer = this.#layer;
    const size = layer.tokens * layer.channels;
    if (layer.keysChange) {
      const some = await layer.read("key", { step, head: this.#heads }, signal);
      return ({ number }) => part(some, number, size);
    }
    const all = await layer.keys();
    return ({ head }) => part(all, head, size);
  }

  #each(
    [begin, end]: readonly [number, number],
    map: (number: number, matrix: Matrix) => Float32Array,
  ): Float32Array[] {
    const [first, last] = this.#heads;
    const heads = last - first;
    return Array.from({ length: (end - begin) * heads }, (_, number) =>
      map(number, { number, head: first + (number % heads) }),
    );
  }
}

/** A step and head: its number among those that were read, and the position of its head. */
interface Matrix {
  readonly number: number;
  readonly head: number;
}

function part(values: Float32Array, number: number, size: number): Float32Array {
  return values.subarray(number * size, (number + 1) * size);
}

/**
 * Batches of steps, those of one chunk each, in an order whose first few lie far apart: the van der
 * Corput sequence, whose binary fractions are the bits of 1, 2, 3, … in reverse.
 */
export function vanDerCorputOrder(
  steps: readonly number[],
  length: number,
  offset = 0,
): readonly (readonly number[])[] {
  const byChunk = new Map<number, number[]>();
  for (const step of steps) {
    const chunk = Math.floor(step / length);
    byChunk.set(chunk, [...(byChunk.get(chunk) ?? []), step]);
  }
  const chunks = [...byChunk.values()];
  const bits = chunks.length.toString(2).length;
  const order = new Set<number>();
  for (let number = 1; number <= 2 ** bits; number++) {
    const reversed = [...(number % 2 ** bits).toString(2).padStart(bits, "0")].reverse().join("");
    order.add((Number.parseInt(reversed, 2) * chunks.length) >> bits);
  }
  const start = offset % chunks.length;
  const turned = [...order];
  return [...turned.slice(start), ...turned.slice(0, start)].map((at) => chunks[at] ?? []);
}
