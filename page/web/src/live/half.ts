/** float16 as float32: many browsers have no array of float16 yet. */

let table: Float32Array | null = null;

/** The values of 16-bit patterns. */
export function fromHalf(bits: Uint16Array): Float32Array {
  table ??= Float32Array.from({ length: 2 ** 16 }, (_, pattern) => valueOf(pattern));
  const known = table;
  const values = new Float32Array(bits.length);
  for (let at = 0; at < bits.length; at++) values[at] = known[bits[at] ?? 0] ?? 0;
  return values;
}

function valueOf(pattern: number): number {
  const sign = pattern & 0x8000 ? -1 : 1;
  const exponent = (pattern >> 10) & 0x1f;
  const fraction = pattern & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
