/** Maps of a live run: from the maps store where there is one, else of one layer and step from Q and K. */

import { meanOf } from "../maps/plane.ts";
import type { Absent, Axes, Direction, Plane, Position } from "../source.ts";
import type { HttpStore } from "./http_store.ts";
import type { Layer } from "./layers.ts";
import { directionalMeans, factoredLogits, pauses, storedLogits } from "./softmax.ts";
import { StoredArray, type Selection } from "./stored_array.ts";

/** A mean that reads more of a volume is not asked for by a slider. */
const MOST_VOLUME_BYTES = 512 * 2 ** 20;
/** Of one matrix of logits in memory: 8192 patches that look at as many tokens. */
const MOST_LOGITS = 2 ** 26;

/** The maps of a sample in a maps store; its axes are found by their labels. */
export class StoredMaps {
  readonly #store: HttpStore;
  readonly #path: string;
  readonly #axes: Axes;
  readonly #opened = new Map<string, Promise<StoredArray | null>>();
  readonly #labels = new Map<string, Promise<readonly (number | string)[]>>();

  private constructor(store: HttpStore, path: string, axes: Axes) {
    [this.#store, this.#path, this.#axes] = [store, path, axes];
  }

  /** Open a sample's maps; null if the store has none of it, or they are not complete. */
  static async open(store: HttpStore, sample: string, axes: Axes): Promise<StoredMaps | null> {
    const path = `/${sample}` as const;
    const metadata = await store.metadata(path);
    const attributes = metadata?.["attributes"] as { i2am?: { status?: string } } | undefined;
    return attributes?.i2am?.status === "complete" ? new StoredMaps(store, path, axes) : null;
  }

  async map(direction: Direction, at: Position, signal: AbortSignal): Promise<Plane | Absent> {
    const { layer, step, head } = at;
    const name = this.#levelOf(at);
    const array = await this.#array(`${direction}/${name}`);
    if (!array) return { absent: `The maps have no ${direction.toUpperCase()} of this sample.` };
    const selection: Record<string, number> = {};
    const wanted = {
      layer: layer === null ? null : (this.#axes.layers[layer] ?? ""),
      step: step === null ? null : Number(this.#axes.steps[step]),
      head: head === null ? null : Number(this.#axes.heads[head]),
    };
    for (const [axis, label] of Object.entries(wanted)) {
      if (label === null) continue;
      const position = (await this.#labelsOf(direction, axis)).indexOf(label);
      if (position < 0) return { absent: `The maps have no ${axis} ${label} in this direction.` };
      selection[axis] = position;
    }
    return meanOver(array, selection, signal);
  }

  #levelOf({ layer, step, head }: Position): string {
    if (step !== null || (layer !== null && head !== null)) return "volume";
    if (layer !== null) return "llam";
    return head === null ? "ulam" : "hlam";
  }

  #array(name: string): Promise<StoredArray | null> {
    const known = this.#opened.get(name) ?? StoredArray.open(this.#store, `${this.#path}/${name}`);
    this.#opened.set(name, known);
    known.catch(() => this.#opened.delete(name));
    return known;
  }

  #labelsOf(direction: Direction, axis: string): Promise<readonly (number | string)[]> {
    const name = `${direction}/${axis}`;
    const known = this.#labels.get(name) ?? this.#array(name).then((array) => array?.labels() ?? []);
    this.#labels.set(name, known);
    known.catch(() => this.#labels.delete(name));
    return known;
  }
}

/** The mean over all dimensions of which no index is given, but the map's own two. */
async function meanOver(
  array: StoredArray,
  selection: Selection,
  signal: AbortSignal,
): Promise<Plane | Absent> {
  if (array.touchedBytes(selection) > MOST_VOLUME_BYTES) {
    return { absent: "This mean would read too much: choose a layer." };
  }
  const { shape, values } = await array.read(selection, signal);
  const [height = 1, width = 1] = shape.slice(-2);
  const size = height * width;
  const planes = Array.from({ length: values.length / size }, (_, at) => ({
    height,
    width,
    values: values.subarray(at * size, (at + 1) * size),
  }));
  const mean = planes.length === 1 && planes[0] ? planes[0] : meanOf(planes);
  return mean.values.some(Number.isFinite) ? mean : { absent: "The layer has no such head." };
}

/** The map of one layer and step, and of one head or the mean over all, on the layer's own grid. */
export async function computedMap(
  direction: Direction,
  layer: Layer,
  step: number,
  head: number | null,
  signal: AbortSignal,
): Promise<Plane | Absent> {
  const grid = direction === "r2g" ? layer.own.generated_grid : layer.own.reference_grid;
  if (!grid || (direction === "g2r" && !layer.hasG2r)) {
    return { absent: `No G2R: ${layer.name} has no grid of reference tokens.` };
  }
  const position = head === null ? -1 : layer.heads.indexOf(head);
  if (head !== null && position < 0) return { absent: `${layer.name} has no head ${head}.` };
  const [patches, special] = [layer.own.generated_grid[0] * layer.own.generated_grid[1], layer.own.special_tokens];
  if (layer.own.representation !== "maps" && patches * layer.tokens > MOST_LOGITS) {
    return { absent: "This layer is too large for a browser: run i2am analyze for its maps." };
  }
  const heads = position < 0 ? layer.heads.map((_, at) => at) : [position];
  const maps = await Promise.all(
    heads.map((one) => matrixMaps(layer, { step: [step, step + 1], head: [one, one + 1] }, one, signal)),
  );
  const [height, width] = grid;
  return meanOf(
    maps.map(({ r2g, g2r }) => ({
      height,
      width,
      values: direction === "r2g" ? r2g : g2r.subarray(special),
    })),
  );
}

async function matrixMaps(
  layer: Layer,
  at: Selection,
  head: number,
  signal: AbortSignal,
): Promise<{ readonly r2g: Float32Array; readonly g2r: Float32Array }> {
  if (layer.own.representation === "maps") {
    const [r2g, g2r] = await Promise.all([
      layer.read("r2g", at, signal),
      layer.has("g2r") ? layer.read("g2r", at, signal) : new Float32Array(),
    ]);
    return { r2g, g2r };
  }
  const [query, key, logits, total, region] = await Promise.all([
    layer.has("query") ? layer.read("query", at, signal) : null,
    layer.has("key") ? keysOf(layer, at, head, signal) : null,
    layer.has("logits") ? layer.read("logits", at, signal) : null,
    layer.has("logsumexp") ? layer.read("logsumexp", at, signal) : null,
    layer.region(),
  ]);
  const own =
    query && key
      ? factoredLogits(query, key, layer.channels, layer.own.scale)
      : storedLogits(logits ?? new Float32Array(), layer.tokens);
  return directionalMeans(own, total, region, pauses(signal));
}

async function keysOf(layer: Layer, at: Selection, head: number, signal: AbortSignal): Promise<Float32Array> {
  if (layer.keysChange) return layer.read("key", at, signal);
  const size = layer.tokens * layer.channels;
  return (await layer.keys()).subarray(head * size, (head + 1) * size);
}
