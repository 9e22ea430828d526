/** A Python process as a source: the page asks by messages, and hears planes as float32. */

import type {
  Absent,
  Direction,
  Plane,
  Position,
  RunSource,
  SampleSource,
  SramEstimate,
} from "../source.ts";
import { checkFormat, effectsOf, picturesOf, type RunJson, type SampleJson } from "./sample_json.ts";

/** What anywidget gives of its model. */
export interface Model {
  get(name: string): unknown;
  send(message: unknown): void;
  on(event: "msg:custom", heard: Heard): void;
  off(event: "msg:custom", heard: Heard): void;
}

type Heard = (message: Answer, buffers: readonly (DataView | ArrayBuffer)[]) => void;

interface Answer {
  readonly id?: number;
  readonly run?: RunJson;
  readonly sample?: WidgetSampleJson;
  readonly plane?: { readonly height: number; readonly width: number };
  readonly share?: number;
  readonly absent?: string;
  readonly error?: string;
}

interface WidgetSampleJson extends SampleJson {
  readonly has: Readonly<Record<Direction | "sram", boolean>>;
}

/** An answer with its plane, if it has one. */
interface Reply extends Answer {
  readonly values: Float32Array | null;
}

/** Questions that are under way, by their numbers. */
export class Questions {
  readonly #model: Model;
  readonly #heard = new Map<number, (reply: Reply) => void>();
  readonly #listen: Heard;
  #last = 0;

  constructor(model: Model) {
    this.#model = model;
    this.#listen = (message, buffers) => {
      const heard = typeof message.id === "number" ? this.#heard.get(message.id) : undefined;
      heard?.({ ...message, values: buffers[0] ? floats(buffers[0]) : null });
    };
    model.on("msg:custom", this.#listen);
  }

  close(): void {
    this.#model.off("msg:custom", this.#listen);
    this.#heard.clear();
  }

  /** Yield the answers to a question until whoever asked has enough, or no longer wants them. */
  async *ask(question: Readonly<Record<string, unknown>>, signal?: AbortSignal): AsyncGenerator<Reply> {
    this.#last += 1;
    const id = this.#last;
    const waiting: Reply[] = [];
    let wake = () => {};
    const stop = () => wake();
    this.#heard.set(id, (reply) => {
      waiting.push(reply);
      wake();
    });
    signal?.addEventListener("abort", stop);
    let isDone = false;
    try {
      this.#model.send({ id, ...question });
      for (;;) {
        signal?.throwIfAborted();
        const reply = waiting.shift();
        if (!reply) {
          await new Promise<void>((resolve) => (wake = resolve));
          continue;
        }
        if (reply.error !== undefined) {
          isDone = true;
          throw new Error(reply.error);
        }
        isDone = reply.share === undefined || reply.share >= 1;
        yield reply;
        if (isDone) return;
      }
    } finally {
      this.#heard.delete(id);
      signal?.removeEventListener("abort", stop);
      if (!isDone) this.#model.send({ id, ask: "cancel" });
    }
  }

  /** The one answer to a question. */
  async once(question: Readonly<Record<string, unknown>>, signal?: AbortSignal): Promise<Reply> {
    for await (const reply of this.ask(question, signal)) return reply;
    throw new Error("Expected an answer of the Python process, got none.");
  }
}

/** The run that the widget's Python side has open. */
export async function widgetSource(questions: Questions): Promise<RunSource> {
  const { run: json } = await questions.once({ ask: "samples" });
  if (!json) throw new Error("Expected the run's samples of the Python process, got none.");
  const run = checkFormat(json);
  return {
    title: run.title,
    facts: run.facts,
    notes: run.notes,
    scores: run.scores,
    samples: () => Promise.resolve(run.samples ?? []),
    open: async (name) => {
      const { sample } = await questions.once({ ask: "open", name });
      if (!sample) throw new Error(`Expected a sample of the Python process, got none, at ${name}.`);
      return widgetSample(questions, sample);
    },
  };
}

function widgetSample(questions: Questions, json: WidgetSampleJson): SampleSource {
  const { name } = json;
  return {
    ...json,
    images: picturesOf(json.images),
    effects: effectsOf(json.effects),
    start: { layer: null, step: null, head: null },
    hasStepAndHead: true,
    sramFollows: true,
    map: async (direction, at, signal) => {
      if (!json.has[direction]) return { absent: "There is no map of this direction for this sample." };
      return planeOf(await questions.once({ ask: "map", name, direction, ...indices(at) }, signal));
    },
    range: () => null,
    patches: () => null,
    sram: async function* (side, y, x, at, signal): AsyncGenerator<SramEstimate | Absent> {
      if (!json.has.sram) {
        yield { absent: "No layer has patches of both images: there is no attention of single patches." };
        return;
      }
      for await (const reply of questions.ask({ ask: "sram", name, side, y, x, ...indices(at) }, signal)) {
        const plane = planeOf(reply);
        yield "absent" in plane ? plane : { plane, share: reply.share ?? 1 };
      }
    },
  };
}

function indices({ layer, step, head }: Position): Record<string, number | null> {
  return { layer, step, head };
}

function planeOf({ plane, values, absent }: Reply): Plane | Absent {
  if (absent !== undefined) return { absent };
  if (!plane || values?.length !== plane.height * plane.width) {
    throw new Error("Expected a plane of the Python process, got another answer.");
  }
  return { ...plane, values };
}

function floats(buffer: DataView | ArrayBuffer): Float32Array {
  // A view may begin where float32 may not: its bytes are copied.
  const bytes =
    buffer instanceof ArrayBuffer
      ? buffer
      : buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength);
  return new Float32Array(bytes);
}
