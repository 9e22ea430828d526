/** What the keys do while a sample is open. */

import type { Axes, Position } from "../source.ts";

export type Action = "next" | "previous" | "clear" | { readonly move: Position };

interface Key {
  readonly key: string;
  readonly ctrlKey?: boolean;
  readonly metaKey?: boolean;
  readonly altKey?: boolean;
  readonly shiftKey?: boolean;
}

/** Of each key: the axis, and whether it goes on or back. */
const MOVES: Readonly<Record<string, readonly [keyof Position, number]>> = {
  ArrowRight: ["step", 1],
  ArrowLeft: ["step", -1],
  ArrowUp: ["layer", 1],
  ArrowDown: ["layer", -1],
  "]": ["head", 1],
  "[": ["head", -1],
};

/** What a key asks for; null if it is none of the page's. */
export function actionOf(event: Key, at: Position, axes: Axes): Action | null {
  // Many keyboards have brackets behind AltGr, which is Ctrl and Alt to some browsers.
  const isBracket = event.key === "[" || event.key === "]";
  const isCommand = event.metaKey || event.shiftKey || event.ctrlKey || event.altKey;
  if (isCommand && !(isBracket && event.altKey)) return null;
  if (event.key === "Escape") return "clear";
  if (event.key === "n") return "next";
  if (event.key === "p") return "previous";
  const move = MOVES[event.key];
  if (!move) return null;
  const [axis, by] = move;
  return { move: { ...at, [axis]: moved(at[axis], by, lengthOf(axes, axis)) } };
}

/** The next index of an axis; before the first is the mean, and nothing is beyond the last. */
export function moved(at: number | null, by: number, length: number): number | null {
  const next = Math.min((at ?? -1) + by, length - 1);
  return next < 0 ? null : next;
}

export function lengthOf(axes: Axes, axis: keyof Position): number {
  return { layer: axes.layers, step: axes.steps, head: axes.heads }[axis].length;
}

/** Whether a key belongs to the element that has the focus, as a slider's arrows do. */
export function isTaken(event: KeyboardEvent): boolean {
  const target = event.composedPath()[0];
  if (!(target instanceof HTMLElement)) return false;
  if (target.matches("textarea, select, [contenteditable]")) return true;
  if (target instanceof HTMLInputElement) {
    return target.type === "range" || target.type === "radio"
      ? event.key.startsWith("Arrow")
      : target.type !== "checkbox";
  }
  return false;
}
