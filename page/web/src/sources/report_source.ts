/** A report as a source: everything is in the document, and unpacked when it is asked for. */

import { meanOf, cellAt } from "../maps/plane.ts";
import { Stack, type StackJson } from "../maps/stack.ts";
import {
  otherSide,
  type Absent,
  type Direction,
  type Plane,
  type Position,
  type RunSource,
  type SampleSource,
  type Side,
  type SramEstimate,
} from "../source.ts";
import { checkFormat, effectsOf, picturesOf, type RunJson, type SampleJson } from "./sample_json.ts";

interface ReportSampleJson extends SampleJson {
  readonly maps: Partial<Record<Direction, readonly StackJson[]>>;
  readonly sram: Partial<
    Record<Side, { readonly cells: readonly [number, number]; readonly stack: StackJson }>
  >;
}

/** Read the text of the script with an id; null if there is none. */
export type ReadScript = (id: string) => string | null;

/** The run whose findings lie in the document's scripts. */
export function reportSource(read: ReadScript): RunSource {
  const run = checkFormat(JSON.parse(read("i2am-run") ?? "{}") as RunJson);
  const samples = run.samples ?? [];
  const leftOut = run.left_out ?? 0;
  const notes = leftOut ? [...run.notes, `${leftOut} more samples of the run are not shown.`] : run.notes;
  return {
    title: run.title,
    facts: run.facts,
    notes,
    scores: run.scores,
    samples: () => Promise.resolve(samples),
    open: (name) => {
      const number = samples.findIndex((sample) => sample.name === name);
      const text = read(`i2am-sample-${number}`);
      if (number < 0 || text === null) {
        return Promise.reject(new Error(`This report has no sample ${name}.`));
      }
      return Promise.resolve(reportSample(JSON.parse(text) as ReportSampleJson));
    },
  };
}

export function reportSample(json: ReportSampleJson): SampleSource {
  const maps: Partial<Record<Direction, Stack[]>> = {};
  for (const direction of ["r2g", "g2r"] as const) {
    maps[direction] = (json.maps[direction] ?? []).map((stack) => new Stack(stack));
  }
  const grids: Partial<Record<Side, Stack>> = {};
  for (const side of ["generated", "reference"] as const) {
    const own = json.sram[side];
    if (own) grids[side] = new Stack(own.stack);
  }
  const cells = (side: Side) => json.sram[side]?.cells ?? null;
  return {
    ...json,
    images: picturesOf(json.images),
    effects: effectsOf(json.effects),
    start: { layer: null, step: null, head: null },
    hasStepAndHead: false,
    sramFollows: false,
    map: (direction, at) => mapOf(maps[direction] ?? [], at),
    range: (direction) => rangeOf(maps[direction] ?? []),
    patches: cells,
    sram: async function* (side, y, x): AsyncGenerator<SramEstimate | Absent> {
      const [grid, stack, image] = [cells(side), grids[side], json.images[side]];
      const cell = grid && image && cellAt(grid, image.box, y, x);
      if (!grid || !stack || !cell) {
        yield { absent: stack ? "The model did not see this part of the picture." : NO_SRAM };
        return;
      }
      const plane = await stack.plane(cell[0] * grid[1] + cell[1]);
      yield plane.values.some(Number.isFinite)
        ? { plane, share: 1 }
        : { absent: `No patch of the model lies here: no map over the ${otherSide(side)} image.` };
    },
  };
}

const NO_SRAM = "This report holds no attention of single patches: the run has none.";

async function mapOf(stacks: readonly Stack[], at: Position): Promise<Plane | Absent> {
  if (!stacks.length) return { absent: "There is no map of this direction for this sample." };
  if (at.step !== null && at.head !== null) {
    return { absent: "This report has maps of one step or of one head, not of both." };
  }
  const { layer, step, head } = at;
  if (layer === null && step === null && head === null) {
    const whole = stacks.find((stack) => stack.dims.length === 0);
    if (whole) return whole.plane();
  }
  const dim = head === null ? "step" : "head";
  const stack = stacks.find((one) => one.dims[0] === "layer" && one.dims[1] === dim);
  if (!stack) return { absent: `This report has no maps of one ${dim}.` };
  const [layers = 0, others = 0] = stack.sizes;
  const other = head ?? step;
  const planes: Plane[] = [];
  for (const one of layer === null ? count(layers) : [layer]) {
    for (const second of other === null ? count(others) : [other]) {
      planes.push(await stack.plane(one, second));
    }
  }
  const mean = planes.length === 1 && planes[0] ? planes[0] : meanOf(planes);
  if (mean.values.some(Number.isFinite)) return mean;
  return { absent: "There is no map here: the layer has no such head or no grid." };
}

function rangeOf(stacks: readonly Stack[]): readonly [number, number] | null {
  const ranges = stacks.map((stack) => stack.range).filter((range) => range.every(Number.isFinite));
  if (!ranges.length) return null;
  return [Math.min(...ranges.map(([low]) => low)), Math.max(...ranges.map(([, high]) => high))];
}

function count(length: number): number[] {
  return Array.from({ length }, (_, at) => at);
}
