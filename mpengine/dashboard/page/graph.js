// The pipeline as a graph: what flows, what waits, who works.  Drawn anew when its shape changes; else texts and bars move.

import { brief, clipped, count, draw, perSecond, put } from "./figures.js";

const NODE = { width: 138, height: 74 };
const GAP = { across: 92, down: 62, between: 16 };
const LEAST_IN_ROW = 4;
const INDENT = 28;
const BAR = 72;

export class Graph {
  constructor(place) {
    this.place = place;
    this.shape = "";
    this.parts = null;
    this.last = null;
    new ResizeObserver(() => this.last && this.show(this.last)).observe(place);
  }

  show(look) {
    this.last = look;
    const width = this.place.clientWidth;
    const nodes = layers(look);
    const depth = Math.max(...nodes.map((node) => node.depth)) + 1;
    const columns = columnsOf(nodes, depth);
    const fitting = Math.floor((width - 4 + GAP.across) / (NODE.width + GAP.across));
    const rows = fitting >= Math.min(depth, LEAST_IN_ROW) ? rowsOf(columns, fitting) : null; // null: one below the other
    const shape = JSON.stringify([rows && fitting, rows ? 0 : width, nodes.map((node) => [node.name, node.after, node.fused])]);
    if (shape !== this.shape) {
      this.shape = shape;
      const size = rows ? placeInRows(rows) : placeDown(columns, width);
      this.parts = build(this.place, nodes, size);
    }
    update(this.parts, look, nodes);
  }
}

// Source, stages, output; each knows how deep it is and what comes before it.
function layers(look) {
  const stages = look.stages.map((stage, number) => {
    const outline = look.outline[number] || { chain: number, after: number ? [number - 1] : [] };
    const after = outline.after.length ? outline.after.map((before) => before + 1) : [0];
    const before = outline.after.length === 1 ? look.outline[outline.after[0]] : null;
    return { name: stage.name, after, fused: Boolean(before && before.chain === outline.chain), stage };
  });
  const nodes = [{ name: "source", after: [], end: true }, ...stages];
  const followed = new Set(nodes.flatMap((node) => node.after));
  const last = nodes.map((_, number) => number).filter((number) => !followed.has(number) && number < nodes.length);
  nodes.push({ name: "output", after: last.length ? last : [0], end: true });
  for (const node of nodes) {
    node.depth = node.after.length ? Math.max(...node.after.map((before) => nodes[before]?.depth ?? 0)) + 1 : 0;
  }
  return nodes;
}

function columnsOf(nodes, depth) {
  const columns = Array.from({ length: depth }, () => []);
  for (const node of nodes) columns[node.depth].push(node);
  return columns;
}

// As many columns in a row as fit; a row neither ends nor begins with what is side by side.  Null where that cannot be.
function rowsOf(columns, fitting) {
  const rows = [];
  for (let from = 0; from < columns.length; ) {
    let to = Math.min(columns.length, from + fitting);
    while (to < columns.length && to > from && (columns[to].length > 1 || columns[to - 1].length > 1)) to -= 1;
    if (to <= from) return null;
    rows.push(columns.slice(from, to));
    from = to;
  }
  return rows;
}

function placeInRows(rows) {
  let top = 2;
  for (const row of rows) {
    const heightOf = (column) => column.length * NODE.height + (column.length - 1) * GAP.between;
    const height = Math.max(...row.map(heightOf));
    row.forEach((column, at) => {
      column.forEach((node, lane) => {
        const x = 2 + at * (NODE.width + GAP.across);
        const y = top + (height - heightOf(column)) / 2 + lane * (NODE.height + GAP.between);
        Object.assign(node, { x, y, width: NODE.width, layout: "row", rowTop: top });
      });
    });
    top += height + GAP.down;
  }
  const longest = Math.max(...rows.map((row) => row.length));
  return { width: longest * (NODE.width + GAP.across) - GAP.across + 4, height: top - GAP.down + 2 };
}

// What is side by side in a mix stands one below the other too, set in between two rails.
function placeDown(columns, width) {
  let y = 2;
  for (const level of columns) {
    const layout = level.length > 1 ? "lane" : "down";
    level.forEach((node, lane) => {
      Object.assign(node, { x: layout === "lane" ? 2 + INDENT : 2, y, width: NODE.width + 14, layout });
      y += NODE.height + (lane < level.length - 1 ? GAP.between : GAP.down);
    });
  }
  return { width: Math.max(width, 240), height: y - GAP.down + 2 };
}

function build(place, nodes, size) {
  const svg = draw("svg", { viewBox: `0 0 ${size.width} ${size.height}`, role: "img", "aria-label": "" });
  svg.style.maxWidth = `${size.width}px`;
  // Words over lines, whichever node they belong to.
  const sheets = { lines: draw("g"), words: draw("g", { class: "words" }) };
  svg.append(sheets.lines, sheets.words);
  const drawn = nodes.map((node) => ({ edges: node.after.map((before, lane) => edge(sheets, nodes[before], node, lane)) }));
  nodes.forEach((node, number) => Object.assign(drawn[number], box(svg, node)));
  place.replaceChildren(svg);
  return { svg, drawn };
}

// The way from one node to the next, and where its words stand: from x on, or around x; the rate over y, the rest below.
function way(from, to) {
  const half = NODE.height / 2;
  const bottom = from.y + NODE.height;
  const into = (x, y) => `M${x} ${y}l-4.5 -9h9z`;
  const along = (x, y) => `M${x} ${y}l-9 -4.5v9z`;
  if (to.layout === "lane") {
    const y = to.y + half;
    const path = `M${2 + INDENT / 2} ${bottom}V${y - 6}q0 6 6 6H${to.x - 8}`;
    return { path, head: along(to.x, y), x: to.x + to.width + INDENT, y: y - 8, anchor: "start", under: true };
  }
  if (from.layout === "lane") {
    const [rail, level, x] = [from.x + from.width + INDENT / 2, to.y - GAP.down + 7, to.x + to.width / 2];
    const path = `M${from.x + from.width} ${from.y + half}H${rail - 6}q6 0 6 6V${level - 6}q0 6 -6 6H${x + 6}q-6 0 -6 6V${to.y - 8}`;
    return { path, head: into(x, to.y), x: x + 14, y: to.y - GAP.down / 2, anchor: "start" };
  }
  if (to.layout === "down") {
    const x = from.x + from.width / 2;
    return { path: `M${x} ${bottom}V${to.y - 8}`, head: into(x, to.y), x: x + 14, y: to.y - GAP.down / 2, anchor: "start" };
  }
  const [x1, y1, x2, y2] = [from.x + from.width, from.y + half, to.x, to.y + half];
  if (x2 > x1) {
    const middle = (x1 + x2) / 2;
    const path = `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2 - 8} ${y2}`;
    return { path, head: along(x2, y2), x: x2 - GAP.across / 2, y: y2, anchor: "middle", under: true };
  }
  // To the row below: down, back between the rows, and into the next node from above.
  const [down, level, over] = [from.x + from.width / 2, to.rowTop - GAP.down / 2 - 6, to.x + to.width / 2];
  const path = `M${down} ${bottom}V${level - 8}q0 8 -8 8H${over + 8}q-8 0 -8 8V${to.y - 8}`;
  return { path, head: into(over, to.y), x: (down + over) / 2, y: level, anchor: "middle", under: true };
}

function edge({ lines, words }, from, to, lane) {
  const { path, head, x, y, anchor, under } = way(from, to);
  const line = draw("path", { d: path, class: "edge" });
  lines.append(line, draw("path", { d: head, class: "head" }));
  if (lane) return { line };
  const rate = draw("text", { x, y: anchor === "middle" ? y - 9 : y - 4, "text-anchor": anchor });
  words.append(rate);
  if (to.end || to.fused) {
    if (to.fused) words.append(draw("text", { x, y: y + 18, "text-anchor": anchor, class: "soft" }, "same worker"));
    return { line, rate };
  }
  const left = anchor === "middle" ? x - BAR / 2 : x;
  const track = draw("rect", { x: left, y: y + 7, width: BAR, height: 9, rx: 2, class: "track" });
  const fill = draw("rect", { x: left, y: y + 7, width: 0, height: 9, rx: 2, class: "fill" });
  const text = draw("text", { x: under ? x : left + BAR + 6, y: under ? y + 30 : y + 16, "text-anchor": anchor, class: "soft" });
  words.append(track, fill, text);
  return { line, rate, fill, text };
}

function box(svg, node) {
  const group = draw("g", { transform: `translate(${node.x} ${node.y})` });
  const name = draw("text", { x: 10, y: 22, class: "name" }, clipped(node.name, Math.floor((node.width - 20) / 7.6)));
  name.append(draw("title", {}, node.name));
  const first = draw("text", { x: 10, y: 41 });
  const second = draw("text", { x: 10, y: 58, class: "soft" });
  group.append(draw("rect", { width: node.width, height: NODE.height, rx: 8, class: node.end ? "node end" : "node" }), name, first, second);
  let busy = null;
  if (!node.end) {
    const bar = { x: 10, y: NODE.height - 10, height: 5, rx: 2.5 };
    group.append(draw("rect", { ...bar, width: node.width - 20, class: "track" }));
    busy = draw("rect", { ...bar, width: 0, class: "busy" });
    group.append(busy);
  }
  svg.append(group);
  return { first, second, busy, width: node.width };
}

function update({ svg, drawn }, look, nodes) {
  const workers = Math.max(1, look.workers_in_all);
  const entering = (number) => (number === 1 ? look.pulled_per_s : number === nodes.length - 1 ? look.per_s : nodes[number].stage.per_s);
  const fastest = Math.max(1e-9, ...nodes.slice(1).map((_, at) => entering(at + 1)));
  const told = [];
  nodes.forEach((node, number) => {
    const parts = drawn[number];
    if (number === 0) {
      put(parts.first, `${brief(look.pulled)} pulled`);
      put(parts.second, look.ahead.total ? `of ${brief(look.ahead.total)}` : "");
    } else if (node.end) {
      put(parts.first, `${brief(look.delivered)} delivered`);
      put(parts.second, look.dropped ? `${brief(look.dropped)} dropped` : "");
    } else {
      const { stage } = node;
      const busy = Math.min(1, stage.busy / workers);
      put(parts.first, `${brief(stage.processed)} done`);
      put(parts.second, stage.failed ? `✕ ${brief(stage.failed)} failed` : `${Math.round(100 * busy)} % of workers`);
      parts.second.setAttribute("class", stage.failed ? "bad soft" : "soft");
      parts.busy.setAttribute("width", ((parts.width - 20) * busy).toFixed(1));
      told.push(`${node.name}: ${count(stage.queued)} of ${count(stage.buffer)} waiting, ${perSecond(stage.per_s)} a second`);
    }
    for (const part of parts.edges) {
      const rate = entering(number);
      part.line.setAttribute("stroke-width", (1 + (2.5 * rate) / fastest).toFixed(1));
      if (part.rate) put(part.rate, `${perSecond(rate)}/s`);
      if (part.fill) {
        const share = node.stage.buffer ? Math.min(1, node.stage.queued / node.stage.buffer) : 0;
        part.fill.setAttribute("width", (BAR * share).toFixed(1));
        part.fill.setAttribute("class", share >= 0.95 ? "full" : "fill");
        put(part.text, `${brief(node.stage.queued)}/${brief(node.stage.buffer)}${share >= 0.95 ? " full" : ""}`);
      }
    }
  });
  svg.setAttribute("aria-label", `Pipeline from the source through ${nodes.length - 2} stages to the output. ${told.join(". ")}.`);
}
