// Throughput over the whole run: one line for what was delivered, one for what failed.  Ten elements, however long it is.

import { draw, duration, perSecond, put } from "./figures.js";

const SIZE = { height: 170, left: 52, right: 8, top: 12, bottom: 24 };

export class Chart {
  constructor(place) {
    this.place = place;
    this.points = [];
    this.svg = draw("svg", { role: "img", "aria-label": "Throughput" });
    this.area = draw("path", { class: "area" });
    this.delivered = draw("path", { class: "delivered" });
    this.failed = draw("path", { class: "failed" });
    this.lines = [0, 1, 2].map(() => draw("line", { class: "grid" }));
    this.marks = [0, 1, 2].map(() => draw("text", { class: "soft", "text-anchor": "end" }));
    this.from = draw("text", { class: "soft" }, "start");
    this.to = draw("text", { class: "soft", "text-anchor": "end" });
    this.svg.append(...this.lines, this.area, this.delivered, this.failed, ...this.marks, this.from, this.to);
    place.replaceChildren(this.svg);
    new ResizeObserver(() => this.draw()).observe(place);
  }

  take({ anew, points }) {
    this.points = anew ? points : this.points.concat(points);
    if (anew || points.length) this.draw();
  }

  draw() {
    const { points } = this;
    const width = Math.max(220, this.place.clientWidth);
    const right = width - SIZE.right;
    const bottom = SIZE.height - SIZE.bottom;
    const end = points.length ? points[points.length - 1][0] : 1;
    const top = nice(Math.max(1e-6, ...points.map((point) => Math.max(point[2], point[3]))));
    const x = (at) => (SIZE.left + ((right - SIZE.left) * at) / end).toFixed(1);
    const y = (value) => (bottom - ((bottom - SIZE.top) * value) / top).toFixed(1);
    const line = (column) => points.map((point, number) => `${number ? "L" : "M"}${x(point[0])} ${y(point[column])}`).join("");
    this.svg.setAttribute("viewBox", `0 0 ${width} ${SIZE.height}`);
    this.delivered.setAttribute("d", line(2));
    this.area.setAttribute("d", points.length ? `${line(2)}L${x(end)} ${bottom}L${x(points[0][0])} ${bottom}Z` : "");
    this.failed.setAttribute("d", points.some((point) => point[3]) ? line(3) : "");
    [0, 0.5, 1].forEach((share, number) => {
      const height = y(top * share);
      for (const [key, value] of [["x1", SIZE.left], ["x2", right], ["y1", height], ["y2", height]]) this.lines[number].setAttribute(key, value);
      this.marks[number].setAttribute("x", SIZE.left - 6);
      this.marks[number].setAttribute("y", Number(height) + 4);
      put(this.marks[number], points.length ? perSecond(top * share) : "");
    });
    this.from.setAttribute("x", SIZE.left);
    this.to.setAttribute("x", right);
    for (const text of [this.from, this.to]) text.setAttribute("y", SIZE.height - 6);
    put(this.to, points.length ? duration(end) : "");
    const now = points.length ? points[points.length - 1][2] : 0;
    const peak = Math.max(0, ...points.map((point) => point[2]));
    this.svg.setAttribute("aria-label", `Throughput over ${duration(end)}: ${perSecond(now)} items a second now, ${perSecond(peak)} at most.`);
  }
}

// The next of 1, 2 and 5 times a power of ten, so that the scale seldom moves.
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}
