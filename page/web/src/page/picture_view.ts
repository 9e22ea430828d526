/** One stored image with heat over it: drawing, the value under the pointer, and clicks on patches. */

import { INFERNO, colorIndex } from "../maps/colormap.ts";
import { boxOfCell, cellAt, frameOf, place, summarise } from "../maps/plane.ts";
import type { Box, Picture, Plane } from "../source.ts";
import { el, svg } from "./dom.ts";
import { formatNumber } from "./words.ts";

/** Small images are enlarged by whole pixels, so that heat is smooth over crisp pixels. */
const MIN_PX = 384;
const MAX_PX = 1024;
/** As in the figures: the image under heat in dark greys, padding in an even grey, a veil over what was not seen. */
const GREYS = [0.15, 0.6] as const;
const PADDING = "rgb(200 200 200)";
const VEIL = "rgb(0 0 0 / 0.65)";

export interface HeatStyle {
  readonly isOn: boolean;
  /** Of the highest value, 0 to 1. */
  readonly opacity: number;
}

export interface Heat {
  readonly plane: Plane;
  readonly limits: readonly [low: number, high: number];
}

export interface Asked {
  /** A patch was clicked, or chosen by the keyboard: a pixel of the image. */
  pick(y: number, x: number): void;
  /** The rows and columns of the patches that a click tells apart. */
  patches(): readonly [number, number] | null;
}

type Cell = readonly [number, number];

export class PictureView {
  readonly element: HTMLElement;
  readonly #canvas = el("canvas", { role: "img", tabindex: "0", "aria-describedby": "" });
  readonly #marks = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true" });
  readonly #title = el("figcaption");
  readonly #readout = el("p", { class: "readout" });
  readonly #message = el("p", { class: "message" });
  readonly #low = el("span");
  readonly #high = el("span");
  readonly #bar = el("div", { class: "bar", "aria-hidden": "true" });
  readonly #picture: Picture;
  readonly #frame: Box;
  readonly #asked: Asked;
  #pixels: { readonly plain: ImageData; readonly grey: ImageData } | null = null;
  #heat: Heat | null = null;
  #placed: { readonly plane: Plane; readonly values: Float32Array } | null = null;
  #style: HeatStyle = { isOn: true, opacity: 0.9 };
  #outline: Box | null = null;
  #peak: Box | null = null;
  #cursor: Cell | null = null;

  constructor(picture: Picture, asked: Asked) {
    [this.#picture, this.#asked] = [picture, asked];
    this.#frame = frameOf(picture.size, picture.box);
    const [y0, x0, y1, x1] = this.#frame;
    const [height, width] = [y1 - y0, x1 - x0];
    const scale = Math.min(
      Math.ceil(MIN_PX / Math.min(height, width)),
      MAX_PX / Math.max(height, width),
    );
    this.#canvas.height = Math.round(height * scale);
    this.#canvas.width = Math.round(width * scale);
    this.#canvas.removeAttribute("aria-describedby");
    this.#marks.setAttribute("viewBox", `${x0} ${y0} ${width} ${height}`);
    const stage = el("div", { class: "stage" }, this.#canvas, this.#marks);
    const scaleLine = el("div", { class: "scale" }, this.#low, this.#bar, this.#high);
    this.element = el("figure", { class: "picture" }, this.#title, stage, this.#message, scaleLine, this.#readout);
    this.#canvas.addEventListener("click", (event) => this.#click(event));
    this.#canvas.addEventListener("pointermove", (event) => this.#tell(event));
    this.#canvas.addEventListener("pointerleave", () => this.#readout.replaceChildren());
    this.#canvas.addEventListener("keydown", (event) => this.#key(event));
    this.#canvas.addEventListener("blur", () => this.#moveCursor(null));
    this.#paintBar();
  }

  /** Read the image's pixels; before that nothing is drawn. */
  async load(): Promise<void> {
    const source = await this.#picture.load();
    const { width, height } = this.#canvas;
    const drawn = this.#context();
    const [y0, x0] = this.#frame;
    const scale = width / (this.#frame[3] - x0);
    drawn.fillStyle = PADDING;
    drawn.fillRect(0, 0, width, height);
    drawn.imageSmoothingEnabled = scale < 1;
    const [rows, columns] = this.#picture.size;
    drawn.drawImage(source, -x0 * scale, -y0 * scale, columns * scale, rows * scale);
    this.#veil(drawn, scale);
    const plain = drawn.getImageData(0, 0, width, height);
    this.#pixels = { plain, grey: inGrey(plain) };
    this.#draw();
  }

  /** Show a map, or the image alone; the title says what it is, also to those who do not see it. */
  show(heat: Heat | null, title: string, description: string): void {
    this.#heat = heat;
    this.#title.replaceChildren(title);
    this.#canvas.setAttribute("aria-label", description);
    this.#low.replaceChildren(heat ? formatNumber(heat.limits[0]) : "");
    this.#high.replaceChildren(heat ? formatNumber(heat.limits[1]) : "");
    this.#bar.hidden = !heat;
    this.#message.replaceChildren();
    this.#readout.replaceChildren();
    this.#draw();
  }

  /** Say in words, below the image, why there is no map, or how far it is. */
  say(words: string): void {
    this.#message.replaceChildren(words);
  }

  set isWaiting(isWaiting: boolean) {
    this.element.classList.toggle("is-waiting", isWaiting);
  }

  set style(style: HeatStyle) {
    this.#style = style;
    this.#draw();
  }

  /** Outline the patch that was asked about, and mark where its attention is highest. */
  mark(outline: Box | null, peak: Box | null): void {
    [this.#outline, this.#peak] = [outline, peak];
    this.#drawMarks();
  }

  #context(): CanvasRenderingContext2D {
    const context = this.#canvas.getContext("2d", { willReadFrequently: true });
    if (!context) throw new Error("Expected a canvas to draw on, got none, at this browser.");
    return context;
  }

  #veil(drawn: CanvasRenderingContext2D, scale: number): void {
    const [y0, x0, y1, x1] = this.#picture.box;
    const [top, left] = [(y0 - this.#frame[0]) * scale, (x0 - this.#frame[1]) * scale];
    const seen = new Path2D();
    seen.rect(0, 0, this.#canvas.width, this.#canvas.height);
    seen.rect(left, top, (x1 - x0) * scale, (y1 - y0) * scale);
    drawn.fillStyle = VEIL;
    drawn.fill(seen, "evenodd");
  }

  #draw(): void {
    if (!this.#pixels) return;
    const { plain, grey } = this.#pixels;
    const heat = this.#style.isOn ? this.#heat : null;
    if (!heat) {
      this.#context().putImageData(plain, 0, 0);
      return;
    }
    const { width, height } = this.#canvas;
    if (this.#placed?.plane !== heat.plane) {
      const values = place(heat.plane, [height, width], this.#frame, this.#picture.box);
      this.#placed = { plane: heat.plane, values };
    }
    const drawn = new ImageData(new Uint8ClampedArray(grey.data), width, height);
    blend(drawn.data, this.#placed.values, heat.limits, this.#style.opacity);
    this.#context().putImageData(drawn, 0, 0);
  }

  #paintBar(): void {
    const colors = Array.from({ length: 17 }, (_, at) => {
      const own = 3 * colorIndex(at / 16);
      return `rgb(${INFERNO[own]} ${INFERNO[own + 1]} ${INFERNO[own + 2]})`;
    });
    this.#bar.style.background = `linear-gradient(to right, ${colors.join(", ")})`;
  }

  #drawMarks(): void {
    const shapes: SVGElement[] = [];
    const outlined = (box: Box, kind: string) => {
      const [y0, x0, y1, x1] = box;
      const place = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
      shapes.push(svg("rect", { ...place, class: "under" }), svg("rect", { ...place, class: kind }));
    };
    if (this.#outline) outlined(this.#outline, "outline");
    if (this.#peak) outlined(this.#peak, "peak");
    const grid = this.#asked.patches();
    if (this.#cursor && grid) outlined(boxOfCell(grid, this.#picture.box, this.#cursor), "cursor");
    this.#marks.replaceChildren(...shapes);
  }

  #pixelOf(event: MouseEvent): readonly [number, number] | null {
    const shown = this.#canvas.getBoundingClientRect();
    const [y0, x0, y1, x1] = this.#frame;
    const y = Math.floor(y0 + ((event.clientY - shown.top) * (y1 - y0)) / shown.height);
    const x = Math.floor(x0 + ((event.clientX - shown.left) * (x1 - x0)) / shown.width);
    const [height, width] = this.#picture.size;
    return y >= 0 && x >= 0 && y < height && x < width ? [y, x] : null;
  }

  #click(event: MouseEvent): void {
    const pixel = this.#pixelOf(event);
    if (pixel) this.#asked.pick(...pixel);
  }

  #tell(event: MouseEvent): void {
    const pixel = this.#pixelOf(event);
    this.#readout.replaceChildren(pixel ? this.#valueAt(...pixel) : "");
  }

  #valueAt(y: number, x: number): string {
    const where = `Row ${y}, column ${x}`;
    const plane = this.#heat?.plane;
    const cell = plane && cellAt([plane.height, plane.width], this.#picture.box, y, x);
    if (!plane) return where;
    if (!cell) return `${where}: not seen by the model`;
    const value = plane.values[cell[0] * plane.width + cell[1]] ?? NaN;
    if (!Number.isFinite(value)) return `${where}: no value`;
    const { mean } = summarise(plane);
    const times = mean > 0 ? `, ${formatNumber(value / mean)} × the mean` : "";
    return `${where}: ${formatNumber(value)}${times}`;
  }

  /** Shift and an arrow moves from patch to patch, Enter asks: a click for those without a mouse. */
  #key(event: KeyboardEvent): void {
    const grid = this.#asked.patches();
    if (!grid) return;
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[
      event.key
    ];
    if (event.shiftKey && move) {
      const [row, column] = this.#cursor ?? [grid[0] >> 1, grid[1] >> 1];
      const [down, right] = [move[0] ?? 0, move[1] ?? 0];
      this.#moveCursor([within(row + down, grid[0]), within(column + right, grid[1])]);
    } else if (event.key === "Enter") {
      this.#pickCursor(this.#cursor ?? [grid[0] >> 1, grid[1] >> 1], grid);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  #moveCursor(cell: Cell | null): void {
    this.#cursor = cell;
    this.#drawMarks();
    const grid = this.#asked.patches();
    if (cell && grid) this.#readout.replaceChildren(this.#valueAt(...this.#centreOf(cell, grid)));
  }

  #pickCursor(cell: Cell, grid: readonly [number, number]): void {
    this.#asked.pick(...this.#centreOf(cell, grid));
  }

  #centreOf(cell: Cell, grid: readonly [number, number]): [number, number] {
    const [y0, x0, y1, x1] = boxOfCell(grid, this.#picture.box, cell);
    const [height, width] = this.#picture.size;
    return [within(Math.floor((y0 + y1) / 2), height), within(Math.floor((x0 + x1) / 2), width)];
  }
}

/** Lay the colors of a map over pixels: the higher a value, the more opaque. */
export function blend(
  pixels: Uint8ClampedArray,
  values: Float32Array,
  [low, high]: readonly [number, number],
  opacity: number,
): void {
  if (!(high > low)) return;
  values.forEach((value, at) => {
    const heat = Math.min(Math.max((value - low) / (high - low), 0), 1);
    if (!(heat > 0)) return;
    const alpha = opacity * Math.sqrt(heat);
    const color = 3 * colorIndex(heat);
    for (let channel = 0; channel < 3; channel++) {
      const under = pixels[4 * at + channel] ?? 0;
      pixels[4 * at + channel] = under * (1 - alpha) + (INFERNO[color + channel] ?? 0) * alpha;
    }
  });
}

/** Pixels without their colors, as dark greys: the hottest colors are light, and stand out. */
function inGrey(image: ImageData): ImageData {
  const grey = new ImageData(new Uint8ClampedArray(image.data), image.width, image.height);
  const { data } = grey;
  for (let at = 0; at < data.length; at += 4) {
    const light = 0.299 * (data[at] ?? 0) + 0.587 * (data[at + 1] ?? 0) + 0.114 * (data[at + 2] ?? 0);
    data.fill(255 * GREYS[0] + (GREYS[1] - GREYS[0]) * light, at, at + 3);
  }
  return grey;
}

function within(at: number, length: number): number {
  return Math.min(Math.max(at, 0), length - 1);
}
