// Rows as a table, one row as tiles.
import { el } from "./dom.js";
import { bytes, clock, duration, full, minute, moment, whole } from "./numbers.js";

export function tiles(plot, answer, drawn) {
  const parts = answer.columns.map((name, i) => {
    const value = answer.rows[0][i];
    const unit = drawn.units?.[name] ?? "";
    const number = typeof value === "number";
    const bad = drawn.bad?.includes(name) && value > 0;
    const text = value === null || value === "" ? "–" : number ? show(value, unit) : String(value);
    return el("div", {}, el("dt", {}, name),
      el("dd", { class: bad ? "bad" : number || value === null ? null : "text" }, text,
        unit && value !== null ? el("span", { class: "unit" }, unit === "%" ? " %" : ` ${unit}`) : ""));
  });
  keep(plot, "dl", () => el("dl", { class: "tiles" }, parts));
}

function show(value, unit) {
  if (unit === "%") return (100 * value).toFixed(1);
  return Number.isInteger(value) ? whole(value) : full(value);
}

export function table(plot, answer, drawn, title) {
  const columns = answer.columns.map((name, i) => ({ name, i, numeric: answer.rows.every((row) => row[i] === null || typeof row[i] === "number") }))
    .filter((column) => !drawn.hide?.includes(column.name));
  const right = (column) => column.numeric || ["clock", "percent", "score", "duration", "bytes"].includes(drawn.styles?.[column.name]);
  const head = el("tr", {}, columns.map((column) => el("th", { scope: "col", class: right(column) && drawn.styles?.[column.name] !== "progress" ? "num" : null }, drawn.titles?.[column.name] ?? column.name)));
  const body = answer.rows.map((row) => el("tr", {}, columns.map((column) => cell(column, row[column.i], drawn))));
  keep(plot, ".scroll", () => el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title, id: `scroll-${plot.closest("section")?.id ?? "x"}` },
    el("table", {}, el("thead", {}, head), el("tbody", {}, body))));
}

// Where a person has scrolled to stays.
function keep(plot, selector, make) {
  const left = plot.querySelector(selector)?.scrollLeft ?? 0;
  plot.replaceChildren(make());
  const now = plot.querySelector(selector);
  if (now && left) now.scrollLeft = left;
}

function cell(column, value, drawn) {
  if (value === null || value === "") return el("td", { class: column.numeric ? "num none" : "none" }, "–");
  const style = drawn.styles?.[column.name];
  if (style === "decision") return el("td", {}, el("a", { class: "code", href: `/decision?pipeline=${encodeURIComponent(document.body.dataset.pipeline)}&id=${encodeURIComponent(value)}` }, value));
  if (style === "code") return el("td", { class: "code" }, String(value));
  if (style === "percent") return el("td", { class: "num" }, `${(100 * value).toFixed(1)} %`);
  if (style === "score") return el("td", { class: "num" }, value.toFixed(4));
  if (style === "clock") return el("td", { class: "num" }, clock(moment(value)));
  if (style === "duration") return el("td", { class: "num" }, duration(value));
  if (style === "bytes") return el("td", { class: "num" }, bytes(value));
  if (style === "minute") return el("td", { class: "time" }, minute(moment(value)));
  if (style === "tag") return el("td", {}, el("span", { class: `tag ${drawn.tags?.[value] ?? ""}` }, String(value)));
  if (style === "progress") return el("td", {}, el("progress", { value, max: 1, "aria-label": `${Math.round(100 * value)} %` }));
  if (column.numeric) return el("td", { class: "num" }, full(value));
  return el("td", { class: "clip" }, typeof value === "object" ? JSON.stringify(value) : String(value));
}
