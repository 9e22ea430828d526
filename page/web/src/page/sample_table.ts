/** The samples as a table: thumbnails, scores, sorted by a click on a heading. */

import type { Fact, SampleEntry, Score } from "../source.ts";
import { el, freshId } from "./dom.ts";
import { histogram } from "./plots.ts";
import { factList } from "./sample_details.ts";
import { nextOrder, sortSamples, type Order } from "./sorting.ts";
import { formatNumber } from "./words.ts";

/** From how many samples on a name can be searched for. */
const SEARCHED_FROM = 12;

export class SampleTable {
  readonly element: HTMLElement;
  readonly #samples: readonly SampleEntry[];
  readonly #scores: readonly Score[];
  readonly #open: (name: string) => void;
  readonly #body = el("tbody");
  readonly #headings = new Map<string, HTMLElement>();
  readonly #status = el("p", { class: "meaning", role: "status" });
  readonly #rows = new Map<string, HTMLTableRowElement>();
  readonly #links = new Map<string, HTMLButtonElement>();
  #order: Order = { by: "", descending: false };
  #wanted = "";

  constructor(
    samples: readonly SampleEntry[],
    scores: readonly Score[],
    open: (name: string) => void,
  ) {
    [this.#samples, this.#open] = [samples, open];
    this.#scores = scores.filter((score) =>
      samples.some((sample) => typeof sample.scores?.[score.name] === "number"),
    );
    const plots = this.#scores.map((score) => histogram(score, this.#valuesOf(score)));
    const head = el(
      "tr",
      {},
      this.#heading("", "sample", null),
      ...this.#scores.map((score) => this.#heading(score.name, score.title, score)),
    );
    const table = el(
      "table",
      { class: "samples" },
      el("caption", { class: "unseen" }, "Samples"),
      el("thead", {}, head),
      this.#body,
    );
    this.element = el(
      "section",
      { class: "table" },
      el("div", { class: "histograms" }, ...plots),
      this.#scores.length ? this.#meanings() : null,
      samples.length >= SEARCHED_FROM ? this.#search() : null,
      this.#status,
      el("div", { class: "wide", role: "region", "aria-label": "Samples", tabindex: "0" }, table),
    );
    for (const sample of samples) this.#rows.set(sample.name, this.#row(sample));
    this.#show();
  }

  /** The names in the order that is shown. */
  get names(): readonly string[] {
    return this.#shown().map((sample) => sample.name);
  }

  /** Put the focus on a sample's name, as after its findings were closed. */
  focus(name: string): void {
    this.#links.get(name)?.focus();
  }

  #shown(): readonly SampleEntry[] {
    const found = this.#samples.filter((sample) => sample.name.toLowerCase().includes(this.#wanted));
    return sortSamples(found, this.#order);
  }

  #show(): void {
    const shown = this.#shown();
    this.#body.replaceChildren(
      ...shown.map((sample) => this.#rows.get(sample.name)).filter((row) => row !== undefined),
    );
    for (const [by, heading] of this.#headings) {
      const own = this.#order.descending ? "descending" : "ascending";
      heading.setAttribute("aria-sort", by === this.#order.by ? own : "none");
    }
    const all = this.#samples.length;
    const some = shown.length < all ? `${shown.length} of ${all} samples` : count(all);
    this.#status.replaceChildren(some);
  }

  #heading(by: string, title: string, score: Score | null): HTMLElement {
    const button = el("button", { type: "button", title: score?.meaning ?? "" }, title);
    button.addEventListener("click", () => {
      this.#order = nextOrder(this.#order, by, score?.better ?? null);
      this.#show();
    });
    const heading = el("th", { scope: "col", class: score ? "number" : "" }, button);
    this.#headings.set(by, heading);
    return heading;
  }

  #meanings(): HTMLElement {
    const said = this.#scores.map((score): Fact => [score.title, meaningOf(score)]);
    return el("details", {}, el("summary", {}, "What the scores say"), factList(said));
  }

  #search(): HTMLElement {
    const id = freshId("search");
    const input = el("input", { id, type: "search", autocomplete: "off" });
    input.addEventListener("input", () => {
      this.#wanted = input.value.trim().toLowerCase();
      this.#show();
    });
    return el("p", { class: "search" }, el("label", { for: id }, "find a sample"), " ", input);
  }

  #row(sample: SampleEntry): HTMLTableRowElement {
    const thumbs = (["generated", "reference"] as const).flatMap((side) => {
      const url = sample.thumbs?.[side];
      return url ? [el("img", { src: url, alt: `${side} image of ${sample.name}` })] : [];
    });
    const link = el("button", { type: "button", class: "link" }, sample.name);
    link.addEventListener("click", () => this.#open(sample.name));
    this.#links.set(sample.name, link);
    const cells = this.#scores.map((score) => {
      const isOutlier = sample.outliers?.includes(score.name) ?? false;
      return el(
        "td",
        { class: "number" },
        formatNumber(sample.scores?.[score.name]),
        isOutlier ? el("span", { class: "tag" }, "outlier") : null,
      );
    });
    const named = el("div", { class: "named" }, el("span", { class: "thumbs" }, ...thumbs), link);
    return el("tr", {}, el("th", { scope: "row" }, named), ...cells);
  }

  #valuesOf(score: Score): number[] {
    return this.#samples
      .map((sample) => sample.scores?.[score.name])
      .filter((value): value is number => typeof value === "number" && Number.isFinite(value));
  }
}

function meaningOf(score: Score): string {
  const chance = score.chance === null ? "" : ` Chance is ${formatNumber(score.chance)}.`;
  return score.meaning + chance;
}

function count(samples: number): string {
  return samples === 1 ? "1 sample" : `${samples} samples`;
}
