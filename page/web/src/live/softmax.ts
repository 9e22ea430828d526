/**
 * Softmaxes of attention logits, as `analysis/kernel/softmax.py` computes them.
 *
 * A logit of -Infinity is a token that a patch may not see: rows and columns of nothing else are left
 * out of the means.
 */

/** Matrix of a step and head: its rows are patches, its columns are tokens. */
export interface Logits {
  readonly rows: number;
  readonly columns: number;
  /** Write the logits of one row. */
  fill(row: number, out: Float32Array): void;
}

/** Logits that are scale · query · key. */
export function factoredLogits(query: Float32Array, key: Float32Array, channels: number, scale: number): Logits {
  return {
    rows: query.length / channels,
    columns: key.length / channels,
    fill: (row, out) => {
      const own = query.subarray(row * channels, (row + 1) * channels);
      for (let column = 0, at = 0; column < out.length; column++) {
        let sum = 0;
        for (let channel = 0; channel < channels; channel++, at++) {
          sum += (own[channel] as number) * (key[at] as number);
        }
        out[column] = scale * sum;
      }
    },
  };
}

/** Logits that are stored as such, row-major. */
export function storedLogits(values: Float32Array, columns: number): Logits {
  return {
    rows: values.length / columns,
    columns,
    fill: (row, out) => out.set(values.subarray(row * columns, (row + 1) * columns)),
  };
}

/**
 * Softmax over one row, in place; with `logsumexp` exp(logits − logsumexp). Returns whether the row sees
 * anything: if not, it is all 0.
 */
export function softmaxRow(row: Float32Array, logsumexp: number | null, factor = 1): boolean {
  let top = logsumexp ?? -Infinity;
  if (logsumexp === null) for (const value of row) top = Math.max(top, value);
  if (top === -Infinity) {
    row.fill(0);
    return false;
  }
  let sum = 0;
  for (let at = 0; at < row.length; at++) {
    const value = Math.exp((row[at] as number) - top);
    row[at] = value;
    sum += value;
  }
  const weight = logsumexp === null ? factor / sum : factor;
  for (let at = 0; at < row.length; at++) row[at] = (row[at] as number) * weight;
  return true;
}

export interface DirectionalMeans {
  readonly r2g: Float32Array;
  readonly g2r: Float32Array;
}

/** Both maps of a matrix, as `directional_means` gives them; it lets others work between its rows. */
export async function directionalMeans(
  logits: Logits,
  logsumexp: Float32Array | null,
  region: Float32Array | null,
  pause: () => Promise<void>,
): Promise<DirectionalMeans> {
  const { rows, columns } = logits;
  const values = new Float32Array(rows * columns);
  const tops = new Float32Array(columns).fill(-Infinity);
  const g2r = new Float64Array(columns);
  const row = new Float32Array(columns);
  let seenRows = 0;
  for (let at = 0; at < rows; at++) {
    const own = values.subarray(at * columns, (at + 1) * columns);
    logits.fill(at, own);
    for (let column = 0; column < columns; column++) {
      const value = own[column] as number;
      if (value > (tops[column] as number)) tops[column] = value;
    }
    row.set(own);
    if (softmaxRow(row, logsumexp?.[at] ?? null, region?.[at] ?? 1)) seenRows += 1;
    for (let column = 0; column < columns; column++) {
      g2r[column] = (g2r[column] as number) + (row[column] as number);
    }
    if (at % 64 === 63) await pause();
  }
  const sums = new Float64Array(columns);
  for (let at = 0, place = 0; at < rows; at++) {
    for (let column = 0; column < columns; column++, place++) {
      const top = tops[column] as number;
      const value = top === -Infinity ? 0 : Math.exp((values[place] as number) - top);
      values[place] = value;
      sums[column] = (sums[column] as number) + value;
    }
    if (at % 64 === 63) await pause();
  }
  const seenColumns = tops.reduce((count, top) => count + Number(top > -Infinity), 0);
  const weights = sums.map((sum) => (sum > 0 ? 1 / sum / Math.max(seenColumns, 1) : 0));
  const r2g = new Float32Array(rows);
  for (let at = 0, place = 0; at < rows; at++) {
    let sum = 0;
    for (let column = 0; column < columns; column++, place++) {
      sum += (values[place] as number) * (weights[column] as number);
    }
    r2g[at] = sum * (region?.[at] ?? 1);
  }
  const count = logsumexp === null ? Math.max(seenRows, 1) : rows;
  return { r2g, g2r: Float32Array.from(g2r, (sum) => sum / count) };
}

/** A pause for the page to draw and hear, not more often than every dozen milliseconds. */
export function pauses(signal: AbortSignal): () => Promise<void> {
  let last = performance.now();
  return async () => {
    if (performance.now() - last < 12) return;
    // A timer would wait four milliseconds and more each time.
    await new Promise((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        port1.close();
        resolve(null);
      };
      port2.postMessage(null);
    });
    signal.throwIfAborted();
    last = performance.now();
  };
}
