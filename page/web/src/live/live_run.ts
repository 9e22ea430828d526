/** A run behind HTTP as a source: nothing but names is read before a sample is opened. */

import { cellAt } from "../maps/plane.ts";
import { largestGrid } from "../maps/resize.ts";
import type {
  Axes,
  Box,
  Fact,
  Picture,
  Position,
  RunSource,
  SampleSource,
  Side,
} from "../source.ts";
import type { RunJson } from "../sources/sample_json.ts";
import { useOwnCodecs } from "./codecs.ts";
import { HttpStore, type Fetch } from "./http_store.ts";
import { openLayers, type Layer } from "./layers.ts";
import { folderNames, sampleNames } from "./listing.ts";
import { ComputedMaps, StoredMaps } from "./maps.ts";
import { liveSram } from "./sram.ts";
import { StoredArray } from "./stored_array.ts";

interface SampleAttributes {
  readonly kind?: string;
  readonly status?: string;
  readonly objects?: string;
  readonly [name: string]: unknown;
}

/** Provenance that is shown first, in this order; the rest is told by `i2am info`. */
const SHOWN = ["model", "revision", "pipeline", "profile", "scheduler", "steps", "guidance_scale", "seed", "prompt", "dtype", "device", "created"];

export interface LiveAddresses {
  /** Absolute URLs. */
  readonly run: string;
  readonly maps: string | null;
  readonly names: string | null;
}

export function liveSource(json: RunJson, addresses: LiveAddresses, fetcher?: Fetch): RunSource {
  useOwnCodecs();
  const fetched: Fetch = fetcher ?? ((url, init) => fetch(url, init));
  const store = new HttpStore(addresses.run, fetched);
  const maps = addresses.maps === null ? null : new HttpStore(addresses.maps, fetched);
  return {
    title: json.title,
    facts: json.facts,
    notes: json.notes,
    scores: json.scores,
    samples: async () => {
      const names = await sampleNames(addresses.run, addresses.names, fetched);
      return names && names.map((name) => ({ name }));
    },
    open: (name) => openSample(store, maps, name, addresses, fetched),
  };
}

async function openSample(
  store: HttpStore,
  mapsStore: HttpStore | null,
  name: string,
  addresses: LiveAddresses,
  fetcher: Fetch,
): Promise<SampleSource> {
  const metadata = await store.metadata(`/${name}`);
  const own = (metadata?.["attributes"] as { i2am?: SampleAttributes } | undefined)?.i2am;
  if (!own && store.isForbidden) {
    throw new Error(
      `Expected a sample that may be read, got the answer 403, at ${name}. ` +
        "Let browsers read the bucket's objects, or see whether there is such a sample.",
    );
  }
  if (!own || own.status !== "complete") {
    throw new Error(`Expected a complete sample, got ${own?.status ?? "none"}, at ${name}. Capture it first.`);
  }
  const listed = typeof own.objects === "string" ? listedObjects(own.objects) : null;
  store.expect([...(listed ?? [])].map((key) => `/${name}/${key}`));
  const url = `${addresses.run}/${encodeURIComponent(name)}`;
  const namesIn = (folder: string) => namesOf(folder, listed, url, fetcher);
  const [steps, timesteps, branches, images, names] = await Promise.all([
    labelsOf(store, `/${name}/step`),
    labelsOf(store, `/${name}/timestep`),
    labelsOf(store, `/${name}/guidance`, listed),
    namesIn("images").then((found) => openImages(store, name, found)),
    namesIn("layers"),
  ]);
  const guidance = Math.max(branches.indexOf("conditional"), 0);
  const layers = await openLayers(store, `/${name}`, names, listed, guidance);
  const heads = [...new Set(layers.flatMap((layer) => layer.heads))].sort((one, other) => one - other);
  const axes: Axes = {
    layers: layers.map((layer) => layer.name),
    timesteps: timesteps.map(Number),
    steps: steps.map(String),
    heads: heads.map(String),
  };
  const maps = mapsStore && (await StoredMaps.open(mapsStore, name, axes));
  return new LiveSample(name, own, withReference(images, layers), axes, layers, heads, maps);
}

class LiveSample implements SampleSource {
  readonly notes: readonly string[];
  readonly provenance: readonly Fact[];
  readonly curves = [];
  readonly matrix = [];
  readonly effects = null;
  readonly scores = {};
  readonly figures = [];
  readonly start: Position;
  readonly hasStepAndHead = true;
  readonly sramFollows = true;
  readonly name: string;
  readonly images: Readonly<Record<string, Picture>>;
  readonly axes: Axes;
  readonly #layers: readonly Layer[];
  readonly #heads: readonly number[];
  readonly #maps: StoredMaps | null;
  readonly #computed = new ComputedMaps();

  constructor(
    name: string,
    own: SampleAttributes,
    images: Readonly<Record<string, Picture>>,
    axes: Axes,
    layers: readonly Layer[],
    heads: readonly number[],
    maps: StoredMaps | null,
  ) {
    [this.name, this.images, this.axes] = [name, images, axes];
    [this.#layers, this.#heads, this.#maps] = [layers, heads, maps];
    this.provenance = SHOWN.flatMap((key): Fact[] => {
      const value = own[key];
      return value === null || value === undefined ? [] : [[key.replaceAll("_", " "), String(value)]];
    });
    const middle = axes.steps.length >> 1;
    const layer = layers.findIndex((one) => one.hasG2r);
    this.start = maps
      ? { layer: null, step: null, head: null }
      : { layer: Math.max(layer, 0), step: middle, head: null };
    this.notes = notesOf(layers, maps !== null, "inpainting_mask" in images);
  }

  async map(direction: "r2g" | "g2r", at: Position, signal: AbortSignal) {
    if (this.#maps) return this.#maps.map(direction, at, signal);
    const layer = at.layer === null ? undefined : this.#layers[at.layer];
    if (!layer || at.step === null) {
      return { absent: "Choose a layer and a step: there are no stored maps to take a mean of." };
    }
    const head = at.head === null ? null : (this.#heads[at.head] ?? null);
    return this.#computed.map(direction, layer, at.step, head, signal);
  }

  range(): null {
    return null;
  }

  patches(side: Side, at: Position): readonly [number, number] | null {
    const grids = this.#asked(at).map((layer) =>
      side === "generated" ? layer.own.generated_grid : (layer.own.reference_grid ?? ([1, 1] as const)),
    );
    return grids.length ? largestGrid(grids) : null;
  }

  async *sram(side: Side, y: number, x: number, at: Position, signal: AbortSignal) {
    const layers = this.#asked(at);
    const box = this.images[side]?.box;
    if (!layers.length) {
      yield { absent: whyNoSram(at.layer === null ? undefined : this.#layers[at.layer]) };
      return;
    }
    if (!box || !cellAt([1, 1], box, y, x)) {
      yield { absent: "The model did not see this part of the picture." };
      return;
    }
    const steps = at.step === null ? this.axes.steps.map((_, step) => step) : [at.step];
    const head = at.head === null ? null : (this.#heads[at.head] ?? null);
    const place = [Math.max(y - box[0], 0), Math.max(x - box[1], 0)] as const;
    const boxSize = [box[2] - box[0], box[3] - box[1]] as const;
    yield* liveSram(
      { layers, fromReference: side === "reference", place, boxSize, steps, head },
      signal,
    );
  }

  /** The layers that answer for a patch, at what the sliders show. */
  #asked(at: Position): readonly Layer[] {
    const head = at.head === null ? undefined : this.#heads[at.head];
    return this.#layers.filter(
      (layer, number) =>
        layer.hasSram &&
        (at.layer === null || at.layer === number) &&
        (head === undefined || layer.heads.includes(head)),
    );
  }
}

function notesOf(layers: readonly Layer[], hasMaps: boolean, hasMask: boolean): string[] {
  const others = hasMask ? ", such as those outside the mask," : "";
  const alike = layers.filter((layer) => !layer.isCausal).length;
  return [
    alike
      ? `R2G is a similarity, not a cause, in ${alike} of ${layers.length} layers: they have one reference token.`
      : "",
    hasMaps
      ? ""
      : "Maps are computed here, of one layer and step at a time: means over all of them need i2am analyze.",
    layers.some((layer) => layer.hasG2r)
      ? `Bright empty places on the reference, often its corners, may be registers: patches that need nothing from it${others} have to put their attention somewhere.`
      : "",
  ].filter(Boolean);
}

function whyNoSram(layer: Layer | undefined): string {
  if (!layer) return "No layer has patches of both images: there is no attention of single patches.";
  if (!layer.hasG2r) return `${layer.name} has no grid of reference tokens: choose another layer.`;
  if (!layer.hasSram) return `${layer.name} was reduced to maps at capture: choose another layer.`;
  return `${layer.name} has no such head: choose another.`;
}

/** The paths of an inventory: each line holds a path, a size and a checksum. */
function listedObjects(inventory: string): ReadonlySet<string> {
  const lines = inventory.split("\n").filter(Boolean);
  return new Set(lines.map((line) => line.split(" ").slice(0, -2).join(" ")));
}

/** The names of a sample's images or layers: listed by itself, or else by the server. */
async function namesOf(
  folder: string,
  listed: ReadonlySet<string> | null,
  sample: string,
  fetcher: Fetch,
): Promise<readonly string[]> {
  if (!listed) {
    const names = await folderNames(`${sample}/${folder}`, fetcher);
    if (names) return names;
    throw new Error(
      `Expected the names of its ${folder}, got none, at ${sample}. An older version wrote this sample, and ` +
        "the server lists no folders: look at it with i2am report or i2am view.",
    );
  }
  const found = new RegExp(`^${folder}/([^/]+)/zarr\\.json$`);
  return [...listed].flatMap((key) => found.exec(key)?.[1] ?? []);
}

async function labelsOf(
  store: HttpStore,
  path: string,
  listed: ReadonlySet<string> | null = null,
): Promise<readonly (number | string)[]> {
  const name = path.slice(path.lastIndexOf("/") + 1);
  if (listed && !listed.has(`${name}/zarr.json`)) return [];
  const array = await StoredArray.open(store, path);
  return array ? array.labels() : [];
}

async function openImages(
  store: HttpStore,
  sample: string,
  names: readonly string[],
): Promise<Record<string, Picture>> {
  const opened = await Promise.all(
    names.map(async (name): Promise<[string, Picture][]> => {
      const array = await StoredArray.open(store, `/${sample}/images/${name}`);
      return array ? [[name, pictureOf(array)]] : [];
    }),
  );
  return Object.fromEntries(opened.flat());
}

/** The images, with the one that the layers look at as the reference: it may be another than the first. */
function withReference(images: Record<string, Picture>, layers: readonly Layer[]): Record<string, Picture> {
  const index = layers[0]?.own.reference_index ?? 0;
  const looked = images[`reference_${index}`];
  return index > 0 && looked ? { ...images, reference: looked } : images;
}

function pictureOf(array: StoredArray): Picture {
  const [height = 1, width = 1, channels = 1] = array.shape;
  const own = array.attributes["i2am"] as { box?: Box } | undefined;
  return {
    size: [height, width],
    box: own?.box ?? [0, 0, height, width],
    load: async () => {
      const pixels = new ImageData(width, height);
      const bytes = await array.bytes();
      for (let at = 0; at < height * width; at++) {
        for (let channel = 0; channel < 3; channel++) {
          pixels.data[4 * at + channel] = bytes[at * channels + Math.min(channel, channels - 1)] ?? 0;
        }
        pixels.data[4 * at + 3] = 255;
      }
      return createImageBitmap(pixels);
    },
  };
}
