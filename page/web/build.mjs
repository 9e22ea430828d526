// Bundles the page into page/static, or with --tests its tests into build/test. The same sources and
// the same lock give the same bytes: no dates, no paths, no source maps.

import { readFile, readdir, rm, writeFile, copyFile, mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
// No store of ours needs lz4 alone, and zstd is decoded by a smaller package.
const CODECS_LEFT_OUT = ["numcodecs/lz4", "numcodecs/zstd"];
const STATIC = join(here, "..", "static");

// Blosc's glue makes its functions from source text, which the page's content security policy forbids.
// The one place that does is replaced by a function that does the same; the build fails when the
// package has changed there.
const MADE_FROM_TEXT = "g = La(Ka).apply(null, r);";
const MADE_AS_CLOSURE = `g = ((types, call, fn, run, isStacked, answers) => (...given) => {
  if (given.length !== types.length - 2) throw new Error("Expected " + (types.length - 2) + " arguments.");
  const own = isStacked ? [] : null;
  const wired = given.map((one, at) => types[at + 2].toWireType(own, one));
  const found = call(fn, ...wired);
  if (isStacked) run(own);
  else types.slice(2).forEach((type, at) => type.G !== null && type.G(wired[at]));
  return answers ? types[0].fromWireType(found) : undefined;
})(g, r[1], r[2], r[3], C, Ia);`;
const withoutEval = {
  name: "without-eval",
  setup: (build) =>
    build.onLoad({ filter: /numcodecs[/\\]dist[/\\]blosc\.js$/ }, async ({ path }) => {
      const text = await readFile(path, "utf8");
      if (text.split(MADE_FROM_TEXT).length !== 2) {
        throw new Error(`Expected one function that is made from text, got another number, at ${path}.`);
      }
      return { contents: text.replace(MADE_FROM_TEXT, () => MADE_AS_CLOSURE), loader: "js" };
    }),
};
const common = {
  plugins: [withoutEval],
  absWorkingDir: here,
  bundle: true,
  charset: "utf8",
  legalComments: "none",
  logLevel: "warning",
  target: "es2022",
};

if (process.argv.includes("--tests")) await buildTests();
else await buildPage();

// Those in a browser apart: what drives it makes functions from text, and the others must not.
async function buildTests() {
  const out = join(here, "build", "test");
  await rm(out, { recursive: true, force: true });
  for (const kind of ["unit", "browser"]) {
    const names = (await readdir(join(here, "test", kind))).filter((name) => name.endsWith(".ts"));
    await build({
      ...common,
      entryPoints: names.map((name) => join("test", kind, name)),
      outdir: join(out, kind),
      format: "esm",
      platform: "node",
      external: [...CODECS_LEFT_OUT, "playwright-core"],
      outExtension: { ".js": ".mjs" },
    });
  }
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
      external: CODECS_LEFT_OUT,
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
  // Packages do not carry the licences of what was compiled into them: here they are.
  for (const name of (await readdir(join(here, "licences"))).sort()) {
    const text = await readFile(join(here, "licences", name), "utf8");
    texts.push(`${"=".repeat(78)}\n${text.trim()}\n`);
  }
  return texts.join("\n");
}
