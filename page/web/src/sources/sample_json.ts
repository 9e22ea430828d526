/** A sample as Python writes it, in a report or to a widget: the same JSON, with or without maps. */

import { Stack, type StackJson } from "../maps/stack.ts";
import type {
  Axes,
  Box,
  Curves,
  Effects,
  Fact,
  Figure,
  Matrix,
  Picture,
  SampleEntry,
  Score,
  ScoreValues,
} from "../source.ts";

/** The only format of this page; a newer one is refused in words. */
export const FORMAT = 1;

export interface RunJson {
  readonly format: number;
  readonly kind: "report" | "live" | "widget";
  readonly title: string;
  readonly facts: readonly Fact[];
  readonly notes: readonly string[];
  readonly scores: readonly Score[];
  readonly samples?: readonly SampleEntry[];
  readonly left_out?: number;
  /** Of a live run: URLs relative to the page. */
  readonly run?: string;
  readonly maps?: string | null;
  readonly names?: string | null;
}

export interface ImageJson {
  readonly url: string;
  readonly size: readonly [number, number];
  readonly box: Box;
}

export interface SampleJson {
  readonly name: string;
  readonly notes: readonly string[];
  readonly provenance: readonly Fact[];
  readonly images: Readonly<Record<string, ImageJson>>;
  readonly axes: Axes;
  readonly curves: readonly Curves[];
  readonly matrix: readonly Matrix[];
  readonly effects: {
    readonly sentences: readonly string[];
    readonly boxes: readonly Box[];
    readonly stack: StackJson | null;
  } | null;
  readonly scores: ScoreValues;
  readonly figures: readonly Figure[];
}

/** Refuse what a newer version wrote. */
export function checkFormat(run: RunJson): RunJson {
  if (run.format !== FORMAT) {
    throw new Error(
      `Expected findings of format ${FORMAT}, got ${run.format}, at this page. ` +
        "Write the page again with one version of i2am.",
    );
  }
  return run;
}

export function picturesOf(images: Readonly<Record<string, ImageJson>>): Record<string, Picture> {
  return Object.fromEntries(
    Object.entries(images).map(([name, { url, size, box }]) => [
      name,
      { size, box, load: () => loadImage(url) },
    ]),
  );
}

export function effectsOf(json: SampleJson["effects"]): Effects | null {
  if (!json) return null;
  const stack = json.stack && new Stack(json.stack);
  return {
    sentences: json.sentences,
    boxes: json.boxes,
    map: stack && ((cell) => stack.plane(cell)),
  };
}

async function loadImage(url: string): Promise<CanvasImageSource> {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}
