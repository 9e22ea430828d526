/**
 * Where the page has its findings from: a report's own JSON, a run behind HTTP, or a Python process.
 *
 * The page draws what a source answers and knows no other: a new kind of source is one more
 * implementation of `RunSource`. Everything here is plain data; pixels are those of the stored image.
 */

/** The stored image that heat lies over, or that was clicked. */
export type Side = "generated" | "reference";

/** R2G lies over the generated image, G2R over the reference. */
export type Direction = "r2g" | "g2r";

/** y0, x0, y1, x1 in pixels of a stored image: the part that the model saw. */
export type Box = readonly [number, number, number, number];

/** What the sliders show: indices into the axes; null is the mean over that axis. */
export interface Position {
  readonly layer: number | null;
  readonly step: number | null;
  readonly head: number | null;
}

/** A map: row-major float32; NaN where there is no value. */
export interface Plane {
  readonly height: number;
  readonly width: number;
  readonly values: Float32Array;
}

/** Why there is no map, in words. */
export interface Absent {
  readonly absent: string;
}

/** The attention of one patch; `share` is how much of the steps and layers it is the mean of, 0 to 1. */
export interface SramEstimate {
  readonly plane: Plane;
  readonly share: number;
}

/** A stored image: its size (height, width), and how to get its pixels. */
export interface Picture {
  readonly size: readonly [number, number];
  readonly box: Box;
  load(): Promise<CanvasImageSource>;
}

export type Fact = readonly [label: string, value: string];

export interface Score {
  readonly name: string;
  readonly title: string;
  readonly meaning: string;
  readonly better: "high" | "low" | null;
  readonly chance: number | null;
}

export type ScoreValues = Readonly<Record<string, number | null>>;

/** A row of the table of samples; `thumbs` are URLs. */
export interface SampleEntry {
  readonly name: string;
  readonly thumbs?: Partial<Record<Side, string>>;
  readonly scores?: ScoreValues;
  readonly outliers?: readonly string[];
}

export interface Axes {
  readonly layers: readonly string[];
  readonly timesteps: readonly number[];
  readonly steps: readonly string[];
  readonly heads: readonly string[];
}

export interface Curves {
  readonly title: string;
  readonly x_label: string;
  readonly y_label: string;
  readonly x: readonly number[];
  readonly lines: readonly { readonly name: string; readonly y: readonly (number | null)[] }[];
  readonly chance: number | null;
}

export interface Matrix {
  readonly title: string;
  readonly rows: readonly string[];
  readonly columns: readonly string[];
  readonly values: readonly (readonly (number | null)[])[];
}

/** What changed in the generated image when regions of the reference were cut. */
export interface Effects {
  readonly sentences: readonly string[];
  /** Regions of the reference. */
  readonly boxes: readonly Box[];
  /** How much each patch of the generated image changed when that region was cut; null if not kept. */
  readonly map: ((cell: number) => Promise<Plane | Absent>) | null;
}

export interface Figure {
  readonly title: string;
  readonly caption: string;
  readonly alt: string;
  readonly url: string;
}

export interface SampleSource {
  readonly name: string;
  readonly notes: readonly string[];
  readonly provenance: readonly Fact[];
  readonly images: Readonly<Record<string, Picture>>;
  readonly axes: Axes;
  readonly curves: readonly Curves[];
  readonly matrix: readonly Matrix[];
  readonly effects: Effects | null;
  readonly scores: ScoreValues;
  readonly figures: readonly Figure[];
  /** What the sliders show first. */
  readonly start: Position;
  /** Whether there are maps of one step and one head at once. */
  readonly hasStepAndHead: boolean;
  /** Whether SRAM is that of the sliders, or always the mean over everything. */
  readonly sramFollows: boolean;
  map(direction: Direction, at: Position, signal: AbortSignal): Promise<Plane | Absent>;
  /** The lowest and highest value of all maps of a direction; null if it is not known. */
  range(direction: Direction): readonly [number, number] | null;
  /** Estimates that get better; the last has the share 1. `y` and `x` are pixels of the clicked image. */
  sram(
    side: Side,
    y: number,
    x: number,
    at: Position,
    signal: AbortSignal,
  ): AsyncIterable<SramEstimate | Absent>;
  /** The rows and columns of the patches, over the box, that a click on this side tells apart. */
  patches(side: Side, at: Position): readonly [number, number] | null;
}

export interface RunSource {
  readonly title: string;
  readonly facts: readonly Fact[];
  readonly notes: readonly string[];
  readonly scores: readonly Score[];
  /** The samples; null if nobody tells their names. */
  samples(): Promise<readonly SampleEntry[] | null>;
  open(name: string): Promise<SampleSource>;
}

export function isAbsent(answer: Plane | SramEstimate | Absent): answer is Absent {
  return "absent" in answer;
}

export function otherSide(side: Side): Side {
  return side === "generated" ? "reference" : "generated";
}
