// The last errors, the newest first; at most so many are in the page, whatever comes.

import { count, duration, make, put } from "./figures.js";

const SHOWN = 50;

export class Errors {
  constructor({ list, none, total }) {
    Object.assign(this, { list, none, total });
  }

  take(look) {
    if (look.full) this.list.replaceChildren();
    for (const trouble of look.troubles) this.list.prepend(entry(trouble, look.stages));
    while (this.list.children.length > SHOWN) this.list.lastElementChild.remove();
    const failed = look.stages.reduce((sum, stage) => sum + stage.failed, 0);
    const deaths = look.workers.reduce((sum, worker) => sum + worker.deaths, 0);
    const parts = [];
    if (failed) parts.push(`${count(failed)} items`);
    if (deaths) parts.push(`${count(deaths)} deaths of workers`);
    const shown = this.list.children.length;
    if (shown && failed + deaths > shown) parts.push(`the last ${shown} shown`);
    put(this.total, parts.length ? `(${parts.join(", ")})` : "");
    this.none.hidden = shown > 0;
    this.list.hidden = !shown;
  }
}

function entry(trouble, stages) {
  const stage = trouble.stage === null ? null : stages[trouble.stage]?.name ?? `stage ${trouble.stage}`;
  const where = [duration(trouble.at_s)];
  if (trouble.kind === "item") {
    where.push(`item ${count(trouble.index)}`, stage);
    if (trouble.attempts > 1) where.push(`${trouble.attempts} attempts`);
    if (trouble.worker_id !== null) where.push(`worker ${trouble.worker_id}`);
  }
  const summary = make("summary");
  summary.append(
    make("span", { class: "sign", "aria-hidden": "true" }),
    make("span", {}, trouble.summary),
    " ",
    make("span", { class: "where" }, `— ${where.join(", ")}`),
  );
  const details = make("details");
  details.append(summary);
  if (trouble.item !== null) details.append(make("p", { class: "item" }, `Item: ${trouble.item}`));
  const text = trouble.traceback || (trouble.kind === "item" ? "There is no traceback." : "Its batch is run again.");
  details.append(make("pre", { tabindex: "0", role: "region", "aria-label": "Traceback" }, text));
  const line = make("li");
  line.append(details);
  return line;
}
