import assert from "node:assert/strict";
import { test } from "node:test";

import { Questions, type Model } from "../../src/sources/widget_source.ts";

type Message = Record<string, unknown> & { id: number };

/** A model as anywidget gives it, whose other end a test answers. */
function channel() {
  const sent: Message[] = [];
  const heard = new Set<(message: never, buffers: never) => void>();
  const model: Model = {
    get: () => "",
    send: (message) => sent.push(message as Message),
    on: (_, listen) => void heard.add(listen),
    off: (_, listen) => void heard.delete(listen),
  };
  const answer = (message: object, ...buffers: DataView[]) => {
    for (const listen of heard) listen(message as never, buffers as never);
  };
  return { model, sent, heard, answer };
}

test("answers go to the questions that they are for, with their numbers", async () => {
  const { model, sent, answer } = channel();
  const questions = new Questions(model);
  const [first, second] = [questions.once({ ask: "map" }), questions.once({ ask: "open" })];
  const bytes = new Uint8Array(9);
  new DataView(bytes.buffer).setFloat32(1, 2.5, true);
  answer({ id: sent[1]?.id, sample: { name: "b" } });
  answer({ id: sent[0]?.id, plane: { height: 1, width: 1 } }, new DataView(bytes.buffer, 1, 4));
  assert.deepEqual((await first).values, Float32Array.of(2.5));
  assert.equal((await second).sample?.name, "b");
  assert.equal(sent.length, 2);
});

test("estimates come until the share is 1, and whoever stops earlier says so", async () => {
  const { model, sent, answer } = channel();
  const questions = new Questions(model);
  const shares: unknown[] = [];
  const all = (async () => {
    for await (const reply of questions.ask({ ask: "sram" })) shares.push(reply.share);
  })();
  for (const share of [0.25, 1]) answer({ id: sent[0]?.id, share });
  await all;
  assert.deepEqual([shares, sent.length], [[0.25, 1], 1]);
  const stopped = new AbortController();
  const waiting = questions.once({ ask: "sram" }, stopped.signal);
  stopped.abort();
  await assert.rejects(waiting, { name: "AbortError" });
  assert.deepEqual(sent.at(-1), { id: sent[1]?.id, ask: "cancel" });
});

test("an error of the process is an error here, and a closed page hears nothing more", async () => {
  const { model, sent, heard, answer } = channel();
  const questions = new Questions(model);
  const failed = questions.once({ ask: "open" });
  answer({ id: sent[0]?.id, error: "Expected a sample, got none." });
  await assert.rejects(failed, /Expected a sample, got none/);
  questions.close();
  assert.equal(heard.size, 0);
});
