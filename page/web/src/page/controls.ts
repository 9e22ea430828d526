/** The sliders over layer, step and head, and how heat is shown. */

import type { Axes, Position } from "../source.ts";
import { el, freshId } from "./dom.ts";
import { lengthOf } from "./keys.ts";
import type { HeatStyle } from "./picture_view.ts";
import { headLabel, stepLabel } from "./words.ts";

/** Whether each map has its own scale, or all maps of a direction have one. */
export type Scale = "own" | "alike";

/** The three sliders; at the left end of each is the mean. */
export class Sliders {
  readonly element: HTMLElement;
  readonly #axes: Axes;
  readonly #rows: { axis: keyof Position; input: HTMLInputElement; output: HTMLElement }[];

  constructor(axes: Axes, moved: (axis: keyof Position, to: number | null) => void) {
    this.#axes = axes;
    this.#rows = (["layer", "step", "head"] as const).map((axis) => {
      const [id, outputId] = [freshId(axis), freshId(axis)];
      const length = lengthOf(axes, axis);
      const input = el("input", { id, type: "range", min: 0, max: length, value: 0 });
      input.disabled = length < 1;
      input.addEventListener("input", () => moved(axis, input.value === "0" ? null : +input.value - 1));
      return { axis, input, output: el("output", { id: outputId, for: id }) };
    });
    const rows = this.#rows.map(({ axis, input, output }) =>
      el("div", { class: "slider" }, el("label", { for: input.id }, axis), input, output),
    );
    this.element = el("div", { class: "sliders", role: "group", "aria-label": "Which map" }, ...rows);
  }

  show(at: Position): void {
    for (const { axis, input, output } of this.#rows) {
      const index = at[axis];
      input.value = String(index === null ? 0 : index + 1);
      const words = this.#words(axis, index);
      input.setAttribute("aria-valuetext", words);
      output.replaceChildren(words);
    }
  }

  #words(axis: keyof Position, index: number | null): string {
    if (index === null) return `mean over all ${axis}s`;
    if (axis === "step") return stepLabel(this.#axes, index);
    return axis === "head" ? headLabel(this.#axes, index) : (this.#axes.layers[index] ?? "");
  }
}

/** Heat on or off, its opacity, and its scale. */
export function heatControls(
  style: HeatStyle,
  scale: Scale,
  changed: (style: HeatStyle, scale: Scale) => void,
): HTMLElement {
  const [onId, opacityId, scaleId] = [freshId("heat"), freshId("opacity"), freshId("scale")];
  const isOn = el("input", { id: onId, type: "checkbox" });
  isOn.checked = style.isOn;
  const opacity = el("input", { id: opacityId, type: "range", min: 0.1, max: 1, step: 0.05 });
  opacity.value = String(style.opacity);
  const choice = el(
    "select",
    { id: scaleId },
    el("option", { value: "own" }, "each map its own"),
    el("option", { value: "alike" }, "all maps alike"),
  );
  choice.value = scale;
  const tell = () =>
    changed({ isOn: isOn.checked, opacity: Number(opacity.value) }, choice.value as Scale);
  for (const one of [isOn, opacity, choice]) one.addEventListener("input", tell);
  return el(
    "div",
    { class: "switches", role: "group", "aria-label": "How heat is shown" },
    el("span", {}, isOn, " ", el("label", { for: onId }, "heat")),
    el("span", {}, el("label", { for: opacityId }, "opacity"), " ", opacity),
    el("span", {}, el("label", { for: scaleId }, "scale"), " ", choice),
  );
}
