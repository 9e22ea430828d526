/** An array of a store, read by the names of its dimensions, as float32. */

import * as zarr from "zarrita";

import { fromHalf } from "./half.ts";
import type { HttpStore } from "./http_store.ts";

/** What is read of each dimension: one index, a range, or all of it (left out). */
export type Selection = Readonly<Record<string, number | readonly [start: number, stop: number]>>;

export interface Values {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

export class StoredArray {
  readonly dims: readonly string[];
  readonly #array: zarr.Array<zarr.DataType, HttpStore>;
  readonly #isHalf: boolean;

  private constructor(array: zarr.Array<zarr.DataType, HttpStore>, dims: readonly string[]) {
    [this.#array, this.dims] = [array, dims];
    this.#isHalf = array.store.isHalf(array.path);
  }

  /** Open the array at a path; null if there is none. */
  static async open(store: HttpStore, path: string): Promise<StoredArray | null> {
    const metadata = await store.metadata(path);
    if (metadata?.["node_type"] !== "array") return null;
    const array = await zarr.open.v3(zarr.root(store).resolve(path), { kind: "array" });
    return new StoredArray(array, (metadata["dimension_names"] as string[] | undefined) ?? []);
  }

  get attributes(): Readonly<Record<string, unknown>> {
    return this.#array.attrs;
  }

  get shape(): readonly number[] {
    return this.#array.shape;
  }

  /** The length of a dimension; `otherwise` if the array has no such dimension. */
  size(dim: string, otherwise = 1): number {
    return this.shape[this.dims.indexOf(dim)] ?? otherwise;
  }

  /** The length of a dimension in a chunk. */
  chunk(dim: string): number {
    return this.#array.chunks[this.dims.indexOf(dim)] ?? 1;
  }

  /** How many bytes the chunks have that a selection touches. */
  touchedBytes(at: Selection): number {
    return this.dims.reduce((bytes, dim, axis) => {
      const length = this.shape[axis] ?? 1;
      const own = at[dim];
      const chunk = this.#array.chunks[axis] ?? 1;
      const [start, stop] = own === undefined ? [0, length] : typeof own === "number" ? [own, own + 1] : own;
      return bytes * chunk * (Math.ceil(stop / chunk) - Math.floor(start / chunk));
    }, this.#isHalf ? 2 : 4);
  }

  /** Values of a selection, without the dimensions of which one index is read. */
  async read(at: Selection = {}, signal?: AbortSignal): Promise<Values> {
    const found = await this.#get(at, signal);
    const { data } = found;
    if (data instanceof Uint16Array && this.#isHalf) return { shape: found.shape, values: fromHalf(data) };
    if (data instanceof Float32Array) return { shape: found.shape, values: data };
    return { shape: found.shape, values: Float32Array.from(data as Iterable<number>, Number) };
  }

  /** Bytes as they are stored, of an image. */
  async bytes(): Promise<Uint8Array> {
    const { data } = await this.#get({});
    if (data instanceof Uint8Array) return data;
    throw new Error(`Expected an image of bytes, got ${this.#array.dtype}, at ${this.#array.path}.`);
  }

  /** Labels of a coordinate: whole numbers, or words. */
  async labels(): Promise<(number | string)[]> {
    const { data } = await this.#get({});
    return Array.from(data as Iterable<number | bigint | string>, (label) =>
      typeof label === "bigint" ? Number(label) : label,
    );
  }

  async #get(at: Selection, signal?: AbortSignal): Promise<zarr.Chunk<zarr.DataType>> {
    const selection = this.dims.map((dim) => {
      const own = at[dim];
      if (own === undefined) return null;
      return typeof own === "number" ? own : zarr.slice(own[0], own[1]);
    });
    const found = await zarr.get(this.#array, selection, signal ? { signal } : {});
    return found as zarr.Chunk<zarr.DataType>;
  }
}
