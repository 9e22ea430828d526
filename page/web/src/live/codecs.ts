/** Zarr's codecs as this page has them: crc32c is checked, where zarrita's own takes the four bytes off unread. */

import { decompress } from "fzstd";
import { registry } from "zarrita";

type CodecEntry = Awaited<ReturnType<Parameters<typeof registry.set>[1]>>;

const POLYNOMIAL = 0x82f63b78;
const SUM_BYTES = 4;
/** Eight bytes at a time: the table of each of their places, one after the other. */
const TABLES = makeTables();

/** The CRC-32C (Castagnoli) of bytes. */
export function crc32c(bytes: Uint8Array): number {
  let sum = 0xffffffff;
  let at = 0;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (; at + 8 <= bytes.length; at += 8) {
    const low = sum ^ view.getUint32(at, true);
    const high = view.getUint32(at + 4, true);
    sum =
      table(7, low & 0xff) ^
      table(6, (low >>> 8) & 0xff) ^
      table(5, (low >>> 16) & 0xff) ^
      table(4, low >>> 24) ^
      table(3, high & 0xff) ^
      table(2, (high >>> 8) & 0xff) ^
      table(1, (high >>> 16) & 0xff) ^
      table(0, high >>> 24);
  }
  for (; at < bytes.length; at++) sum = table(0, (sum ^ (bytes[at] ?? 0)) & 0xff) ^ (sum >>> 8);
  return ~sum >>> 0;
}

class CheckedCrc32c {
  readonly kind = "bytes_to_bytes";

  static fromConfig(): CheckedCrc32c {
    return new CheckedCrc32c();
  }

  decode(sealed: Uint8Array): Uint8Array {
    const end = sealed.byteLength - SUM_BYTES;
    const bytes = sealed.subarray(0, Math.max(end, 0));
    const stored = end < 0 ? -1 : new DataView(sealed.buffer, sealed.byteOffset + end).getUint32(0, true);
    const own = crc32c(bytes);
    if (own !== stored) {
      throw new Error(
        `Expected the checksum ${stored}, got ${own}, at a chunk of this store. ` +
          "It is damaged, or was cut on its way: run i2am validate.",
      );
    }
    return bytes;
  }

  encode(): Uint8Array {
    throw new Error("This page writes no stores.");
  }

  computeEncodedSize(size: number): number {
    return size + SUM_BYTES;
  }
}

/** What plain Zarr compresses with; zarrita's own decoder is a hundred times as large. */
class Zstd {
  readonly kind = "bytes_to_bytes";

  static fromConfig(): Zstd {
    return new Zstd();
  }

  decode(bytes: Uint8Array): Uint8Array {
    return decompress(bytes).slice(); // In a buffer of its own: zarrita reads strings from its start.
  }

  encode(): Uint8Array {
    throw new Error("This page writes no stores.");
  }
}

/** Let zarrita decode as is said here; codecs of no store of ours are refused by their names. */
export function useOwnCodecs(): void {
  for (const name of [...registry.keys()]) if (/lz4$/.test(name)) registry.delete(name);
  registry.set("crc32c", () => Promise.resolve(CheckedCrc32c as unknown as CodecEntry));
  registry.set("zstd", () => Promise.resolve(Zstd as unknown as CodecEntry));
}

function table(place: number, byte: number): number {
  return TABLES[256 * place + byte] ?? 0;
}

function makeTables(): Int32Array {
  const tables = new Int32Array(8 * 256);
  for (let byte = 0; byte < 256; byte++) {
    let sum = byte;
    for (let bit = 0; bit < 8; bit++) sum = sum & 1 ? (sum >>> 1) ^ POLYNOMIAL : sum >>> 1;
    tables[byte] = sum;
  }
  for (let at = 256; at < tables.length; at++) {
    const before = tables[at - 256] ?? 0;
    tables[at] = (before >>> 8) ^ (tables[before & 0xff] ?? 0);
  }
  return tables;
}
