/** The order of the samples in their table. */

import type { SampleEntry } from "../source.ts";

export interface Order {
  /** A score's name; "" for the samples' names. */
  readonly by: string;
  readonly descending: boolean;
}

const byName = new Intl.Collator("en", { numeric: true });

/** The samples in an order; those without the score come last either way. */
export function sortSamples(samples: readonly SampleEntry[], order: Order): SampleEntry[] {
  const sign = order.descending ? -1 : 1;
  return [...samples].sort((one, other) => {
    const names = byName.compare(one.name, other.name);
    if (order.by === "") return sign * names;
    const [first, second] = [one, other].map((sample) => sample.scores?.[order.by] ?? null);
    if (first === null || first === undefined || second === null || second === undefined) {
      return Number(first == null) - Number(second == null) || names;
    }
    return sign * (first - second) || names;
  });
}

/** The order after a click on a heading: the best values of a score first, then the other way. */
export function nextOrder(order: Order, by: string, better: "high" | "low" | null): Order {
  if (order.by === by) return { by, descending: !order.descending };
  return { by, descending: by !== "" && better !== "low" };
}
