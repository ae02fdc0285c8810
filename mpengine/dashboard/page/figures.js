// Numbers as people read them.

const exact = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const rate = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (number) => exact.format(number);

export const brief = (number) => (number < 100_000 ? exact.format(number) : short.format(number));

export const perSecond = (number) => (number < 10_000 ? rate.format(number) : short.format(number));

export const percent = (share) => `${Math.round(100 * share)} %`;

export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const two = (number) => String(number).padStart(2, "0");
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}:${two(whole % 60)}`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)}`;
}

// Text is all that ever gets into an element: what a stage is called, and what an error says, is never markup.
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function make(name, attributes = {}, text = null) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
}

export function draw(name, attributes = {}, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
}

export const clipped = (text, length) => (text.length <= length ? text : `${text.slice(0, length - 1)}…`);

// Fills a table's body, keeping the cells that are there.
export function fillTable(body, rows) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((row, number) => {
    let line = body.rows[number];
    if (!line) {
      line = body.insertRow();
      row.forEach((cell, column) => line.append(make(column ? "td" : "th", column ? {} : { scope: "row" })));
    }
    row.forEach((cell, column) => put(line.cells[column], cell));
  });
}
