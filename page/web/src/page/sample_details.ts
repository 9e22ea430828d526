/** What stands below a sample's images: scores, curves, matrix, effects, other images, figures, provenance. */

import { isAbsent, type Effects, type Fact, type SampleSource, type Score } from "../source.ts";
import { summarise } from "../maps/plane.ts";
import { el, freshId } from "./dom.ts";
import { matrixTable } from "./matrix.ts";
import { PictureView } from "./picture_view.ts";
import { curvePlot } from "./plots.ts";
import { formatNumber, messageOf } from "./words.ts";

/** The sections that have something to say. */
export function details(
  source: SampleSource,
  scores: readonly Score[],
  choose: (layer: string, head: string) => void,
): HTMLElement[] {
  return [
    section("Scores", scoreList(source, scores)),
    section("Over the steps", el("div", { class: "plots" }, ...source.curves.map(curvePlot)), source.curves.length),
    section(
      "Layers and heads",
      el("div", {}, ...source.matrix.map((matrix) => matrixTable(matrix, choose))),
      source.matrix.length,
    ),
    source.effects ? section("What cuts change", effectsOf(source, source.effects)) : null,
    inputs(source),
    source.figures.length ? folded("Figures", figures(source)) : null,
    folded("Provenance", factList(source.provenance)),
  ].filter((part) => part !== null);
}

/** Labels and values, as a list. */
export function factList(facts: readonly Fact[]): HTMLElement {
  return el(
    "dl",
    { class: "facts" },
    ...facts.flatMap(([label, value]) => [el("dt", {}, label), el("dd", {}, String(value))]),
  );
}

function section(title: string, content: HTMLElement | null, count = 1): HTMLElement | null {
  if (!content || !count) return null;
  const id = freshId("title");
  return el("section", { "aria-labelledby": id }, el("h3", { id }, title), content);
}

function folded(title: string, content: HTMLElement): HTMLElement {
  return el("details", {}, el("summary", {}, title), content);
}

function scoreList(source: SampleSource, scores: readonly Score[]): HTMLElement | null {
  const known = scores.filter((score) => typeof source.scores[score.name] === "number");
  if (!known.length) return null;
  const rows = known.map((score) => {
    const chance = score.chance === null ? "" : ` (chance ${formatNumber(score.chance)})`;
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, score.title),
      el("td", { class: "number" }, formatNumber(source.scores[score.name]) + chance),
      el("td", { class: "meaning" }, score.meaning),
    );
  });
  const table = el("table", { class: "scores" }, el("tbody", {}, ...rows));
  return el("div", { class: "wide", role: "region", "aria-label": "Table of scores", tabindex: "0" }, table);
}

/** Sentences; and the generated image, with how much it changed when the region that is chosen was cut. */
function effectsOf(source: SampleSource, effects: Effects): HTMLElement {
  const sentences = effects.sentences.map((sentence) => el("p", {}, sentence));
  const [picture, map] = [source.images["generated"], effects.map];
  if (!map || !picture || !effects.boxes.length) return el("div", {}, ...sentences);
  const view = new PictureView(picture, { pick: () => undefined, patches: () => null });
  const id = freshId("cut");
  const choice = el(
    "select",
    { id },
    ...effects.boxes.map(([y0, x0, y1, x1], at) =>
      el(
        "option",
        { value: at },
        `rows ${formatNumber(y0)} to ${formatNumber(y1)}, columns ${formatNumber(x0)} to ${formatNumber(x1)}`,
      ),
    ),
  );
  const show = async () => {
    try {
      const answer = await map(Number(choice.value));
      const title = "Generated: how much each patch changed";
      if (isAbsent(answer)) view.show(null, title, `${title}: ${answer.absent}`);
      else view.show({ plane: answer, limits: [0, summarise(answer).high] }, title, title);
    } catch (error) {
      view.say(messageOf(error));
    }
  };
  choice.addEventListener("input", () => void show());
  void view.load().then(show);
  return el(
    "div",
    {},
    ...sentences,
    el("p", {}, el("label", { for: id }, "cut region of the reference "), choice),
    el("div", { class: "pictures" }, view.element),
  );
}

/** The images that the sample was made from, beside the two that maps lie over. */
function inputs(source: SampleSource): HTMLElement | null {
  const others = Object.entries(source.images).filter(
    ([name]) => name !== "generated" && name !== "reference",
  );
  const shown = others.map(([name, picture]) => {
    const view = new PictureView(picture, { pick: () => undefined, patches: () => null });
    const title = name.replaceAll("_", " ");
    view.show(null, title, `${title} of ${source.name}`);
    void view.load().catch((error: unknown) => view.say(messageOf(error)));
    return view.element;
  });
  return shown.length ? folded("Other images", el("div", { class: "pictures small" }, ...shown)) : null;
}

/** Figures whose picture is in the page's first part already are shown from there: no picture twice. */
function figures(source: SampleSource): HTMLElement {
  const shown = source.figures.map(({ title, caption, alt, url }) => {
    const image = el("img", { alt, src: url.startsWith("#") ? (sourceOf(url.slice(1)) ?? "") : url });
    return el(
      "figure",
      { class: "figure" },
      el("div", { class: "wide", role: "region", "aria-label": title, tabindex: "0" }, image),
      el("figcaption", {}, el("strong", {}, title), " ", caption),
    );
  });
  return el("div", {}, ...shown);
}

function sourceOf(id: string): string | null {
  const image = document.getElementById(id);
  return image instanceof HTMLImageElement ? image.src : null;
}
