// Bundles the page into page/static, or with --tests its tests into build/test. The same sources and
// the same lock give the same bytes: no dates, no paths, no source maps.

import { readFile, readdir, rm, writeFile, copyFile, mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const STATIC = join(here, "..", "static");
const common = {
  absWorkingDir: here,
  bundle: true,
  charset: "utf8",
  legalComments: "none",
  logLevel: "warning",
  target: "es2022",
};

if (process.argv.includes("--tests")) await buildTests();
else await buildPage();

async function buildTests() {
  const out = join(here, "build", "test");
  await rm(out, { recursive: true, force: true });
  const names = (await readdir(join(here, "test"))).filter((name) => name.endsWith(".test.ts"));
  await build({
    ...common,
    entryPoints: names.map((name) => join("test", name)),
    outdir: out,
    format: "esm",
    platform: "node",
    packages: "external",
    outExtension: { ".js": ".mjs" },
  });
}

async function buildPage() {
  await rm(STATIC, { recursive: true, force: true });
  await mkdir(STATIC, { recursive: true });
  const page = { ...common, outdir: STATIC, minify: true, metafile: true, platform: "browser" };
  const results = [
    await build({ ...page, entryPoints: ["src/report.ts"], format: "iife" }),
    await build({ ...page, entryPoints: ["src/widget.ts"], format: "esm" }),
    // What few stores need comes when one needs it: files of their own beside live.js.
    await build({
      ...page,
      entryPoints: ["src/live.ts"],
      format: "esm",
      splitting: true,
      chunkNames: "[name]",
    }),
  ];
  await copyFile(join(here, "src", "page.css"), join(STATIC, "page.css"));
  await writeFile(join(STATIC, "LICENSES.txt"), await licences(results));
  for (const name of (await readdir(STATIC)).sort()) {
    const { length } = await readFile(join(STATIC, name));
    console.log(`${name.padEnd(16)} ${(length / 1000).toFixed(1).padStart(7)} kB`);
  }
}

// Every package of which something is bundled, with its licence.
async function licences(results) {
  const inputs = results.flatMap(({ metafile }) => Object.keys(metafile.inputs));
  const folders = new Set(
    inputs.flatMap((path) => path.match(/^node_modules\/(?:@[^/]+\/)?[^/]+/)?.[0] ?? []),
  );
  const texts = ["The page in this folder is i2am's own (Apache-2.0), and holds parts of these packages.\n"];
  for (const folder of [...folders].sort()) {
    const { name, version, license } = JSON.parse(await readFile(join(here, folder, "package.json")));
    const file = (await readdir(join(here, folder))).find((one) => /^licen[cs]e/i.test(one));
    if (!file) throw new Error(`Expected a licence, got none, at ${folder}.`);
    const text = await readFile(join(here, folder, file), "utf8");
    texts.push(`${"=".repeat(78)}\n${name} ${version} (${license})\n\n${text.trim()}\n`);
  }
  return texts.join("\n");
}
