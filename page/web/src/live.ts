/** Entry of the page over a live run: a static site, or what `i2am serve` gives. */

import { liveSource } from "./live/live_run.ts";
import { mount } from "./page/page.ts";
import { checkFormat, type RunJson } from "./sources/sample_json.ts";

const root = document.getElementById("i2am-page");
const script = document.getElementById("i2am-run");
if (root && script) {
  const json = checkFormat(JSON.parse(script.textContent ?? "{}") as RunJson);
  const absolute = (url: string) => new URL(url, document.baseURI).href.replace(/\/+$/, "");
  const [run, maps, names] = [json.run ?? ".", json.maps, json.names];
  const addresses = {
    run: absolute(run),
    maps: maps ? absolute(maps) : null,
    names: names ? absolute(names) : null,
  };
  document.documentElement.classList.add("i2am-live");
  mount(root, liveSource(json, addresses), { hasAddress: true });
}
