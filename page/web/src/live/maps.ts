/** Maps of a live run: from the maps store where there is one, else of one layer and step from Q and K. */

import { meanOf } from "../maps/plane.ts";
import type { Grid } from "../maps/resize.ts";
import type { Absent, Axes, Direction, Plane, Position } from "../source.ts";
import type { HttpStore } from "./http_store.ts";
import type { ArrayName, Layer } from "./layers.ts";
import { directionalMeans, factoredLogits, pauses, storedLogits, type DirectionalMeans } from "./softmax.ts";
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

/** Maps of one layer and step, and of one head or the mean over all, on the layer's own grids. */
export class ComputedMaps {
  /** Both directions come of one computation: the last one is kept, for whoever asks for the other. */
  #last: {
    readonly of: readonly [Layer, step: number, head: number | null];
    readonly signal: AbortSignal;
    readonly maps: Promise<Record<Direction, Plane | Absent>>;
  } | null = null;

  async map(
    direction: Direction,
    layer: Layer,
    step: number,
    head: number | null,
    signal: AbortSignal,
  ): Promise<Plane | Absent> {
    const of = [layer, step, head] as const;
    const isKept = this.#last?.of.every((one, at) => one === of[at]) && !this.#last.signal.aborted;
    const last = this.#last && isKept ? this.#last : { of, signal, maps: computedMaps(...of, signal) };
    this.#last = last;
    last.maps.catch(() => {
      if (this.#last === last) this.#last = null; // So that it can be asked again.
    });
    return (await last.maps)[direction];
  }
}

async function computedMaps(
  layer: Layer,
  step: number,
  head: number | null,
  signal: AbortSignal,
): Promise<Record<Direction, Plane | Absent>> {
  const both = (absent: string) => ({ r2g: { absent }, g2r: { absent } });
  const { generated_grid: generated, reference_grid: reference, special_tokens: special } = layer.own;
  const position = head === null ? -1 : layer.heads.indexOf(head);
  if (head !== null && position < 0) return both(`${layer.name} has no head ${head}.`);
  if (layer.own.representation !== "maps" && generated[0] * generated[1] * layer.tokens > MOST_LOGITS) {
    return both("This layer is too large for a browser: run i2am analyze for its maps.");
  }
  const heads = position < 0 ? ([0, layer.heads.length] as const) : ([position, position + 1] as const);
  const maps: DirectionalMeans[] = [];
  for await (const own of matrixMaps(layer, { step: [step, step + 1], head: heads }, heads[0], signal)) {
    maps.push(own);
  }
  const mean = ([height, width]: Grid, values: readonly Float32Array[]) =>
    meanOf(values.map((own) => ({ height, width, values: own })));
  return {
    r2g: mean(generated, maps.map(({ r2g }) => r2g)),
    g2r:
      reference && layer.hasG2r
        ? mean(reference, maps.map(({ g2r }) => g2r.subarray(special)))
        : { absent: `No G2R: ${layer.name} has no grid of reference tokens.` },
  };
}

/** Both maps of each head, one after the other: what is stored is read once for all of them. */
async function* matrixMaps(
  layer: Layer,
  at: Selection,
  firstHead: number,
  signal: AbortSignal,
): AsyncGenerator<DirectionalMeans> {
  const read = (name: ArrayName) => (layer.has(name) ? layer.read(name, at, signal) : null);
  const [generated, tokens] = [layer.own.generated_grid, layer.tokens];
  const patches = generated[0] * generated[1];
  if (layer.own.representation === "maps") {
    const [r2g, g2r] = await Promise.all([read("r2g"), read("g2r")]);
    for (let head = 0; r2g && head * patches < r2g.length; head++) {
      yield { r2g: part(r2g, head, patches), g2r: part(g2r ?? new Float32Array(), head, tokens) };
    }
    return;
  }
  const { channels } = layer;
  const [query, key, logits, total, region] = await Promise.all([
    read("query"),
    layer.has("key") ? keysOf(layer, at, firstHead, signal) : null,
    read("logits"),
    read("logsumexp"),
    layer.region(),
  ]);
  const heads = query ? query.length / (patches * channels) : (logits?.length ?? 0) / (patches * tokens);
  const pause = pauses(signal);
  for (let head = 0; head < heads; head++) {
    const own =
      query && key
        ? factoredLogits(
            part(query, head, patches * channels),
            part(key, head, tokens * channels),
            channels,
            layer.own.scale,
          )
        : storedLogits(part(logits ?? new Float32Array(), head, patches * tokens), tokens);
    yield directionalMeans(own, total && part(total, head, patches), region, pause);
  }
}

/** Keys (head, reference, channel) of the heads that are selected. */
async function keysOf(layer: Layer, at: Selection, firstHead: number, signal: AbortSignal): Promise<Float32Array> {
  if (layer.keysChange) return layer.read("key", at, signal);
  return (await layer.keys()).subarray(firstHead * layer.tokens * layer.channels);
}

function part(values: Float32Array, number: number, size: number): Float32Array {
  return values.subarray(number * size, (number + 1) * size);
}
