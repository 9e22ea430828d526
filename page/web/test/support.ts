/** The golden file, and its stores behind a server that is a function. */

import { readFileSync } from "node:fs";
import assert from "node:assert/strict";

import type { Fetch } from "../src/live/http_store.ts";
import type { Plane } from "../src/source.ts";

export interface GoldenPlane {
  readonly height: number;
  readonly width: number;
  readonly values: readonly number[];
}

export interface GoldenAnswer {
  readonly question: {
    readonly generated?: readonly [number, number];
    readonly reference?: readonly [number, number];
    readonly layers?: string;
    readonly steps?: number;
    readonly heads?: number;
  };
  readonly plane: GoldenPlane;
}

export interface GoldenMaps {
  readonly layer: string;
  readonly head: number | null;
  readonly r2g?: GoldenPlane;
  readonly g2r?: GoldenPlane;
}

export interface Golden {
  readonly stores: Readonly<Record<string, Readonly<Record<string, string>>>>;
  readonly sram: readonly GoldenAnswer[];
  readonly writtenSram: GoldenAnswer;
  readonly maps: readonly GoldenMaps[];
  readonly writtenMaps: GoldenMaps;
  readonly resize: readonly {
    readonly map: GoldenPlane;
    readonly frames: number;
    readonly resized: GoldenPlane;
  }[];
}

export const golden = JSON.parse(readFileSync("test/golden.json", "utf8")) as Golden;
export const ORIGIN = "http://store.test";

export type Objects = Map<string, Uint8Array>;

export function storedObjects(): Objects {
  const objects: Objects = new Map();
  for (const [store, files] of Object.entries(golden.stores)) {
    for (const [path, base64] of Object.entries(files)) {
      objects.set(`${store}/${path}`, new Uint8Array(Buffer.from(base64, "base64")));
    }
  }
  return objects;
}

export interface Served {
  readonly fetch: Fetch;
  readonly asked: { readonly path: string; readonly range: string | null }[];
}

/** A file server (with or without ranges, with pages of folders) or a bucket that holds objects. */
export function serve(objects: Objects, kind: "ranges" | "plain" | "bucket" = "ranges"): Served {
  const asked: Served["asked"] = [];
  const answer = (url: string, init: RequestInit): Response => {
    const { pathname, searchParams } = new URL(url);
    const path = decodeURIComponent(pathname).slice(1);
    const range = new Headers(init.headers).get("range");
    asked.push({ path: path + (searchParams.size ? "?" : ""), range });
    if (kind === "bucket" && searchParams.get("list-type") === "2") {
      if (path !== "bucket") return new Response("<Error><Code>NoSuchBucket</Code></Error>", { status: 404 });
      return new Response(bucketListing(objects, searchParams.get("prefix") ?? ""));
    }
    const key = kind === "bucket" ? path.replace(/^bucket\//, "") : path;
    const bytes = objects.get(key);
    if (!bytes) {
      const page = kind === "bucket" ? "" : folderPage(objects, key);
      return page ? new Response(page) : new Response("", { status: 404 });
    }
    const match = /^bytes=(\d*)-(\d*)$/.exec(range ?? "");
    if (!match || kind === "plain") return new Response(copyOf(bytes));
    const [first, last] = [match[1] ?? "", match[2] ?? ""];
    const start = first === "" ? bytes.length - Number(last) : Number(first);
    const stop = first === "" || last === "" ? bytes.length : Number(last) + 1;
    return new Response(copyOf(bytes.subarray(start, stop)), { status: 206 });
  };
  return { asked, fetch: (url, init) => Promise.resolve(answer(url, init)) };
}

function copyOf(bytes: Uint8Array): ArrayBuffer {
  return new Uint8Array(bytes).buffer;
}

function foldersIn(objects: Objects, prefix: string): string[] {
  const inside = [...objects.keys()].filter((key) => key.startsWith(prefix));
  const names = inside.flatMap((key) => {
    const [name = "", ...rest] = key.slice(prefix.length).split("/");
    return rest.length ? [name] : [];
  });
  return [...new Set(names)];
}

function folderPage(objects: Objects, path: string): string {
  const links = foldersIn(objects, path.endsWith("/") ? path : `${path}/`);
  const items = links.map((name) => `<li><a href="${encodeURIComponent(name)}/">${name}/</a></li>`);
  return links.length ? `<ul><li><a href="../">up</a></li>${items.join("")}</ul>` : "";
}

function bucketListing(objects: Objects, prefix: string): string {
  const folders = foldersIn(objects, prefix).map(
    (name) => `<CommonPrefixes><Prefix>${prefix}${name}/</Prefix></CommonPrefixes>`,
  );
  return `<?xml version="1.0"?><ListBucketResult><Name>bucket</Name>${folders.join("")}</ListBucketResult>`;
}

/** Check that two planes are alike within a share of the largest value. */
export function assertAlike(found: Plane, wanted: GoldenPlane, share = 1e-3): void {
  assert.deepEqual([found.height, found.width], [wanted.height, wanted.width]);
  const most = Math.max(...wanted.values.map(Math.abs));
  const worst = wanted.values.reduce(
    (worst, value, at) => Math.max(worst, Math.abs(value - (found.values[at] ?? NaN))),
    0,
  );
  assert.ok(worst <= share * most, `differs by ${worst / most} of the largest value`);
}
