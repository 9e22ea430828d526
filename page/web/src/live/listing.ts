/** The names of a run's samples: from a list beside it, a bucket, or a file server's page of a folder. */

import type { Fetch } from "./http_store.ts";

const MOST_PAGES = 100;

/** The names of the samples; null if nothing tells them. `list` is the URL of samples.json. */
export async function sampleNames(
  run: string,
  list: string | null,
  fetcher: Fetch,
): Promise<readonly string[] | null> {
  if (list !== null) return fromList(list, fetcher);
  return (await folderNames(run, fetcher)) ?? (await fromList(`${run}/samples.json`, fetcher));
}

/** Names of the folders in a folder, as a bucket or a file server lists them. */
export async function folderNames(url: string, fetcher: Fetch): Promise<readonly string[] | null> {
  return (await fromBucket(url, fetcher)) ?? (await fromFolder(url, fetcher));
}

async function fromList(url: string, fetcher: Fetch): Promise<readonly string[] | null> {
  const text = await textOf(url, fetcher);
  try {
    const { samples } = JSON.parse(text ?? "{}") as { samples?: unknown };
    return Array.isArray(samples) ? samples.map(String) : null;
  } catch {
    return null;
  }
}

/** Ask as S3 is asked, with the bucket as the host or as the first folder of the path. */
async function fromBucket(run: string, fetcher: Fetch): Promise<readonly string[] | null> {
  const { origin, pathname } = new URL(run);
  const folders = pathname.split("/").filter(Boolean).map(decodeURIComponent);
  for (const inPath of [1, 0]) {
    const bucket = [origin, ...folders.slice(0, inPath).map(encodeURIComponent)].join("/");
    const prefix = folders.slice(inPath).map((name) => `${name}/`).join("");
    const names = await listBucket(bucket, prefix, fetcher);
    if (names) return names;
  }
  return null;
}

async function listBucket(
  bucket: string,
  prefix: string,
  fetcher: Fetch,
): Promise<readonly string[] | null> {
  const names: string[] = [];
  let token = "";
  for (let page = 0; page < MOST_PAGES; page++) {
    const query = new URLSearchParams({ "list-type": "2", delimiter: "/", prefix });
    if (token) query.set("continuation-token", token);
    const found = parseBucketListing((await textOf(`${bucket}?${query}`, fetcher)) ?? "", prefix);
    if (!found) return null;
    names.push(...found.names);
    token = found.next;
    if (!token) break;
  }
  return names.length ? names : null;
}

/** Folders of a listing of a bucket, and the token of its next page; null if it is no such listing. */
export function parseBucketListing(
  xml: string,
  prefix: string,
): { readonly names: string[]; readonly next: string } | null {
  if (!/<ListBucketResult[\s>]/.test(xml)) return null;
  const folders = [...xml.matchAll(/<CommonPrefixes>\s*<Prefix>([^<]*)<\/Prefix>/g)].map((match) =>
    unescaped(match[1] ?? ""),
  );
  const names = folders
    .filter((folder) => folder.startsWith(prefix) && folder.endsWith("/"))
    .map((folder) => folder.slice(prefix.length, -1));
  const next = /<NextContinuationToken>([^<]*)</.exec(xml)?.[1] ?? "";
  return { names: names.filter(isName), next: unescaped(next) };
}

async function fromFolder(run: string, fetcher: Fetch): Promise<readonly string[] | null> {
  const names = parseFolderListing((await textOf(`${run}/`, fetcher)) ?? "");
  return names.length ? names : null;
}

/** Folders that a file server's page of a folder links to. */
export function parseFolderListing(html: string): string[] {
  const links = [...html.matchAll(/<a\s[^>]*?href\s*=\s*(?:"([^"]*)"|'([^']*)')/gi)];
  const names = links.flatMap((match) => {
    const link = unescaped(match[1] ?? match[2] ?? "").replace(/^\.\//, "");
    if (!link.endsWith("/") || /^[a-z][a-z0-9+.-]*:|^\/|[?#]/i.test(link)) return [];
    try {
      return [decodeURIComponent(link.slice(0, -1))];
    } catch {
      return [];
    }
  });
  return [...new Set(names.filter(isName))];
}

function isName(name: string): boolean {
  return name !== "" && !name.startsWith(".") && !name.includes("/");
}

async function textOf(url: string, fetcher: Fetch): Promise<string | null> {
  try {
    const response = await fetcher(url, { cache: "no-cache" });
    return response.ok ? await response.text() : null;
  } catch {
    return null; // No such address: the next way is tried.
  }
}

function unescaped(text: string): string {
  const known: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };
  return text.replace(/&(?:#x([0-9a-f]+)|#(\d+)|(\w+));/gi, (whole, hex, decimal, name) => {
    if (hex || decimal) return String.fromCodePoint(Number.parseInt(hex ?? decimal, hex ? 16 : 10));
    return known[String(name).toLowerCase()] ?? whole;
  });
}
