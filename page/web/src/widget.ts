/** Entry of the notebook's widget, as anywidget loads it: its source is the notebook's Python process. */

import { el } from "./page/dom.ts";
import { mount } from "./page/page.ts";
import { messageOf } from "./page/words.ts";
import { Questions, widgetSource, type Model } from "./sources/widget_source.ts";

function render({ model, el: root }: { model: Model; el: HTMLElement }): () => void {
  // JupyterLab's own keys stay away from what has the focus here.
  root.setAttribute("data-lm-suppress-shortcuts", "true");
  const page = el("div", { class: "i2am-widget" });
  root.replaceChildren(page);
  const questions = new Questions(model);
  let unmount = () => {};
  let isClosed = false;
  widgetSource(questions).then(
    (source) => {
      const sample = model.get("sample");
      const options = { hasAddress: false, sample: typeof sample === "string" ? sample : "" };
      if (!isClosed) unmount = mount(page, source, options);
    },
    (error: unknown) => page.replaceChildren(messageOf(error)),
  );
  return () => {
    isClosed = true;
    unmount();
    questions.close();
  };
}

export default { render };
