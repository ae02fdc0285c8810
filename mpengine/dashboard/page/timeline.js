// What each worker was at, a column for each of the last seconds: one canvas, so it costs the same however long the run is.
// The taller a cell, the more of that second the worker had work; the colour is the stage's; a death is a cross.

import { clipped, make } from "./figures.js";

const COLUMNS = 120;
const LEAST = 30;
const LABEL = 40;
const STAGES = 6;

export class Timeline {
  constructor(canvas, legend) {
    this.canvas = canvas;
    this.legend = legend;
    this.columns = [];
    this.look = null;
    this.told = "";
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  take(look) {
    this.look = look;
    this.columns = (look.full ? look.columns : this.columns.concat(look.columns)).slice(-COLUMNS);
    if (look.full || look.columns.length) this.draw();
  }

  draw() {
    if (!this.look) return;
    const { workers } = this.look;
    const ratio = window.devicePixelRatio || 1;
    const row = workers.length > 24 ? 9 : 18;
    const width = this.canvas.parentElement.clientWidth - 2 * parseFloat(getComputedStyle(this.canvas.parentElement).paddingLeft);
    const height = Math.max(1, workers.length) * row;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.canvas.style.height = `${height}px`;
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`);
    const room = Math.max(LEAST, this.columns.length); // a run of some seconds does not hide in a corner
    const step = (width - LABEL) / room;
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    workers.forEach((worker, number) => {
      const top = number * row;
      pen.fillStyle = colour("soft");
      if (row > 10 || number % 4 === 0) pen.fillText(`${worker.id}`, 0, top + row / 2);
      pen.fillStyle = colour("track");
      pen.fillRect(LABEL, top + row - 2, width - LABEL, 1);
      this.columns.forEach(([states, stages], at) => {
        const state = states[number];
        if (state === undefined) return;
        const x = LABEL + (room - this.columns.length + at) * step;
        cell(pen, { state, x, top, step, row }, colour, parseInt(stages[number], 36) % STAGES);
      });
    });
    this.say();
  }

  say() {
    const { workers, stages } = this.look;
    const states = new Map();
    for (const worker of workers) states.set(worker.state, (states.get(worker.state) || 0) + 1);
    const now = [...states].map(([state, number]) => `${number} ${state}`).join(", ");
    const deaths = workers.reduce((sum, worker) => sum + worker.deaths, 0);
    this.canvas.setAttribute("aria-label", `What ${workers.length} workers were at in the last ${this.columns.length} seconds. Now: ${now}. ${deaths} deaths.`);
    const chains = new Map();
    stages.forEach((stage, number) => {
      const chain = this.look.outline[number]?.chain ?? number;
      if (!chains.has(chain)) chains.set(chain, { number, names: [] });
      chains.get(chain).names.push(stage.name);
    });
    const told = JSON.stringify([...chains]);
    if (told === this.told) return;
    this.told = told;
    const parts = [...chains.values()].slice(0, 12).map(({ number, names }) => {
      const pair = make("span", { class: "pair-of-key" });
      const square = make("span", { class: "key square" });
      square.style.background = `var(--stage-${number % STAGES})`;
      pair.append(square, make("span", {}, clipped(names.join(" + "), 40)));
      return pair;
    });
    const words = ["✕ died", "╱ starting or leaving"].map((text) => make("span", {}, text));
    this.legend.replaceChildren(make("span", {}, "A column is a second, its height the time at work."), ...parts, ...words);
  }
}

function cell(pen, { state, x, top, step, row }, colour, stage) {
  const room = row - 3;
  if (state === "x") {
    pen.strokeStyle = colour("danger");
    pen.lineWidth = 1.75;
    const [middle, half] = [x + step / 2, Math.min(room / 2, 4)];
    pen.beginPath();
    pen.moveTo(middle - half, top + room / 2 - half);
    pen.lineTo(middle + half, top + room / 2 + half);
    pen.moveTo(middle - half, top + room / 2 + half);
    pen.lineTo(middle + half, top + room / 2 - half);
    pen.stroke();
  } else if (state === "s" || state === "l") {
    pen.strokeStyle = colour("edge");
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(x, top + room);
    pen.lineTo(x + step, top + 1);
    pen.stroke();
  } else if (state !== "a" && state !== "0") {
    const height = (room * Number(state)) / 9;
    pen.fillStyle = colour(`stage-${stage}`);
    pen.fillRect(x, top + room - height, Math.max(1, step - 0.75), height);
  }
}
