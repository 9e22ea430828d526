/** Entry of the report: its source is the document itself. */

import { mount } from "./page/page.ts";
import { reportSource } from "./sources/report_source.ts";

const root = document.getElementById("i2am-page");
if (root) {
  const source = reportSource((id) => document.getElementById(id)?.textContent ?? null);
  document.documentElement.classList.add("i2am-live");
  mount(root, source, { hasAddress: true });
}
