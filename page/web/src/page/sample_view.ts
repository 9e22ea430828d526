/** One sample: its two images with heat, the sliders, what was clicked, and what else is known. */

import { boxOfCell, cellAt, peakOf, summarise } from "../maps/plane.ts";
import {
  isAbsent,
  otherSide,
  type Axes,
  type Box,
  type Direction,
  type Plane,
  type Position,
  type SampleSource,
  type Score,
  type Side,
} from "../source.ts";
import { heatControls, Sliders, type Scale } from "./controls.ts";
import { el } from "./dom.ts";
import { details } from "./sample_details.ts";
import { PictureView, type HeatStyle } from "./picture_view.ts";
import { describePosition, formatNumber, messageOf } from "./words.ts";

const SIDES = ["generated", "reference"] as const;
const DIRECTIONS: Readonly<Record<Side, { direction: Direction; title: string }>> = {
  generated: { direction: "r2g", title: "Generated: which patches draw on the reference (R2G)" },
  reference: { direction: "g2r", title: "Reference: which of its parts are used (G2R)" },
};
/** A map that comes sooner is shown without a sign that one waits. */
const PATIENCE_MS = 150;
const SPOKEN_AFTER_MS = 500;

interface Asked {
  readonly side: Side;
  readonly y: number;
  readonly x: number;
}

/** What is chosen for one sample and kept for the next. */
export interface Look {
  style: HeatStyle;
  scale: Scale;
}

export class SampleView {
  readonly element: HTMLElement;
  readonly #source: SampleSource;
  readonly #look: Look;
  readonly #views: Partial<Record<Side, PictureView>> = {};
  readonly #planes: Partial<Record<Side, Plane>> = {};
  readonly #seen: Partial<Record<Side, [number, number]>> = {};
  readonly #sliders: Sliders;
  readonly #spoken = el("p", { class: "unseen", "aria-live": "polite" });
  readonly #asking = el("p", { class: "asked" });
  readonly #closed = new AbortController();
  #at: Position;
  #pending = new AbortController();
  #asked: Asked | null = null;
  #pendingSram = new AbortController();
  #speaking = 0;

  constructor(source: SampleSource, scores: readonly Score[], look: Look) {
    [this.#source, this.#look, this.#at] = [source, look, source.start];
    for (const side of SIDES) {
      const picture = source.images[side];
      if (!picture) continue;
      const view = new PictureView(picture, {
        pick: (y, x) => void this.#pick({ side, y, x }),
        patches: () => this.#patches(side),
      });
      view.style = look.style;
      this.#views[side] = view;
    }
    this.#sliders = new Sliders(source.axes, (axis, to) => this.move({ ...this.#at, [axis]: to }));
    const controls = el(
      "div",
      { class: "controls" },
      this.#sliders.element,
      heatControls(look.style, look.scale, (style, scale) => this.#restyle(style, scale)),
      this.#asking,
    );
    this.element = el(
      "div",
      { class: "sample" },
      ...source.notes.map((note) => el("p", { class: "note" }, note)),
      el("div", { class: "pictures" }, ...SIDES.map((side) => this.#views[side]?.element ?? null)),
      controls,
      this.#spoken,
      ...details(source, scores, (layer, head) => this.#goTo(layer, head)),
    );
    this.clear();
  }

  get position(): Position {
    return this.#at;
  }

  get axes(): Axes {
    return this.#source.axes;
  }

  /** Read the images, and the first maps. */
  async load(): Promise<void> {
    this.move(this.#at);
    await Promise.all(Object.values(this.#views).map((view) => view.load()));
  }

  close(): void {
    clearTimeout(this.#speaking);
    for (const one of [this.#closed, this.#pending, this.#pendingSram]) one.abort();
  }

  /** Show another map; where there is none of one step and one head, the one that was not moved goes back to the mean. */
  move(to: Position): void {
    let at = to;
    if (!this.#source.hasStepAndHead && at.step !== null && at.head !== null) {
      at = { ...at, [at.step === this.#at.step ? "step" : "head"]: null };
    }
    this.#at = at;
    this.#sliders.show(at);
    this.#pending.abort();
    this.#pending = new AbortController();
    for (const side of SIDES) void this.#showMap(side, this.#pending.signal);
    if (this.#asked && this.#source.sramFollows) void this.#pick(this.#asked);
    this.#speak(describePosition(this.#source.axes, at));
  }

  /** Forget what was clicked. */
  clear(): void {
    const had = this.#asked;
    this.#asked = null;
    this.#pendingSram.abort();
    this.#asking.replaceChildren(
      "Click a patch of an image to see its own attention on the other one. Keys: ",
      "← → step, ↑ ↓ layer, [ ] head, n and p next and previous sample; ",
      "on an image Shift with arrows and Enter choose a patch, Escape clears it.",
    );
    for (const side of SIDES) {
      this.#views[side]?.mark(null, null);
      if (had) this.#draw(side);
    }
    if (had) this.#speak("Patch cleared");
  }

  async #showMap(side: Side, signal: AbortSignal): Promise<void> {
    const view = this.#views[side];
    if (!view) return;
    const waiting = setTimeout(() => (view.isWaiting = true), PATIENCE_MS);
    try {
      const answer = await this.#source.map(DIRECTIONS[side].direction, this.#at, signal);
      if (signal.aborted) return;
      if (isAbsent(answer)) {
        delete this.#planes[side];
        this.#draw(side);
        if (this.#asked?.side !== otherSide(side)) view.say(answer.absent);
      } else {
        this.#planes[side] = answer;
        this.#draw(side);
      }
    } catch (error) {
      if (signal.aborted) return;
      delete this.#planes[side];
      this.#draw(side);
      view.say(messageOf(error));
    } finally {
      clearTimeout(waiting);
      if (!signal.aborted) view.isWaiting = false;
    }
  }

  /** Draw the map of a side, unless the attention of a patch is shown there. */
  #draw(side: Side): void {
    if (this.#asked?.side === otherSide(side)) return;
    const { title, direction } = DIRECTIONS[side];
    const plane = this.#planes[side];
    const where = describePosition(this.#source.axes, this.#at);
    if (!plane) {
      this.#views[side]?.show(null, title, `${side} image of ${this.#source.name}, without a map`);
      return;
    }
    const words = `${title}, ${where}. ${this.#peakWords(plane, side)}`;
    this.#views[side]?.show({ plane, limits: this.#limits(plane, side, direction) }, title, words);
  }

  #limits(plane: Plane, side: Side, direction: Direction): [number, number] {
    const { low, high } = summarise(plane);
    const known = this.#source.range(direction) ?? this.#seen[side] ?? [low, high];
    this.#seen[side] = [Math.min(known[0], low), Math.max(known[1], high)];
    return this.#look.scale === "own" ? [low, high] : this.#seen[side];
  }

  #peakWords(plane: Plane, side: Side): string {
    const [cell, box] = [peakOf(plane), this.#source.images[side]?.box];
    if (!cell || !box) return "No value";
    const [y0, x0, y1, x1] = boxOfCell([plane.height, plane.width], box, cell);
    const [y, x] = [Math.round((y0 + y1) / 2), Math.round((x0 + x1) / 2)];
    return `Highest at row ${y}, column ${x}: ${formatNumber(summarise(plane).high)}`;
  }

  #patches(side: Side): readonly [number, number] | null {
    const plane = this.#planes[side];
    return this.#source.patches(side, this.#at) ?? (plane ? [plane.height, plane.width] : null);
  }

  #outline({ side, y, x }: Asked): Box | null {
    const [grid, box] = [this.#patches(side), this.#source.images[side]?.box];
    const cell = grid && box && cellAt(grid, box, y, x);
    return cell ? boxOfCell(grid, box, cell) : null;
  }

  /** Ask for the attention of a patch, and show it on the other image as it gets better. */
  async #pick(asked: Asked): Promise<void> {
    const other = otherSide(asked.side);
    const view = this.#views[other];
    if (!view || this.#closed.signal.aborted) return;
    this.#pendingSram.abort();
    this.#pendingSram = new AbortController();
    const { signal } = this.#pendingSram;
    const before = this.#asked;
    this.#asked = asked;
    if (before?.side === other) this.#draw(asked.side);
    this.#views[asked.side]?.mark(this.#outline(asked), null);
    view.mark(null, null);
    const waiting = setTimeout(() => (view.isWaiting = true), PATIENCE_MS);
    const patch = `row ${asked.y}, column ${asked.x} of the ${asked.side} image`;
    try {
      const estimates = this.#source.sram(asked.side, asked.y, asked.x, this.#at, signal);
      for await (const estimate of estimates) {
        if (signal.aborted) return;
        if (isAbsent(estimate)) {
          this.#fail(view, other, estimate.absent);
          return;
        }
        this.#showSram(view, other, estimate.plane, estimate.share, patch);
      }
    } catch (error) {
      if (!signal.aborted) this.#fail(view, other, messageOf(error));
    } finally {
      clearTimeout(waiting);
      if (!signal.aborted) view.isWaiting = false;
    }
  }

  #showSram(view: PictureView, other: Side, plane: Plane, share: number, patch: string): void {
    const { low, high } = summarise(plane);
    const over = this.#source.sramFollows
      ? describePosition(this.#source.axes, this.#at)
      : "mean over layers, steps and heads";
    const title = `${other === "reference" ? "Reference" : "Generated"}: attention of one patch`;
    const peak = this.#peakWords(plane, other);
    view.show({ plane, limits: [low, high] }, title, `${title}: ${patch}, ${over}. ${peak}`);
    const [cell, box] = [peakOf(plane), this.#source.images[other]?.box];
    view.mark(null, cell && box ? boxOfCell([plane.height, plane.width], box, cell) : null);
    const done = share < 1 ? ` So far ${Math.floor(share * 100)} % of it is read.` : "";
    this.#asking.replaceChildren(`Attention of the patch at ${patch}, ${over}. ${peak}.${done} Escape clears.`);
    if (share >= 1) this.#speak(`Patch at ${patch}. ${peak}`);
  }

  #fail(view: PictureView, other: Side, words: string): void {
    const title = `${other === "reference" ? "Reference" : "Generated"}: attention of one patch`;
    view.show(null, title, `${title}: ${words}`);
    view.say(words);
    this.#asking.replaceChildren(`${words} Escape clears.`);
    this.#speak(words);
  }

  #restyle(style: HeatStyle, scale: Scale): void {
    const isNew = scale !== this.#look.scale;
    [this.#look.style, this.#look.scale] = [style, scale];
    for (const side of SIDES) {
      const view = this.#views[side];
      if (view) view.style = style;
      if (isNew) this.#draw(side);
    }
  }

  /** Show the map of a cell of a matrix. */
  #goTo(layer: string, head: string): void {
    const { layers, heads } = this.#source.axes;
    const [own, ownHead] = [layers.indexOf(layer), heads.indexOf(head)];
    if (own < 0) return;
    this.move({ ...this.#at, layer: own, head: ownHead < 0 ? null : ownHead });
    this.#views.generated?.element.scrollIntoView({ block: "nearest" });
  }

  /** Tell those who do not see the page, once nothing has changed for a moment. */
  #speak(words: string): void {
    clearTimeout(this.#speaking);
    this.#speaking = window.setTimeout(() => this.#spoken.replaceChildren(words), SPOKEN_AFTER_MS);
  }
}

