/** The built page in a real browser: `CHROMIUM` says where one is, or it is in the usual place. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { createRequire } from "node:module";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { deflateRawSync } from "node:zlib";

import { chromium, type Browser, type Page } from "playwright-core";

import { storedObjects } from "../support.ts";

const CHROMIUM =
  process.env["CHROMIUM"] ??
  ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
const options = { skip: CHROMIUM ? false : "there is no Chromium: name one in CHROMIUM" };
const AXE = createRequire(`${process.cwd()}/package.json`).resolve("axe-core/axe.min.js");
const HOSTILE = "<script>alert(1)</script>";
const WHITE = "data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACH5BAAAAAAALAAAAAABAAEAAAICRAEAOw==";

let browser: Browser;
let server: Server;
let origin = "";

before(async () => {
  if (!CHROMIUM) return;
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
  const files = storedObjects();
  for (const name of ["live.js", "blosc.js", "widget.js", "page.css"]) {
    files.set(name, new Uint8Array(readFileSync(`../static/${name}`)));
  }
  const texts = {
    "index.html": livePage("samples.json"),
    "unlisted.html": livePage(null),
    "report.html": reportPage(),
    "notebook.html": notebookPage(),
    "samples.json": '{"samples": ["shirt"]}',
  };
  for (const [name, text] of Object.entries(texts)) files.set(name, new TextEncoder().encode(text));
  server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url ?? "/", "http://any").pathname).slice(1);
    const bytes = files.get(path);
    const type = { html: "text/html", js: "text/javascript", css: "text/css" }[path.split(".").at(-1) ?? ""];
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    if (!bytes) response.writeHead(path === "favicon.ico" ? 204 : 404).end();
    else if (range) response.writeHead(206).end(bytes.subarray(Number(range[1]), Number(range[2]) + 1));
    else response.writeHead(200, { "content-type": type ?? "application/octet-stream" }).end(bytes);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

after(async () => {
  await browser?.close();
  server?.close();
});

function stack(dims: string[], shape: number[]) {
  const maps = shape.slice(0, -2).reduce((product, size) => product * size, 1);
  const bytes = Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, at) => (at * 37) % 255);
  const data = deflateRawSync(Buffer.from(bytes)).toString("base64");
  const ends = (value: number) => new Array<number>(maps).fill(value);
  return { dims, shape, encoding: "deflate-raw", data, low: ends(0), high: ends(0.5) };
}

function sample(name: string) {
  const image = { url: WHITE, size: [64, 64], box: [0, 0, 64, 64] };
  const maps = [stack(["layer", "step"], [2, 3, 4, 4]), stack(["layer", "head"], [2, 2, 4, 4]), stack([], [8, 8])];
  const sram = { cells: [4, 4], stack: stack(["cell"], [16, 4, 4]) };
  return {
    name,
    notes: ["A <b>note</b>."],
    provenance: [["model", HOSTILE]],
    images: { generated: image, reference: { ...image, box: [-8, 0, 56, 72] }, source: image },
    axes: { layers: ["down.attn2", "up.attn2"], timesteps: [900, 500, 1], steps: ["0", "1", "2"], heads: ["0", "1"] },
    maps: { r2g: maps, g2r: maps },
    sram: { generated: sram, reference: sram },
    curves: [
      {
        title: "inside the mask", x_label: "timestep", y_label: "share", x: [900, 500, 1], chance: 0.2,
        lines: [{ name: "R2G", y: [0.2, null, 0.4] }, { name: "G2R", y: [0.1, 0.2, 0.3] }],
      },
    ],
    matrix: [{ title: "IMACS", rows: ["down.attn2", "up.attn2"], columns: ["0", "1"], values: [[0.1, 0.9], [null, 0.4]] }],
    effects: { sentences: ["A cut moves it."], boxes: [[0, 0, 8, 8], [8, 8, 16, 16]], stack: stack(["cell"], [2, 4, 4]) },
    scores: { iou: 0.5 },
    figures: [{ title: "Overview", caption: "All maps", alt: "overview of maps", url: WHITE }],
  };
}

const NAMES = ["shirt", HOSTILE, "boot", "hat", "s4", "s5", "s6", "s7"];

function reportPage(): string {
  const iou = { name: "iou", title: "IoU", meaning: "overlap with the mask", better: "high", chance: 0.1 };
  const samples = NAMES.map((name, at) => ({
    name,
    thumbs: { generated: WHITE, reference: WHITE },
    scores: { iou: at === 3 ? null : at / 10 },
    outliers: at === 2 ? ["iou"] : [],
  }));
  const run = { format: 1, kind: "report", title: "run", facts: [["model", HOSTILE]], notes: [], scores: [iou], samples, left_out: 0 };
  const scripts = NAMES.map((name, at) => dataScript(`i2am-sample-${at}`, sample(name))).join("");
  const script = readFileSync("../static/report.js", "utf8");
  const hash = createHash("sha256").update(script).digest("base64");
  const policy = `default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-${hash}'; base-uri 'none'; form-action 'none'`;
  const css = readFileSync("../static/page.css", "utf8");
  return page(policy, `<style>${css}</style>`, `${dataScript("i2am-run", run)}${scripts}<script>${script}</script>`);
}

function livePage(names: string | null): string {
  const run = { format: 1, kind: "live", title: "live", facts: [], notes: [], scores: [], run: "written.zarr", maps: "maps.zarr", names };
  const policy =
    "default-src 'none'; img-src data: blob:; style-src 'self'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; base-uri 'none'; form-action 'none'";
  const script = '<script type="module" src="live.js"></script>';
  return page(policy, '<link rel="stylesheet" href="page.css">', dataScript("i2am-run", run) + script);
}

/** A notebook's output cell, with the other end of anywidget's model in the page. */
function notebookPage(): string {
  const { maps, sram, ...plain } = sample(HOSTILE);
  const has = { r2g: maps.r2g.length > 0, g2r: false, sram: sram.generated.cells.length > 0 };
  const answers = {
    samples: { run: { format: 1, kind: "widget", title: "cell", facts: [], notes: [], scores: [], samples: [{ name: HOSTILE, scores: {} }] } },
    open: { sample: { ...plain, has } },
  };
  const script = `
    import widget from "./widget.js";
    const answers = ${JSON.stringify(answers).replaceAll("<", "\\u003c")};
    const heard = [];
    window.asked = [];
    const tell = (message, ...buffers) => setTimeout(() => heard.forEach((one) => one(message, buffers)));
    const plane = () => new DataView(Float32Array.from({ length: 16 }, (_, at) => at).buffer);
    window.keys = 0;
    document.addEventListener("keydown", () => window.keys++);
    widget.render({
      el: document.getElementById("cell"),
      model: {
        get: () => "",
        on: (_, listen) => heard.push(listen),
        off: () => {},
        send: ({ id, ask, ...rest }) => {
          window.asked.push({ ask, ...rest });
          if (ask in answers) tell({ id, ...answers[ask] });
          if (ask === "map") tell({ id, plane: { height: 4, width: 4 } }, plane());
          if (ask === "sram") [0.5, 1].forEach((share) => tell({ id, share, plane: { height: 4, width: 4 } }, plane()));
        },
      },
    });`;
  return `<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>notebook</title><link rel="stylesheet" href="page.css"></head>
<body><div id="cell"></div><script type="module">${script}</script></body></html>`;
}

function page(policy: string, style: string, scripts: string): string {
  return `<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>page</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta http-equiv="Content-Security-Policy" content="${policy}">${style}</head>
<body><main><div id="i2am-page"></div></main><div id="i2am-static">without scripts</div>${scripts}</body></html>`;
}

function dataScript(id: string, json: unknown): string {
  return `<script type="application/json" id="${id}">${JSON.stringify(json).replaceAll("<", "\\u003c")}</script>`;
}

interface Visit {
  readonly page: Page;
  readonly faults: string[];
}

/** Open a page, and note what a page of ours must not do. */
async function visit(url: string, width: number, colorScheme: "light" | "dark", bypassCSP = false): Promise<Visit> {
  const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme, bypassCSP });
  const page = await context.newPage();
  const faults: string[] = [];
  page.on("console", (message) => message.type() === "error" && faults.push(message.text()));
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("dialog", (dialog) => (faults.push("a dialog opened"), void dialog.dismiss()));
  page.on("request", (request) => {
    const { protocol, origin: asked } = new URL(request.url());
    if (protocol !== "data:" && protocol !== "blob:" && asked !== origin) faults.push(request.url());
  });
  await page.goto(url);
  return { page, faults };
}

const rows = (page: Page) => page.locator(".samples tbody button.link").allTextContents();
const outputs = (page: Page) => page.locator(".slider output").allTextContents();

test("a report answers to mouse and keys, shows names as text, and asks nobody", options, async () => {
  const { page, faults } = await visit(`${origin}/report.html`, 1400, "light");
  assert.deepEqual(await rows(page), [HOSTILE, "boot", "hat", "s4", "s5", "s6", "s7", "shirt"]);
  await page.getByRole("button", { name: "IoU" }).click();
  assert.deepEqual(await rows(page), ["s7", "s6", "s5", "s4", "boot", HOSTILE, "shirt", "hat"]);
  await page.keyboard.press("Enter");
  assert.deepEqual(await rows(page), ["shirt", HOSTILE, "boot", "s4", "s5", "s6", "s7", "hat"]);
  assert.equal(await page.locator(".tag").textContent(), "outlier");
  await page.getByRole("button", { name: HOSTILE }).click();
  await page.getByRole("heading", { name: HOSTILE }).waitFor();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowUp");
  assert.deepEqual(await outputs(page), ["down.attn2", "step 0 (timestep 900)", "mean over all heads"]);
  await page.keyboard.press("]");
  assert.deepEqual(await outputs(page), ["down.attn2", "mean over all steps", "head 0"]);
  await page.locator(".picture canvas").first().click({ position: { x: 10, y: 10 } });
  await page.locator(".asked", { hasText: "Attention of the patch at row 1, column 1" }).waitFor();
  assert.equal(await page.locator(".stage .outline").count(), 1);
  assert.equal(await page.locator(".stage .peak").count(), 1);
  await page.keyboard.press("Escape");
  assert.equal(await page.locator(".stage rect").count(), 0);
  await page.locator(".picture canvas").nth(1).focus();
  await page.keyboard.press("Shift+ArrowRight");
  await page.keyboard.press("Enter");
  await page.locator(".asked", { hasText: "of the reference image" }).waitFor();
  await page.getByRole("button", { name: "up.attn2, head 1" }).click();
  assert.deepEqual(await outputs(page), ["up.attn2", "mean over all steps", "head 1"]);
  await page.keyboard.press("n");
  await page.getByRole("heading", { name: "boot" }).waitFor();
  assert.match(page.url(), /#sample=boot$/);
  await page.goBack();
  await page.getByRole("heading", { name: HOSTILE }).waitFor();
  assert.deepEqual(faults, []);
});

test("a report has no serious fault of accessibility and is not clipped, wide, narrow, light and dark", options, async () => {
  for (const [width, scheme] of [[1400, "dark"], [420, "light"], [420, "dark"]] as const) {
    const { page, faults } = await visit(`${origin}/report.html`, width, scheme, true);
    await page.addScriptTag({ path: AXE });
    for (const view of ["table", "sample"]) {
      if (view === "sample") {
        await page.getByRole("button", { name: "boot" }).click();
        await page.locator(".pictures canvas").first().waitFor();
        for (const summary of await page.locator("summary").all()) await summary.click();
      }
      const found = await page.evaluate(async () => {
        const { axe } = globalThis as unknown as { axe: { run(): Promise<{ violations: { id: string; impact: string }[] }> } };
        return (await axe.run()).violations.map(({ id, impact }) => `${impact} ${id}`);
      });
      assert.deepEqual(found, [], `${view} at ${width} px, ${scheme}`);
      const clipped = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      assert.ok(clipped <= 0, `${view} is ${clipped} px too wide at ${width} px`);
    }
    assert.deepEqual(faults, []);
  }
});

test("a live run is read from its server alone: stored maps, and a click from Q and K", options, async () => {
  const { page, faults } = await visit(`${origin}/index.html`, 1400, "light");
  await page.getByRole("heading", { name: "shirt" }).waitFor(); // The only one is opened at once.
  await page.locator(".scale span", { hasText: /\d/ }).first().waitFor();
  await page.locator(".picture canvas").first().click({ position: { x: 30, y: 30 } });
  await page.locator(".asked", { hasText: "Attention of the patch" }).waitFor();
  assert.deepEqual(await page.locator(".message").allTextContents(), ["", ""]);
  assert.deepEqual(faults, []);
});

test("a notebook's widget draws what its process answers, and keeps its keys to itself", options, async () => {
  const { page, faults } = await visit(`${origin}/notebook.html`, 1000, "light");
  await page.getByRole("heading", { name: HOSTILE }).waitFor();
  await page.locator(".scale span", { hasText: "15" }).waitFor();
  const messages = await page.locator(".message").allTextContents();
  assert.deepEqual(messages.slice(0, 2), ["", "There is no map of this direction for this sample."]);
  await page.locator(".picture canvas").first().click({ position: { x: 10, y: 10 } });
  await page.locator(".asked", { hasText: "Highest at row 48, column 63: 15. Escape clears." }).waitFor();
  await page.keyboard.press("ArrowRight");
  const state = () =>
    page.evaluate(() => {
      const { asked, keys } = window as unknown as { asked: { ask: string }[]; keys: number };
      return { last: asked.filter(({ ask }) => ask === "map").at(-1), keys };
    });
  const map = { ask: "map", name: HOSTILE, direction: "r2g", layer: null, step: 0, head: null };
  assert.deepEqual(await state(), { last: map, keys: 0 });
  const ground = () => page.evaluate(() => getComputedStyle(document.querySelector(".i2am")!).backgroundColor);
  const light = await ground();
  await page.evaluate(() => document.body.setAttribute("data-jp-theme-light", "false"));
  assert.deepEqual([light, await ground()], ["rgb(255, 255, 255)", "rgb(23, 23, 28)"]);
  assert.deepEqual(faults, []);
});

test("a run whose samples nobody lists asks for the name of one", options, async () => {
  const { page } = await visit(`${origin}/unlisted.html`, 420, "dark");
  await page.getByLabel("Name one").fill("shirt");
  await page.keyboard.press("Enter");
  await page.locator(".scale span", { hasText: /\d/ }).first().waitFor();
  await page.getByRole("button", { name: "All samples" }).click();
  await page.getByLabel("Name one").fill("none");
  await page.keyboard.press("Enter");
  await page.getByText("Expected a complete sample, got none, at none").waitFor();
});
