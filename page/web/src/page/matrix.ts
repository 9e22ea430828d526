/** A value of each layer and head as colored cells; one that is chosen is shown by the sliders. */

import { colorOf, isLight } from "../maps/colormap.ts";
import type { Matrix } from "../source.ts";
import { el } from "./dom.ts";
import { formatNumber, headWords } from "./words.ts";

export function matrixTable(
  matrix: Matrix,
  choose: (layer: string, head: string) => void,
): HTMLElement {
  const known = matrix.values.flat().filter((value): value is number => value !== null);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const buttons: (HTMLButtonElement | null)[][] = matrix.rows.map((layer, row) =>
    matrix.columns.map((head, column) => {
      const value = matrix.values[row]?.[column] ?? null;
      if (value === null) return null;
      const button = el(
        "button",
        { type: "button", tabindex: -1, "aria-label": `${layer}, ${headWords(head)}: ${formatNumber(value)}` },
        formatNumber(value),
      );
      const heat = high > low ? (value - low) / (high - low) : 0.5;
      button.style.background = colorOf(heat);
      button.style.color = isLight(heat) ? "#000" : "#fff";
      button.addEventListener("click", () => choose(layer, head));
      return button;
    }),
  );
  buttons.flat().find((button) => button)?.setAttribute("tabindex", "0");
  const body = matrix.rows.map((layer, row) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, layer),
      ...(buttons[row] ?? []).map((button) => el("td", {}, button ?? "–")),
    ),
  );
  const head = el(
    "tr",
    {},
    el("th", { scope: "col" }, "layer"),
    ...matrix.columns.map((column) => el("th", { scope: "col" }, headWords(column))),
  );
  const table = el(
    "table",
    { class: "matrix" },
    el("caption", {}, matrix.title),
    el("thead", {}, head),
    el("tbody", {}, ...body),
  );
  table.addEventListener("keydown", (event) => moveFocus(event, buttons));
  return el("div", { class: "wide", role: "region", "aria-label": matrix.title, tabindex: "0" }, table);
}

/** One cell is reached by Tab, the others from it by the arrows. */
function moveFocus(event: KeyboardEvent, buttons: (HTMLButtonElement | null)[][]): void {
  const moves: Record<string, [number, number]> = {
    ArrowUp: [-1, 0],
    ArrowDown: [1, 0],
    ArrowLeft: [0, -1],
    ArrowRight: [0, 1],
  };
  const move = moves[event.key];
  const row = buttons.findIndex((cells) => cells.some((cell) => cell === event.target));
  if (!move || row < 0) return;
  event.preventDefault();
  event.stopPropagation();
  let [y, x] = [row, (buttons[row] ?? []).findIndex((cell) => cell === event.target)];
  const from = buttons[y]?.[x];
  for (;;) {
    [y, x] = [y + move[0], x + move[1]];
    const next = buttons[y]?.[x];
    if (next === undefined) return;
    if (next === null) continue;
    from?.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
    return;
  }
}
