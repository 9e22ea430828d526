/** The captured layers of a sample, as their metadata tell. */

import type { Grid } from "../maps/resize.ts";
import type { HttpStore } from "./http_store.ts";
import { StoredArray, type Selection } from "./stored_array.ts";

const ARRAYS = ["query", "key", "logits", "logsumexp", "r2g", "g2r", "region"] as const;
export type ArrayName = (typeof ARRAYS)[number];
/** Keys that are the same at every step are kept, up to this much. */
const MOST_KEPT_BYTES = 128 * 2 ** 20;

export interface LayerAttributes {
  readonly scale: number;
  readonly generated_grid: Grid;
  readonly reference_grid: Grid | null;
  readonly special_tokens: number;
  readonly order: number;
  readonly representation: "factors" | "logits" | "maps";
  readonly reference_index?: number;
  readonly heads?: readonly number[] | null;
  readonly frames?: number;
  readonly causal?: boolean;
}

export class Layer {
  readonly name: string;
  readonly own: LayerAttributes;
  /** The labels of its heads. */
  readonly heads: readonly number[];
  /** Number of reference tokens, special ones included. */
  readonly tokens: number;
  readonly #arrays: ReadonlyMap<ArrayName, StoredArray>;
  readonly #guidance: number;
  readonly #kept: KeptKeys;
  #region: Promise<Float32Array | null> | null = null;

  constructor(
    name: string,
    own: LayerAttributes,
    arrays: ReadonlyMap<ArrayName, StoredArray>,
    guidance: number,
    kept: KeptKeys,
  ) {
    [this.name, this.own, this.#arrays, this.#guidance] = [name, own, arrays, guidance];
    this.#kept = kept;
    const main = arrays.get("query") ?? arrays.get("logits") ?? arrays.get("r2g");
    if (!main) throw new Error(`Expected queries, logits or maps, got none, at layer ${name}.`);
    const count = main.size("head");
    this.heads = own.heads ?? Array.from({ length: count }, (_, at) => at);
    const last = arrays.get("key") ?? arrays.get("logits") ?? arrays.get("g2r");
    this.tokens = last?.size("reference") ?? 1;
  }

  get frames(): number {
    return this.own.frames ?? 1;
  }

  get channels(): number {
    return this.#arrays.get("query")?.size("channel") ?? 0;
  }

  /** Whether maps on the reference exist: a grid, and more than one token. */
  get hasG2r(): boolean {
    return this.own.reference_grid !== null && this.tokens > 1;
  }

  get hasSram(): boolean {
    return this.hasG2r && this.own.representation !== "maps";
  }

  /** Whether its output can depend on its attention: no softmax over one token alone. */
  get isCausal(): boolean {
    return (this.own.causal ?? true) && (this.tokens > 1 || this.has("logsumexp"));
  }

  /** How many steps are in one chunk of what is read at each step. */
  get stepChunk(): number {
    return (this.#arrays.get("query") ?? this.#arrays.get("logits"))?.chunk("step") ?? 1;
  }

  has(array: ArrayName): boolean {
    return this.#arrays.has(array);
  }

  /** Values of an array, flat: (step, head, …) of the conditional branch. */
  async read(array: ArrayName, at: Selection, signal: AbortSignal): Promise<Float32Array> {
    const stored = this.#arrays.get(array);
    if (!stored) throw new Error(`Expected the array ${array}, got none, at layer ${this.name}.`);
    const branch = stored.dims.includes("guidance") ? { guidance: this.#guidance } : {};
    return (await stored.read({ ...at, ...branch }, signal)).values;
  }

  get keysChange(): boolean {
    return this.#arrays.get("key")?.dims.includes("step") ?? false;
  }

  /** Keys that are the same at every step, (head, reference, channel): read once. */
  keys(): Promise<Float32Array> {
    return this.#kept.get(this.name, () => this.read("key", {}, new AbortController().signal));
  }

  /** By what the layer multiplies what the reference contributes to each patch; null for 1. */
  region(): Promise<Float32Array | null> {
    const stored = this.#arrays.get("region");
    this.#region ??= stored ? stored.read().then(({ values }) => values) : Promise.resolve(null);
    return this.#region;
  }
}

/** Keys in memory: the ones used last, within a limit. */
export class KeptKeys {
  readonly #kept = new Map<string, { readonly values: Promise<Float32Array>; bytes: number }>();

  get(name: string, read: () => Promise<Float32Array>): Promise<Float32Array> {
    const known = this.#kept.get(name) ?? { values: read(), bytes: 0 };
    this.#kept.delete(name);
    this.#kept.set(name, known);
    known.values.then(
      (values) => {
        known.bytes = values.byteLength;
        this.#trim();
      },
      () => this.#kept.delete(name),
    );
    return known.values;
  }

  #trim(): void {
    let bytes = [...this.#kept.values()].reduce((sum, one) => sum + one.bytes, 0);
    for (const [name, one] of this.#kept) {
      if (bytes <= MOST_KEPT_BYTES) return;
      this.#kept.delete(name);
      bytes -= one.bytes;
    }
  }
}

/** The layers that look at the first reference image, in the order in which they run. */
export async function openLayers(
  store: HttpStore,
  sample: string,
  names: readonly string[],
  listed: ReadonlySet<string> | null,
  guidance: number,
): Promise<Layer[]> {
  const kept = new KeptKeys();
  const opened = await Promise.all(
    names.map(async (name) => {
      const path = `${sample}/layers/${name}`;
      const metadata = await store.metadata(path);
      const attributes = metadata?.["attributes"] as { i2am?: LayerAttributes } | undefined;
      const own = attributes?.i2am;
      if (!own) throw new Error(`Expected a captured layer, got none, at ${name}.`);
      return { name, path, own };
    }),
  );
  const first = Math.min(...opened.map(({ own }) => own.reference_index ?? 0));
  const chosen = opened.filter(({ own }) => (own.reference_index ?? 0) === first);
  const layers = await Promise.all(
    chosen.map(async ({ name, path, own }) => {
      const arrays = new Map<ArrayName, StoredArray>();
      await Promise.all(
        ARRAYS.map(async (array) => {
          if (listed && !listed.has(`layers/${name}/${array}/zarr.json`)) return;
          const found = await StoredArray.open(store, `${path}/${array}`);
          if (found) arrays.set(array, found);
        }),
      );
      return new Layer(name, own, arrays, guidance, kept);
    }),
  );
  return layers.sort((one, other) => one.own.order - other.own.order);
}
