/** The page: a table of samples, or one of them. What it shows is what its source answers. */

import type { RunSource } from "../source.ts";
import { el, freshId } from "./dom.ts";
import { actionOf, isTaken } from "./keys.ts";
import { factList } from "./sample_details.ts";
import { SampleTable } from "./sample_table.ts";
import { SampleView, type Look } from "./sample_view.ts";
import { messageOf } from "./words.ts";

export interface Options {
  /** Whether the address tells which sample is open, so that it can be sent, and "back" works. */
  readonly hasAddress: boolean;
  /** Which sample to open first; "" for the table. */
  readonly sample?: string;
}

const ADDRESS = "#sample=";

/** Build the page in an element. Returns what takes it away again. */
export function mount(root: HTMLElement, source: RunSource, options: Options): () => void {
  const page = new Page(root, source, options);
  void page.start();
  return () => page.close();
}

class Page {
  readonly #root: HTMLElement;
  readonly #source: RunSource;
  readonly #options: Options;
  readonly #main = el("div", { class: "content" });
  readonly #look: Look = { style: { isOn: true, opacity: 0.9 }, scale: "own" };
  readonly #about: HTMLElement;
  readonly #closed = new AbortController();
  #table: SampleTable | null = null;
  #names: readonly string[] = [];
  #view: SampleView | null = null;
  #shown: string | null = null;
  #opening = 0;

  constructor(root: HTMLElement, source: RunSource, options: Options) {
    [this.#root, this.#source, this.#options] = [root, source, options];
    this.#about = el(
      "div",
      {},
      ...source.notes.map((note) => el("p", { class: "note" }, note)),
      el("details", {}, el("summary", {}, "About this run"), factList(source.facts)),
    );
    root.classList.add("i2am");
    const { signal } = this.#closed;
    // In a notebook the keys are its own unless the page has the focus.
    const keys: EventTarget = options.hasAddress ? document : root;
    keys.addEventListener("keydown", (event) => this.#key(event as KeyboardEvent), { signal });
    if (options.hasAddress) window.addEventListener("hashchange", () => this.#follow(), { signal });
  }

  async start(): Promise<void> {
    this.#root.replaceChildren(el("header", {}, el("h1", {}, this.#source.title)), this.#main);
    try {
      const samples = await this.#source.samples();
      if (this.#closed.signal.aborted) return;
      this.#names = (samples ?? []).map((sample) => sample.name);
      this.#table = samples && new SampleTable(samples, this.#source.scores, (name) => this.#open(name));
      const first = this.#options.sample || (this.#options.hasAddress ? addressed() : "");
      this.#show(first || (this.#names.length === 1 ? (this.#names[0] ?? "") : ""));
    } catch (error) {
      this.#fail(messageOf(error));
    }
  }

  close(): void {
    this.#closed.abort();
    this.#view?.close();
    this.#root.replaceChildren();
  }

  /** Go to a sample, or with "" to the table; the address follows, where there is one. */
  #open(name: string): void {
    if (this.#options.hasAddress) {
      const address = name ? ADDRESS + encodeURIComponent(name) : "#";
      if (window.location.hash !== address) window.location.hash = address;
      else this.#show(name);
    } else {
      this.#show(name);
    }
  }

  #follow(): void {
    const name = addressed();
    if (name !== this.#shown) this.#show(name);
  }

  #show(name: string): void {
    this.#opening += 1;
    this.#view?.close();
    this.#view = null;
    const before = this.#shown;
    this.#shown = name;
    if (name) {
      void this.#showSample(name, this.#opening);
    } else {
      this.#main.replaceChildren(this.#about, this.#table?.element ?? this.#question());
      if (before) this.#table?.focus(before);
    }
  }

  /** What asks for a sample's name, where nothing tells them. */
  #question(): HTMLElement {
    const id = freshId("name");
    const input = el("input", { id, type: "text", autocomplete: "off", required: true });
    const label = el("label", { for: id }, "Nothing lists the samples of this run. Name one: ");
    const form = el("form", {}, label, input, " ", el("button", { type: "submit" }, "Open"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#open(input.value.trim());
    });
    return form;
  }

  async #showSample(name: string, number: number): Promise<void> {
    const shown = this.#table?.names ?? [];
    const names = shown.includes(name) ? shown : this.#names;
    const at = names.indexOf(name);
    const title = el("h2", { tabindex: "-1" }, name);
    const to = (words: string, other: string | undefined) => {
      const button = el("button", { type: "button" }, words);
      button.disabled = other === undefined;
      button.addEventListener("click", () => this.#open(other ?? ""));
      return button;
    };
    const place = el(
      "nav",
      { "aria-label": "Samples" },
      to("All samples", ""),
      to("Previous", names[at - 1]),
      to("Next", at < 0 ? undefined : names[at + 1]),
      el("span", { class: "meaning" }, at < 0 ? "" : `${at + 1} of ${names.length}`),
    );
    const status = el("p", { role: "status" }, "Opening …");
    this.#main.replaceChildren(place, title, status);
    title.focus({ preventScroll: true });
    try {
      const sample = await this.#source.open(name);
      if (number !== this.#opening) return;
      const view = new SampleView(sample, this.#source.scores, this.#look);
      this.#view = view;
      status.replaceWith(view.element);
      await view.load();
    } catch (error) {
      if (number === this.#opening) status.replaceChildren(messageOf(error));
    }
  }

  #fail(words: string): void {
    this.#main.replaceChildren(el("p", { class: "note", role: "alert" }, words));
  }

  #key(event: KeyboardEvent): void {
    const view = this.#view;
    if (!view || event.defaultPrevented || isTaken(event)) return;
    const action = actionOf(event, view.position, view.axes);
    if (action === null) return;
    event.preventDefault();
    event.stopPropagation();
    if (action === "clear") view.clear();
    else if (action === "next" || action === "previous") this.#step(action === "next" ? 1 : -1);
    else view.move(action.move);
  }

  #step(by: number): void {
    const shown = this.#table?.names ?? [];
    const names = shown.includes(this.#shown ?? "") ? shown : this.#names;
    const next = names[names.indexOf(this.#shown ?? "") + by];
    if (next !== undefined) this.#open(next);
  }
}

/** The sample that the address names; "" if it names none. */
function addressed(): string {
  const { hash } = window.location;
  if (!hash.startsWith(ADDRESS)) return "";
  try {
    return decodeURIComponent(hash.slice(ADDRESS.length));
  } catch {
    return "";
  }
}
