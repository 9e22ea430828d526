import assert from "node:assert/strict";
import { test } from "node:test";

import { actionOf, moved } from "../../src/page/keys.ts";
import { nextOrder, sortSamples } from "../../src/page/sorting.ts";
import { describePosition, formatNumber, joined, messageOf } from "../../src/page/words.ts";

const axes = { layers: ["a", "b"], timesteps: [900, 500, 0], steps: ["0", "1", "2"], heads: ["0"] };
const mean = { layer: null, step: null, head: null };

test("samples are sorted by score, those without it last either way, and names as people count", () => {
  const samples = [
    { name: "s10", scores: { iou: 0.2 } },
    { name: "s9", scores: { iou: null } },
    { name: "s2", scores: { iou: 0.7 } },
    { name: "s1" },
  ];
  const names = (by: string, descending: boolean) =>
    sortSamples(samples, { by, descending }).map((sample) => sample.name);
  assert.deepEqual(names("", false), ["s1", "s2", "s9", "s10"]);
  assert.deepEqual(names("iou", true), ["s2", "s10", "s1", "s9"]);
  assert.deepEqual(names("iou", false), ["s10", "s2", "s1", "s9"]);
});

test("the first click on a heading brings the best to the top, the next one turns the order", () => {
  const first = nextOrder({ by: "", descending: false }, "iou", "high");
  assert.deepEqual(first, { by: "iou", descending: true });
  assert.deepEqual(nextOrder(first, "iou", "high"), { by: "iou", descending: false });
  assert.deepEqual(nextOrder(first, "entropy", "low"), { by: "entropy", descending: false });
  assert.deepEqual(nextOrder(first, "", null), { by: "", descending: false });
});

test("arrows move step and layer, brackets the head, and before the first is the mean", () => {
  assert.deepEqual(actionOf({ key: "ArrowRight" }, mean, axes), { move: { ...mean, step: 0 } });
  assert.deepEqual(actionOf({ key: "ArrowUp" }, mean, axes), { move: { ...mean, layer: 0 } });
  assert.deepEqual(actionOf({ key: "]" }, { ...mean, head: 0 }, axes), { move: { ...mean, head: 0 } });
  assert.deepEqual(actionOf({ key: "[" }, { ...mean, head: 0 }, axes), { move: mean });
  assert.deepEqual(actionOf({ key: "]", ctrlKey: true, altKey: true }, mean, axes), {
    move: { ...mean, head: 0 },
  });
  assert.deepEqual([moved(null, -1, 3), moved(2, 1, 3), moved(0, 1, 3)], [null, 2, 1]);
});

test("n, p and Escape are the page's, and what is held with a modifier is the browser's", () => {
  const of = (key: string, held = {}) => actionOf({ key, ...held }, mean, axes);
  assert.deepEqual([of("n"), of("p"), of("Escape")], ["next", "previous", "clear"]);
  assert.deepEqual([of("n", { ctrlKey: true }), of("ArrowLeft", { altKey: true }), of("x")], [null, null, null]);
});

test("positions and numbers are told in words", () => {
  assert.equal(describePosition(axes, mean), "mean over layers, steps and heads");
  assert.equal(
    describePosition(axes, { layer: 1, step: 2, head: null }),
    "layer b, step 2 (timestep 0), mean over heads",
  );
  assert.deepEqual(
    [0, 0.00001234, 0.123456, 12345678, NaN, null].map(formatNumber),
    ["0", "1.23e-5", "0.123", "1.23e+7", "–", "–"],
  );
  assert.equal(joined(["a", "b", "c"]), "a, b and c");
  const ofCodec = Object.assign(new Error("codec", { cause: new Error("inner") }), { name: "CodecPipelineError" });
  assert.deepEqual([messageOf(ofCodec), messageOf(new Error("outer")), messageOf("word")], ["inner", "outer", "word"]);
});
