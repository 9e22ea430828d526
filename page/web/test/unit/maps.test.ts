import assert from "node:assert/strict";
import { test } from "node:test";
import { deflateRawSync } from "node:zlib";

import { colorIndex, colorOf, INFERNO, isLight } from "../../src/maps/colormap.ts";
import { boxOfCell, cellAt, frameOf, meanOf, peakOf, place, summarise } from "../../src/maps/plane.ts";
import { largestGrid, resize } from "../../src/maps/resize.ts";
import { Stack } from "../../src/maps/stack.ts";
import { isAbsent } from "../../src/source.ts";
import { reportSample } from "../../src/sources/report_source.ts";
import { blend } from "../../src/page/picture_view.ts";
import { assertAlike, golden } from "../support.ts";

const plane = (height: number, width: number, values: number[]) => ({
  height,
  width,
  values: Float32Array.from(values),
});

test("the colormap runs from Matplotlib's first inferno to its last", () => {
  assert.equal(INFERNO.length, 768);
  assert.deepEqual([...INFERNO.subarray(0, 3)], [0, 0, 4]);
  assert.deepEqual([...INFERNO.subarray(-3)], [252, 255, 164]);
  assert.equal(colorOf(0.5), "rgb(188, 55, 84)");
  assert.deepEqual([colorIndex(-1), colorIndex(1), colorIndex(0.999)], [0, 255, 255]);
  assert.deepEqual([isLight(0), isLight(1)], [false, true]);
});

test("a map is resized as the kernel resizes it, frames apart", () => {
  for (const { map, frames, resized } of golden.resize) {
    const own = [map.height, map.width] as const;
    const wanted = [resized.height, resized.width] as const;
    const found = resize(Float32Array.from(map.values), own, wanted, frames);
    assertAlike({ height: wanted[0], width: wanted[1], values: found }, resized, 1e-5);
  }
  const same = Float32Array.of(1, 2);
  assert.equal(resize(same, [1, 2], [1, 2]), same);
  assert.deepEqual(largestGrid([[4, 4], [8, 6], [6, 8]]), [8, 6]);
});

function stack(dims: string[], shape: number[], bytes: number[], low: number[], high: number[]) {
  const data = deflateRawSync(Buffer.from(bytes)).toString("base64");
  return { dims, shape, encoding: "deflate-raw" as const, data, low, high };
}

test("a stack gives each map between its own ends, and NaN where there is no value", async () => {
  const maps = new Stack(stack(["layer"], [2, 1, 3], [0, 127, 254, 254, 255, 0], [1, -2], [3, 2]));
  assert.deepEqual([...(await maps.plane(0)).values], [1, 2, 3]);
  assert.deepEqual([...(await maps.plane(1)).values], [2, NaN, -2]);
  assert.deepEqual(maps.range, [-2, 3]);
});

test("a pixel belongs to the cell that holds it, also where the box cuts it", () => {
  const box = [-4, 8.5, 28, 40.5] as const;
  assert.deepEqual(cellAt([8, 8], box, 0, 8), [1, 0]);
  assert.deepEqual(cellAt([8, 8], box, 27, 40), [7, 7]);
  assert.equal(cellAt([8, 8], box, 28, 20), null);
  assert.equal(cellAt([8, 8], box, 5, 7), null);
  assert.deepEqual(boxOfCell([8, 8], box, [1, 0]), [0, 8.5, 4, 12.5]);
  assert.deepEqual(frameOf([32, 32], box), [-4, 0, 32, 41]);
});

test("a map is placed in its box bilinearly, and nowhere else", () => {
  const placed = place(plane(1, 2, [0, 1]), [1, 4], [0, 0, 1, 4], [0, 1, 1, 3]);
  assert.deepEqual([...placed], [NaN, 0, 1, NaN]);
  const wide = place(plane(1, 2, [0, 1]), [1, 4], [0, 0, 1, 4], [0, 0, 1, 4]);
  assert.deepEqual([...wide], [0, 0.25, 0.75, 1]);
});

test("means, ends and peaks skip what has no value", () => {
  const mean = meanOf([plane(1, 3, [1, NaN, NaN]), plane(1, 3, [3, 4, NaN])]);
  assert.deepEqual([...mean.values], [2, 4, NaN]);
  assert.deepEqual(summarise(mean), { low: 2, high: 4, mean: 3 });
  assert.deepEqual(peakOf(plane(2, 2, [NaN, 1, 5, 2])), [1, 0]);
  assert.equal(peakOf(plane(1, 1, [NaN])), null);
});

test("heat is opaque where a map is high, and absent where it is lowest or has no value", () => {
  const pixels = new Uint8ClampedArray(12).fill(100);
  blend(pixels, Float32Array.of(0, NaN, 1), [0, 1], 1);
  assert.deepEqual([...pixels.subarray(0, 8)], new Array(8).fill(100));
  assert.deepEqual([...pixels.subarray(8, 11)], [252, 255, 164]);
});

test("a report has maps of one step or one head, means of them, and says so of both", async () => {
  const box = [0, 0, 8, 8] as const;
  const image = { url: "", size: [8, 8] as const, box };
  const [low, high] = [[0, 0, 0, 0], [254, 254, 254, 254]];
  const sample = reportSample({
    name: "one",
    notes: [],
    provenance: [],
    images: { generated: image, reference: image },
    axes: { layers: ["a", "b"], timesteps: [900, 0], steps: ["0", "1"], heads: ["0", "1"] },
    maps: {
      r2g: [
        stack(["layer", "step"], [2, 2, 1, 1], [10, 20, 30, 50], low, high),
        stack(["layer", "head"], [2, 2, 1, 1], [1, 3, 5, 255], low, high),
        stack([], [1, 2], [7, 9], [0], [254]),
      ],
    },
    sram: {
      generated: {
        cells: [2, 2],
        stack: stack(["cell"], [4, 1, 1], [1, 2, 3, 255], [0, 0, 0, 0], [254, 254, 254, 0]),
      },
    },
    curves: [],
    matrix: [],
    effects: null,
    scores: {},
    figures: [],
  });
  const signal = new AbortController().signal;
  const value = async (layer: number | null, step: number | null, head: number | null) => {
    const found = await sample.map("r2g", { layer, step, head }, signal);
    return isAbsent(found) ? found.absent : [...found.values].map(Math.round);
  };
  assert.deepEqual(await value(1, 0, null), [30]);
  assert.deepEqual(await value(0, null, 1), [3]);
  assert.deepEqual(await value(0, null, null), [15]);
  assert.deepEqual(await value(null, 1, null), [35]);
  assert.deepEqual(await value(null, null, null), [7, 9]);
  assert.match(String(await value(1, null, 1)), /no such head/);
  assert.match(String(await value(1, 1, 1)), /not of both/);
  const asked = async (y: number, x: number) => {
    for await (const answer of sample.sram("generated", y, x, sample.start, signal)) {
      return isAbsent(answer) ? answer.absent : Math.round(answer.plane.values[0] ?? NaN);
    }
    return null;
  };
  assert.equal(await asked(7, 0), 3);
  assert.match(String(await asked(7, 7)), /No patch/);
});
