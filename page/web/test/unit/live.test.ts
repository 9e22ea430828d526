import assert from "node:assert/strict";
import { test } from "node:test";

import { crc32c } from "../../src/live/codecs.ts";
import { fromHalf } from "../../src/live/half.ts";
import { liveSource } from "../../src/live/live_run.ts";
import { parseBucketListing, parseFolderListing } from "../../src/live/listing.ts";
import { vanDerCorputOrder } from "../../src/live/sram.ts";
import { messageOf } from "../../src/page/words.ts";
import { isAbsent, type Plane, type Position, type SampleSource } from "../../src/source.ts";
import { assertAlike, golden, ORIGIN, serve, storedObjects, type GoldenAnswer, type Served } from "../support.ts";

const json = { format: 1, kind: "live" as const, title: "run", facts: [], notes: [], scores: [] };
const signal = new AbortController().signal;

function source(served: Served, run: string, maps: string | null = null) {
  const at = (store: string) => `${ORIGIN}/${store}`;
  return liveSource(json, { run: at(run), maps: maps && at(maps), names: null }, served.fetch);
}

function positionFor(sample: SampleSource, { question }: GoldenAnswer): Position {
  const indexOf = (labels: readonly string[], label?: string | number) =>
    label === undefined ? null : labels.indexOf(String(label));
  const { layers, steps, heads } = sample.axes;
  return {
    layer: indexOf(layers, question.layers),
    step: indexOf(steps, question.steps),
    head: indexOf(heads, question.heads),
  };
}

async function answers(sample: SampleSource, asked: GoldenAnswer) {
  const { generated, reference } = asked.question;
  const [y, x] = generated ?? reference ?? [0, 0];
  const side = generated ? "generated" : "reference";
  const found: { plane: Plane; share: number }[] = [];
  for await (const answer of sample.sram(side, y, x, positionFor(sample, asked), signal)) {
    if (isAbsent(answer)) throw new Error(answer.absent);
    found.push(answer);
  }
  return found;
}

test("the attention of a patch is that of i2am.analysis.sram: factors, logits, shared softmax, regions, frames", async () => {
  const sample = await source(serve(storedObjects()), "mixed.zarr").open("first");
  assert.deepEqual(sample.axes.heads, ["0", "1", "2", "3"]);
  assert.deepEqual(sample.axes.layers.at(-1), "f.maps"); // g.second.reference_1 looks at another reference.
  assert.match(sample.notes[0] ?? "", /a similarity, not a cause, in 1 of 7 layers/);
  assert.match(sample.notes.at(-1) ?? "", /may be registers: .* nothing from it, such as those outside the mask, have/);
  for (const asked of golden.sram) {
    const last = (await answers(sample, asked)).at(-1);
    assert.equal(last?.share, 1);
    assertAlike(last.plane, asked.plane);
  }
});

for (const kind of ["ranges", "plain", "bucket"] as const) {
  test(`what the capture wrote answers alike from a server of kind ${kind}`, async () => {
    const folder = kind === "bucket" ? "bucket/" : "";
    const served = serve(storedObjects(), kind);
    const run = source(served, `${folder}written.zarr`);
    assert.deepEqual(await run.samples(), [{ name: "shirt" }]);
    const sample = await run.open("shirt");
    const found = await answers(sample, golden.writtenSram);
    assert.ok(found.length > 1 && (found[0]?.share ?? 1) < 1);
    assert.ok(found.at(-1));
    assertAlike(found.at(-1)!.plane, golden.writtenSram.plane);
  });
}

test("a server without ranges is asked for each object once, however many patches are clicked", async () => {
  const served = serve(storedObjects(), "plain");
  const sample = await source(served, "written.zarr").open("shirt");
  for (let click = 0; click < 3; click++) await answers(sample, golden.writtenSram);
  const queries = served.asked.map(({ path }) => path).filter((path) => path.includes("/query/c/"));
  const first = queries.filter((path) => path === queries[0]);
  assert.ok(first.length <= 2 && queries.length <= 2 * new Set(queries).size, String(queries.length));
});

test("opening a run reads names alone, and a click no more than its patch needs", async () => {
  const served = serve(storedObjects());
  const run = source(served, "written.zarr");
  await run.samples();
  assert.ok(served.asked.every(({ path }) => !path.includes("/zarr.json")));
  const sample = await run.open("shirt");
  const before = served.asked.length;
  await answers(sample, golden.writtenSram);
  const reads = served.asked.slice(before).filter(({ path }) => path.includes("/query/"));
  assert.ok(reads.length > 0 && reads.every(({ range }) => range !== null));
});

test("a map of one layer and step is computed as analyze does it, or read where it was reduced", async () => {
  const sample = await source(serve(storedObjects()), "mixed.zarr").open("first");
  for (const wanted of golden.maps) {
    const layer = sample.axes.layers.indexOf(wanted.layer);
    const head = wanted.head === null ? null : sample.axes.heads.indexOf(String(wanted.head));
    const at = { layer, step: 0, head };
    for (const direction of ["r2g", "g2r"] as const) {
      const found = await sample.map(direction, at, signal);
      const own = wanted[direction];
      assert.equal(isAbsent(found), own === undefined, `${wanted.layer} ${direction}`);
      if (own && !isAbsent(found)) assertAlike(found, own);
    }
  }
  const means = await sample.map("r2g", { layer: null, step: 0, head: null }, signal);
  assert.ok(isAbsent(means));
});

test("stored maps are read by their labels, with blosc and without eval", async () => {
  const sample = await source(serve(storedObjects()), "written.zarr", "maps.zarr").open("shirt");
  assert.deepEqual(sample.start, { layer: null, step: null, head: null });
  const layer = sample.axes.layers.indexOf(golden.writtenMaps.layer);
  for (const direction of ["r2g", "g2r"] as const) {
    const found = await sample.map(direction, { layer, step: 0, head: null }, signal);
    assert.ok(!isAbsent(found) && golden.writtenMaps[direction]);
    assertAlike(found, golden.writtenMaps[direction]);
    const whole = await sample.map(direction, sample.start, signal);
    assert.ok(!isAbsent(whole) && whole.values.every(Number.isFinite));
  }
});

test("a damaged chunk, a lost one, and one that was cut off are told, not shown", async () => {
  const chunk = "written.zarr/shirt/layers/down.0.attn2/key/c/0/0/0";
  const broken = async (change: (bytes: Uint8Array) => Uint8Array | null) => {
    const objects = storedObjects();
    const bytes = change(new Uint8Array(objects.get(chunk) ?? []));
    if (bytes) objects.set(chunk, bytes);
    else objects.delete(chunk);
    const sample = await source(serve(objects), "written.zarr").open("shirt");
    return answers(sample, golden.writtenSram).then(() => "no error", messageOf);
  };
  const flipped = (bytes: Uint8Array) => bytes.map((byte, at) => (at === 40 ? byte ^ 1 : byte));
  assert.match(await broken(flipped), /Expected the checksum \d+, got \d+/);
  assert.match(await broken(() => null), /that the sample lists, got none/);
  assert.match(await broken((bytes) => bytes.subarray(0, 64)), /checksum/);
});

test("a server that does not answer is told, with what may be the matter", async () => {
  const fetch = () => Promise.reject(new TypeError("Failed to fetch"));
  await assert.rejects(source({ fetch, asked: [] }, "written.zarr").open("shirt"), /got none, at .*shirt.*CORS/);
});

test("what may not be read is not told to be incomplete", async () => {
  const fetch = () => Promise.resolve(new Response("", { status: 403 }));
  await assert.rejects(source({ fetch, asked: [] }, "written.zarr").open("shirt"), /may be read, got the answer 403, at shirt/);
});

test("a sample that is not complete is not shown", async () => {
  const objects = storedObjects();
  const key = "written.zarr/shirt/zarr.json";
  const text = new TextDecoder().decode(objects.get(key)).replace('"complete"', '"running"');
  objects.set(key, new TextEncoder().encode(text));
  await assert.rejects(source(serve(objects), "written.zarr").open("shirt"), /got running, at shirt/);
});

test("listings of buckets and folders are read as names, whatever they hold", () => {
  const xml =
    '<?xml version="1.0"?><ListBucketResult xmlns="x"><Prefix>run/</Prefix>' +
    "<CommonPrefixes><Prefix>run/a &amp; b/</Prefix></CommonPrefixes>" +
    "<CommonPrefixes><Prefix>run/&lt;i&gt;/</Prefix></CommonPrefixes>" +
    "<NextContinuationToken>t/1=</NextContinuationToken></ListBucketResult>";
  assert.deepEqual(parseBucketListing(xml, "run/"), { names: ["a & b", "<i>"], next: "t/1=" });
  assert.equal(parseBucketListing("<html>", "run/"), null);
  const html =
    '<a href="../">up</a><a href="/abs/">x</a><a href="http://elsewhere/">x</a><a href="?C=N">x</a>' +
    `<a class="d" href="shirt%20one/">x</a><A HREF='./two/'>x</A><a href="zarr.json">x</a><a href="%E0/">x</a>`;
  assert.deepEqual(parseFolderListing(html), ["shirt one", "two"]);
});

test("steps are read far apart first, as analysis reads them", () => {
  const steps = (count: number) => Array.from({ length: count }, (_, at) => at);
  assert.deepEqual(vanDerCorputOrder(steps(8), 2), [[4, 5], [2, 3], [6, 7], [0, 1]]);
  assert.deepEqual(vanDerCorputOrder([1, 2, 9], 5), [[9], [1, 2]]);
  assert.deepEqual(vanDerCorputOrder(steps(6), 3, 1), [[0, 1, 2], [3, 4, 5]]);
});

test("checksums and halves are those of the standards", () => {
  assert.equal(crc32c(new TextEncoder().encode("123456789")), 0xe3069283);
  assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa);
  const bits = Uint16Array.of(0x3c00, 0xc000, 0x7bff, 0x0001, 0x7c00, 0xfc00, 0x7e00, 0x8000);
  const values = [1, -2, 65504, 2 ** -24, Infinity, -Infinity, NaN, -0];
  assert.deepEqual([...fromHalf(bits)], values);
});
