// Lines, bars, calibration and heat, drawn as SVG at the width that there is.
import { el, svg } from "./dom.js";
import { short, full, moment, clock, minute, day } from "./numbers.js";

const HEIGHT = 220;
const EDGE = { top: 10, right: 12, bottom: 24, left: 46 };
const DASHES = ["", "", "", "2 3", "6 3", ""];

const column = (answer, name) => { const i = answer.columns.indexOf(name); return answer.rows.map((row) => row[i]); };
const isTime = (values) => typeof values.find((v) => v !== null) === "string";
const numbers = (values) => isTime(values) ? values.map(moment) : values;

// 1, 2 or 5 times a power of ten, so that people can count along.
export function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(Number((i * step).toPrecision(12)));
  return found;
}

const STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 1209600, 2592000];
export function timeTicks(low, high, count) {
  const rough = (high - low) / 1000 / Math.max(1, count);
  const step = 1000 * (STEPS_S.find((s) => s >= rough) ?? STEPS_S.at(-1));
  const found = [];
  for (let t = Math.ceil(low / step) * step; t <= high; t += step) found.push(t);
  const date = (t) => day(t).slice(5);
  const label = step >= 86400e3 ? date : step >= 60e3 ? (t) => (t % 86400e3 ? clock(t).slice(0, 5) : date(t)) : clock;
  return { found, label };
}

function frame(plot, xs, ys, drawn, title) {
  const width = Math.max(260, plot.clientWidth);
  const log = drawn.log && ys.some((y) => y > 0);
  let low = drawn.low ?? Math.min(...ys), high = drawn.high ?? Math.max(...ys);
  if (drawn.zero) low = Math.min(0, low);
  if (log) { const some = ys.filter((y) => y > 0); low = Math.min(...some); high = Math.max(...some); low = 10 ** Math.floor(Math.log10(low)); high = 10 ** Math.ceil(Math.log10(high) + 1e-9); }
  if (high === low) { high += Math.abs(high) * 0.1 || 1; low -= drawn.zero ? 0 : Math.abs(low) * 0.1 || 1; }
  const yTicks = log ? decades(low, high) : ticks(low, high, 4);
  if (!log && drawn.high === undefined && yTicks.length > 1) {
    const step = yTicks[1] - yTicks[0]; // up to a whole tick, so that no line leaves the grid
    if (high > yTicks.at(-1) + step * 0.02) yTicks.push(Number((yTicks.at(-1) + step).toPrecision(12)));
    if (low < yTicks[0] - step * 0.02) yTicks.unshift(Number((yTicks[0] - step).toPrecision(12)));
    high = Math.max(high, yTicks.at(-1));
    low = Math.min(low, yTicks[0]);
  }
  const unit = drawn.unit ?? "";
  const tickText = (v) => drawn.unit === "%" ? `${Number((100 * v).toFixed(1))} %` : `${short(v)}${unit}`;
  const left = Math.max(30, 12 + 6.6 * Math.max(...yTicks.map((t) => tickText(t).length)));
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  const inner = width - left - EDGE.right, tall = HEIGHT - EDGE.top - EDGE.bottom;
  const scale = log ? (v) => Math.log10(Math.max(v, low)) : (v) => v;
  const x = (v) => left + (x1 === x0 ? inner / 2 : (inner * (v - x0)) / (x1 - x0));
  const y = (v) => EDGE.top + tall * (1 - (scale(v) - scale(low)) / (scale(high) - scale(low)));
  const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": title });
  for (const t of yTicks) picture.append(
    svg("line", { x1: left, x2: width - EDGE.right, y1: y(t), y2: y(t), class: t === 0 ? "base" : "grid" }),
    svg("text", { x: left - 8, y: y(t) + 4, class: "axis", "text-anchor": "end" }, tickText(t)));
  return { picture, x, y, width, left, inner, tall, x0, x1, unit };
}

function decades(low, high) {
  const found = [];
  for (let t = low; t <= high * 1.001; t *= 10) found.push(Number(t.toPrecision(6)));
  return found.length > 2 ? found : found.flatMap((t, i) => i < found.length - 1 ? [t, 2 * t, 5 * t] : [t]);
}

function xAxis(made, time, drawn) {
  const count = Math.max(2, Math.floor(made.inner / 90));
  const { found, label } = time ? timeTicks(made.x0, made.x1, count) : { found: ticks(made.x0, made.x1, count), label: short };
  for (const t of found) {
    const at = made.x(t), right = made.width - EDGE.right;
    made.picture.append(svg("text", { x: Math.min(at, right), y: HEIGHT - 6, class: "axis", "text-anchor": at > right - 20 ? "end" : "middle" }, label(t)));
  }
  if (drawn.xTitle) made.picture.append(svg("text", { x: made.left - 8, y: HEIGHT - 6, class: "axis", "text-anchor": "end" }, drawn.xTitle));
}

function path(points) {
  let text = "", pen = false;
  for (const [px, py] of points) {
    if (py === null) { pen = false; continue; }
    text += `${pen ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`;
    pen = true;
  }
  return text;
}

// Wide ("one column per series") as it is; long ("one row per series and x") is spread by `by`.
function seriesOf(answer, drawn) {
  if (!drawn.by) {
    const xs = numbers(column(answer, drawn.x));
    return { time: isTime(column(answer, drawn.x)), all: Object.entries(drawn.series).map(([name, label], i) => ({ label, i, points: column(answer, name).map((v, k) => [xs[k], v]) })) };
  }
  const xs = numbers(column(answer, drawn.x)), names = column(answer, drawn.by), values = column(answer, drawn.y);
  const groups = new Map(Object.keys(drawn.series ?? {}).map((name) => [name, []]));
  names.forEach((name, k) => { if (!groups.has(name)) { if (drawn.series) return; groups.set(name, []); } groups.get(name).push([xs[k], values[k]]); });
  return { time: isTime(column(answer, drawn.x)), all: [...groups].map(([name, points], i) => ({ label: drawn.series?.[name] ?? name, i, points })).filter((one) => one.points.some(([, v]) => v !== null)) };
}

// A chart of several measures has a list to choose from; the choice outlives the next answer.
export function line(plot, answer, drawn, title) {
  if (drawn.choose && !plot.dataset.chosen) [plot.dataset.chosen] = Object.keys(drawn.choose);
  if (!drawn.choose) { curve(plot, answer, drawn, title); return; }
  if (!plot.querySelector(".chooser")) {
    const chooser = el("select", { class: "chooser", "aria-label": "Measure", onchange: (event) => { plot.dataset.chosen = event.target.value; curve(area(), plot.answer, measured(), title); } },
      Object.entries(drawn.choose).map(([name, label]) => el("option", { value: name, selected: name === plot.dataset.chosen }, label)));
    plot.replaceChildren(chooser, el("div", { class: "plot inner" }));
  }
  const area = () => plot.querySelector(".inner");
  const measured = () => ({ ...drawn, y: plot.dataset.chosen, unit: drawn.units?.[plot.dataset.chosen] ?? "" });
  plot.answer = answer;
  curve(area(), answer, measured(), title);
}

const DURATIONS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

// Seconds, in the unit in which the longest of them is a number that people say.
function inUnits(all, drawn) {
  const longest = Math.max(0, ...all.flatMap((one) => one.points.map(([, v]) => v ?? 0)));
  const [unit, size] = DURATIONS.find(([, seconds]) => longest >= 2 * seconds) ?? DURATIONS.at(-1);
  for (const one of all) one.points = one.points.map(([x, v]) => [x, v === null ? null : v / size]);
  return { ...drawn, unit: ` ${unit}` };
}

function curve(plot, answer, declared, title) {
  const { all, time } = seriesOf(answer, declared);
  const drawn = declared.unit === "duration" ? inUnits(all, declared) : declared;
  const flat = all.flatMap((one) => one.points).filter(([, v]) => v !== null && v !== undefined);
  if (!flat.length) { plot.replaceChildren(el("div", { class: "message" }, el("strong", {}, "Nothing to show yet"), plot.closest("section")?.dataset.empty ?? "")); return; }
  const made = frame(plot, flat.map((p) => p[0]), flat.map((p) => p[1]), drawn, described(title, all, drawn));
  xAxis(made, time, drawn);
  for (const one of all.toReversed()) {
    const at = one.points.map(([px, v]) => [made.x(px), v === null ? null : made.y(v)]);
    const colour = `var(--s${one.i % 6})`;
    const there = at.filter(([, py]) => py !== null);
    if (drawn.area && one.i === 0 && there.length > 1) made.picture.append(svg("path", { d: `${path(there)}L${there.at(-1)[0]} ${made.y(0)}L${there[0][0]} ${made.y(0)}Z`, fill: colour, opacity: 0.12 }));
    made.picture.append(svg("path", { d: path(at), fill: "none", stroke: colour, "stroke-width": one.i === 0 ? 2.2 : 1.6, "stroke-dasharray": DASHES[one.i % 6], "stroke-linejoin": "round" }));
    if (one.points.length < 3 || drawn.dots) for (const [px, py] of at) if (py !== null) made.picture.append(svg("circle", { cx: px, cy: py, r: 3, fill: colour }));
  }
  plot.replaceChildren(...(all.length > 1 ? [legend(all)] : []), made.picture);
  hover(plot, made, all, time, drawn);
}

function described(title, all, drawn) {
  const last = all.map((one) => { const p = one.points.findLast(([, v]) => v !== null); return p ? `${one.label} ${value(p[1], drawn)}` : ""; }).filter(Boolean);
  return `${title}. Last: ${last.join(", ")}`;
}

const value = (v, drawn) => drawn.unit === "%" ? `${(100 * v).toFixed(1)} %` : `${full(v)}${drawn.unit ?? ""}`;

function legend(all) {
  return el("ul", { class: "legend" }, all.map((one) => el("li", {}, svg("svg", { viewBox: "0 0 18 8", "aria-hidden": "true" },
    svg("line", { x1: 0, x2: 18, y1: 4, y2: 4, stroke: `var(--s${one.i % 6})`, "stroke-width": 2.4, "stroke-dasharray": DASHES[one.i % 6] })), one.label)));
}

function hover(plot, made, all, time, drawn) {
  const xs = [...new Set(all.flatMap((one) => one.points.map((p) => p[0])))].sort((a, b) => a - b);
  const tip = el("div", { class: "tip", hidden: true });
  const mark = svg("line", { y1: EDGE.top, y2: EDGE.top + made.tall, class: "mark", visibility: "hidden" });
  made.picture.append(mark);
  plot.append(tip);
  made.picture.addEventListener("pointermove", (event) => {
    const box = made.picture.getBoundingClientRect();
    const px = ((event.clientX - box.left) / box.width) * made.width;
    const at = xs.reduce((best, x) => Math.abs(made.x(x) - px) < Math.abs(made.x(best) - px) ? x : best, xs[0]);
    mark.setAttribute("x1", made.x(at)); mark.setAttribute("x2", made.x(at)); mark.setAttribute("visibility", "visible");
    const lines = all.map((one) => { const p = one.points.find(([x]) => x === at); return p && p[1] !== null ? el("div", {}, `${one.label}: ${value(p[1], drawn)}`) : null; });
    tip.replaceChildren(el("b", {}, time ? (made.x1 - made.x0 > 864e5 ? minute(at) : clock(at)) : `${drawn.xTitle ?? ""} ${full(at)}`), ...lines.filter(Boolean));
    tip.hidden = false;
    const room = plot.clientWidth - tip.offsetWidth - 4;
    tip.style.setProperty("left", `${Math.min(room, Math.max(0, made.x(at) + 10 > room ? made.x(at) - tip.offsetWidth - 10 : made.x(at) + 10))}px`);
    tip.style.setProperty("top", `${made.picture.offsetTop ?? 0}px`);
  });
  made.picture.addEventListener("pointerleave", () => { tip.hidden = true; mark.setAttribute("visibility", "hidden"); });
}

export function bars(plot, answer, drawn, title) {
  const labels = column(answer, drawn.x), values = column(answer, drawn.y).map((v) => v ?? 0);
  const made = frame(plot, [0, labels.length], [0, ...values], { ...drawn, zero: true }, `${title}. ${labels.length} bars, largest ${value(Math.max(...values), drawn)}`);
  const step = made.inner / labels.length;
  values.forEach((v, i) => {
    const x = made.left + i * step;
    made.picture.append(svg("rect", { x: x + Math.min(2, step * 0.1), y: made.y(v), width: Math.max(1, step - Math.min(4, step * 0.2)), height: Math.max(0, made.y(0) - made.y(v)), rx: Math.min(3, step / 6), fill: "var(--s0)", opacity: 0.85 },
      svg("title", {}, `${full(labels[i])}: ${value(v, drawn)}`)));
    const every = Math.ceil(44 / step);
    if (i % every === 0) made.picture.append(svg("text", { x: x + (drawn.edges ? 0 : step / 2), y: HEIGHT - 6, class: "axis", "text-anchor": "middle" }, typeof labels[i] === "number" ? short(labels[i]) : clipped(labels[i], step * every)));
  });
  if (drawn.xTitle) made.picture.append(svg("text", { x: made.width - EDGE.right, y: HEIGHT - 6, class: "axis", "text-anchor": "end" }, drawn.xTitle));
  plot.replaceChildren(made.picture);
}

// A word under its bar, as much of it as there is room for.
function clipped(word, room) {
  const text = String(word ?? "\u2013"), letters = Math.max(2, Math.floor(room / 6.6));
  return text.length > letters ? `${text.slice(0, letters - 1)}\u2026` : text;
}

// What was said against what came true; on the diagonal it is the same.
export function reliability(plot, answer, drawn, title) {
  const said = column(answer, "said"), came = column(answer, "came_true"), rows = column(answer, "labels");
  const made = frame(plot, [0, 1], [0, 1], { ...drawn, low: 0, high: 1, unit: "%" }, `${title}. ${said.map((s, i) => `said ${(100 * s).toFixed(0)} %, came true ${(100 * came[i]).toFixed(0)} %`).join("; ")}`);
  for (const t of [0, 0.2, 0.4, 0.6, 0.8, 1]) made.picture.append(svg("text", { x: made.x(t), y: HEIGHT - 6, class: "axis", "text-anchor": "middle" }, `${100 * t} %`));
  made.picture.append(svg("line", { x1: made.x(0), y1: made.y(0), x2: made.x(1), y2: made.y(1), class: "mark" }));
  const most = Math.max(...rows);
  made.picture.append(svg("path", { d: path(said.map((s, i) => [made.x(s), made.y(came[i])])), fill: "none", stroke: "var(--s0)", "stroke-width": 2 }));
  said.forEach((s, i) => made.picture.append(svg("circle", { cx: made.x(s), cy: made.y(came[i]), r: 3 + 6 * Math.sqrt(rows[i] / most), fill: "var(--s0)", "fill-opacity": 0.35, stroke: "var(--s0)" },
    svg("title", {}, `said ${(100 * s).toFixed(1)} %, came true ${(100 * came[i]).toFixed(1)} %, ${full(rows[i])} labels`))));
  plot.replaceChildren(made.picture);
}

// One line of cells per name; darker is more.
export function heat(plot, answer, drawn, title) {
  const names = column(answer, drawn.by), xs = numbers(column(answer, drawn.x)), values = column(answer, drawn.y);
  const lines = [...new Set(names)], at = [...new Set(xs)].sort((a, b) => a - b);
  const width = Math.max(260, plot.clientWidth), left = Math.min(170, 14 + 7 * Math.max(...lines.map((l) => l.length))), row = 22;
  const cell = (width - left - 8) / at.length, limit = drawn.limit;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${lines.length * row + 26}`, height: lines.length * row + 26, role: "img", "aria-label": `${title}. ${lines.map((l) => `${l} at most ${full(Math.max(...values.filter((_, i) => names[i] === l)))}`).join("; ")}` });
  lines.forEach((l, i) => picture.append(svg("text", { x: left - 10, y: i * row + 15, class: "axis", "text-anchor": "end" }, l)));
  names.forEach((name, i) => {
    const share = Math.min(1, values[i] / limit);
    const over = values[i] > limit;
    picture.append(svg("rect", { x: left + at.indexOf(xs[i]) * cell, y: lines.indexOf(name) * row + 2, width: Math.max(1, cell - (cell > 6 ? 1.5 : 0)), height: row - 4, rx: 2, fill: over ? "var(--s1)" : "var(--s0)", opacity: over ? 0.95 : 0.08 + 0.72 * share },
      svg("title", {}, `${name}, ${minute(xs[i])}: ${full(values[i])}${over ? ", changed" : ""}`)));
  });
  const { found, label } = timeTicks(at[0], at.at(-1) + 1, Math.max(2, Math.floor((width - left) / 90)));
  for (const t of found) { const k = at.findIndex((a) => a >= t); if (k >= 0) picture.append(svg("text", { x: left + k * cell, y: lines.length * row + 18, class: "axis", "text-anchor": "middle" }, label(t))); }
  plot.replaceChildren(picture);
}
