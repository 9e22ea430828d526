/**
 * A Zarr store behind HTTP, for zarrita: any static file server, or a bucket.
 *
 * It adds what zarrita's own store does not do: shards whose index is at their start, float16 in
 * browsers without such arrays, servers that know no ranges, and objects that a sample lists but
 * that are gone, which Zarr would read as zeros.
 */

import type { AbsolutePath, AsyncReadable, RangeQuery } from "zarrita";

const METADATA = "/zarr.json";
/** Of whole objects, from servers without ranges. */
const MOST_KEPT_BYTES = 256 * 2 ** 20;

type Json = Record<string, unknown>;
interface Options {
  readonly signal?: AbortSignal;
}

/** What fetches a URL: the browser, or a test. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

export class HttpStore implements AsyncReadable {
  readonly #base: string;
  readonly #fetch: Fetch;
  readonly #listed = new Set<string>();
  readonly #metadata = new Map<string, Promise<Json | undefined>>();
  readonly #halves = new Set<string>();
  readonly #indexAtStart = new Set<string>();
  readonly #wholes = new Map<string, Promise<Uint8Array | undefined>>();
  #keptBytes = 0;
  #hasRanges = true;
  /** Whether something was refused, which may as well not be there. */
  isForbidden = false;

  /** `base` is the store's URL, without a slash at the end. */
  constructor(base: string, fetcher: Fetch = (url, init) => fetch(url, init)) {
    [this.#base, this.#fetch] = [base.replace(/\/+$/, ""), fetcher];
  }

  /** Objects that must be there, as paths in the store. */
  expect(keys: Iterable<string>): void {
    for (const key of keys) this.#listed.add(key);
  }

  /** Whether an array, by its path, was written as float16; it is given as the 16-bit patterns. */
  isHalf(path: string): boolean {
    return this.#halves.has(path);
  }

  /** The metadata of a group or an array; undefined if there is none. */
  metadata(path: string, options: Options = {}): Promise<Json | undefined> {
    const known = this.#metadata.get(path);
    if (known) return known;
    const read = this.#readMetadata(path, options);
    this.#metadata.set(path, read);
    read.catch(() => this.#metadata.delete(path));
    return read;
  }

  async get(key: AbsolutePath, options: Options = {}): Promise<Uint8Array | undefined> {
    if (key.endsWith(METADATA)) {
      const found = await this.metadata(key.slice(0, -METADATA.length), options);
      return found && new TextEncoder().encode(JSON.stringify(found));
    }
    return this.#object(key, options);
  }

  async getRange(
    key: AbsolutePath,
    range: RangeQuery,
    options: Options = {},
  ): Promise<Uint8Array | undefined> {
    const wanted = this.#isIndexAtStart(key) && "suffixLength" in range
      ? { offset: 0, length: range.suffixLength }
      : range;
    if (!this.#hasRanges) return cut(await this.#whole(key), wanted, key);
    const header =
      "suffixLength" in wanted
        ? `bytes=-${wanted.suffixLength}`
        : `bytes=${wanted.offset}-${wanted.offset + wanted.length - 1}`;
    // A browser's cache lets ranges of one object wait for each other, for seconds.
    const init: RequestInit = { ...options, cache: "no-store", headers: { Range: header } };
    const response = await this.#ask(key, init);
    if (isMissing(response)) return this.#missing(key);
    if (response.status === 200) {
      // A server that knows no ranges: what it sent is the object, and is kept.
      this.#hasRanges = false;
      const whole = bytesOf(response);
      this.#keep(key, whole);
      return cut(await whole, wanted, key);
    }
    if (response.status !== 206) throw failed(key, response);
    return cut(await bytesOf(response), { offset: 0, length: lengthOf(wanted) }, key);
  }

  async #readMetadata(path: string, options: Options): Promise<Json | undefined> {
    const bytes = await this.#object(`${path}${METADATA}`, { ...options, cache: "no-cache" });
    if (!bytes) return undefined;
    const found = JSON.parse(new TextDecoder().decode(bytes)) as Json;
    if (found["node_type"] !== "array") return found;
    const sharding = (found["codecs"] as { name: string; configuration?: Json }[]).find(
      (codec) => codec.name === "sharding_indexed",
    );
    if (sharding?.configuration?.["index_location"] === "start") this.#indexAtStart.add(path);
    if (found["data_type"] !== "float16") return found;
    this.#halves.add(path);
    return { ...found, data_type: "uint16", fill_value: 0 };
  }

  async #object(key: string, options: RequestInit): Promise<Uint8Array | undefined> {
    const response = await this.#ask(key, options);
    this.isForbidden ||= response.status === 403;
    if (isMissing(response)) return this.#missing(key);
    if (response.status !== 200) throw failed(key, response);
    return bytesOf(response);
  }

  async #ask(key: string, init: RequestInit): Promise<Response> {
    try {
      return await this.#fetch(this.#url(key), init);
    } catch (error) {
      init.signal?.throwIfAborted();
      const msg = `Expected an answer, got none, at ${key}. See whether the server runs and lets this page read (CORS).`;
      throw new Error(msg, { cause: error });
    }
  }

  #whole(key: string): Promise<Uint8Array | undefined> {
    const known = this.#wholes.get(key);
    if (known) return known;
    const whole = this.#object(key, {});
    this.#keep(key, whole);
    return whole;
  }

  #keep(key: string, whole: Promise<Uint8Array | undefined>): void {
    this.#wholes.set(key, whole);
    whole.then(
      (bytes) => {
        this.#keptBytes += bytes?.length ?? 0;
        if (this.#keptBytes > MOST_KEPT_BYTES) {
          this.#wholes.clear();
          this.#keptBytes = 0;
        }
      },
      () => this.#wholes.delete(key),
    );
  }

  #missing(key: string): undefined {
    if (!this.#listed.has(key)) return undefined;
    throw new Error(
      `Expected an object that the sample lists, got none, at ${key}. ` +
        "The store has lost it: copy it again, or run i2am validate.",
    );
  }

  #isIndexAtStart(key: string): boolean {
    const chunks = key.lastIndexOf("/c/");
    return chunks > 0 && this.#indexAtStart.has(key.slice(0, chunks));
  }

  #url(key: string): string {
    return this.#base + key.split("/").map(encodeURIComponent).join("/");
  }
}

async function bytesOf(response: Response): Promise<Uint8Array> {
  return new Uint8Array(await response.arrayBuffer());
}

/** A bucket that may not be listed answers "forbidden" for what is not there. */
function isMissing(response: Response): boolean {
  return response.status === 404 || response.status === 403;
}

function lengthOf(range: RangeQuery): number {
  return "suffixLength" in range ? range.suffixLength : range.length;
}

function cut(whole: Uint8Array | undefined, range: RangeQuery, key: string): Uint8Array | undefined {
  if (!whole) return undefined;
  const length = lengthOf(range);
  const start = "suffixLength" in range ? whole.length - length : range.offset;
  if (start < 0 || start + length > whole.length) {
    throw new Error(
      `Expected ${length} bytes, got ${whole.length}, at ${key}. The object is cut off: copy it again.`,
    );
  }
  return whole.subarray(start, start + length);
}

function failed(key: string, response: Response): Error {
  const got = `${response.status} ${response.statusText}`.trim();
  return new Error(
    `Expected an object or none, got the answer ${got}, at ${key}. ` +
      "See whether this page may read there (rights, CORS).",
  );
}
