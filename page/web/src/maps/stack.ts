/** Stacks of maps as a report holds them: bytes, deflated, in base64, each map with its own ends. */

import type { Plane } from "../source.ts";

/** As `page/stacks.py` writes it. */
export interface StackJson {
  readonly dims: readonly string[];
  readonly shape: readonly number[];
  readonly encoding: "deflate-raw";
  readonly data: string;
  readonly low: readonly number[];
  readonly high: readonly number[];
}

/** The byte that is no value; the others are 0 to 254. */
const NO_VALUE = 255;
const HIGHEST = 254;

/** Maps that are unpacked when the first of them is asked for. */
export class Stack {
  readonly dims: readonly string[];
  /** Of the dimensions before a map's own two. */
  readonly sizes: readonly number[];
  readonly height: number;
  readonly width: number;
  #bytes: Promise<Uint8Array> | null = null;
  readonly #json: StackJson;

  constructor(json: StackJson) {
    const [height, width] = json.shape.slice(-2);
    if (json.encoding !== "deflate-raw" || height === undefined || width === undefined) {
      throw new Error(`Expected a stack of deflated maps, got ${json.encoding}, at the report.`);
    }
    this.#json = json;
    this.dims = json.dims;
    this.sizes = json.shape.slice(0, -2);
    [this.height, this.width] = [height, width];
  }

  /** The map at these indices, one for each dimension. */
  async plane(...indices: number[]): Promise<Plane> {
    this.#bytes ??= inflate(this.#json.data);
    const bytes = await this.#bytes;
    const number = this.sizes.reduce((at, size, dim) => at * size + (indices[dim] ?? 0), 0);
    const [low, high] = [this.#json.low[number] ?? 0, this.#json.high[number] ?? 0];
    const count = this.height * this.width;
    const own = bytes.subarray(number * count, (number + 1) * count);
    const values = Float32Array.from(own, (byte) =>
      byte === NO_VALUE ? NaN : low + ((high - low) * byte) / HIGHEST,
    );
    return { height: this.height, width: this.width, values };
  }

  /** The lowest and highest value of all maps. */
  get range(): readonly [number, number] {
    const [low, high] = [this.#json.low, this.#json.high];
    return [Math.min(...low.filter(Number.isFinite)), Math.max(...high.filter(Number.isFinite))];
  }
}

async function inflate(base64: string): Promise<Uint8Array> {
  const packed = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
