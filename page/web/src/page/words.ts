/** Numbers and positions in words. */

import type { Axes, Position } from "../source.ts";

/** A number with three digits that matter; a dash if there is none. */
export function formatNumber(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e5)) return value.toExponential(2);
  return String(Number(value.toPrecision(3)));
}

/** What the sliders show, in words. */
export function describePosition(axes: Axes, at: Position): string {
  const means = [
    at.layer === null ? "layers" : "",
    at.step === null ? "steps" : "",
    at.head === null ? "heads" : "",
  ].filter(Boolean);
  const parts = [
    at.layer === null ? "" : `layer ${axes.layers[at.layer] ?? ""}`,
    at.step === null ? "" : stepLabel(axes, at.step),
    at.head === null ? "" : headLabel(axes, at.head),
    means.length ? `mean over ${joined(means)}` : "",
  ];
  return parts.filter(Boolean).join(", ");
}

export function stepLabel(axes: Axes, step: number): string {
  const label = axes.steps[step] ?? "";
  const timestep = axes.timesteps[step];
  const words = /[a-z]/i.test(label) ? label : `step ${label}`;
  return timestep === undefined ? words : `${words} (timestep ${formatNumber(timestep)})`;
}

export function headLabel(axes: Axes, head: number): string {
  return headWords(axes.heads[head] ?? "");
}

/** A head's label with the word, where it is a number alone. */
export function headWords(label: string): string {
  return /[a-z]/i.test(label) ? label : `head ${label}`;
}

/** Words with commas and "and". */
export function joined(words: readonly string[]): string {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

/** What an error says, as one sentence for the reader. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  // zarrita tells which codec failed; what it was is the cause.
  const isOfCodec = error.name === "CodecPipelineError" && error.cause instanceof Error;
  return isOfCodec ? messageOf(error.cause) : error.message;
}
