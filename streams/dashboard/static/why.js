// What each feature added to one answer: bars with signs, from a baseline to the answer.
import { el, message, svg } from "./dom.js";
import { full, percent } from "./numbers.js";

const SHOWN_MAX = 10;
const ROW = 30, THICK = 16, SIGNED = 58;
const OFF_MAX = 0.005; // between the score that was published and that of the explained model

const signed = (x) => `${x < 0 ? "\u2212" : "+"}${Math.abs(x).toFixed(Math.abs(x) < 0.01 && x ? 4 : 2)}`;

export function why(plot, told, found) {
  const binary = told.unit === "log-odds";
  const score = (x) => (binary ? percent(x) : full(x));
  const target = found.target.replaceAll("_", " ");
  const lines = linesOf(told);
  const moved = told.contributions.some((one) => one.adds);
  plot.replaceChildren(
    el("p", {}, `The baseline gets ${score(told.base_score)}; with these values it became ${score(told.score_again)}.`),
    ...warnings(told, score),
    ...(moved ? [legend(binary, target), picture(plot, lines, told, target, score)] : [message("empty", "No feature had a share", `${told.version} ${told.method}.`)]),
    el("p", { class: "about" }, `Baseline: ${told.baseline}. Found by ${told.method}, ${binary ? "in log-odds: +0.69 doubles the odds" : `in the unit of ${target}`}. It says what the model did with these values, not what causes what.`),
    all(told, binary));
}

function linesOf(told) {
  const lines = told.contributions.slice(0, SHOWN_MAX).map((one) => ({ name: one.feature.replaceAll("_", " "), value: typeof one.value === "number" ? full(one.value) : one.value, adds: one.adds }));
  const rest = told.contributions.slice(SHOWN_MAX);
  if (rest.length) lines.push({ name: `${rest.length} others`, value: "", adds: rest.reduce((sum, one) => sum + one.adds, 0) });
  return lines;
}

function warnings(told, score) {
  const found = [];
  if (told.learner && !told.learner.exact) found.push(`The online learner answered at position ${full(told.learner.position_then)}; that state is no longer kept. This is the one at ${full(told.learner.position)}.`);
  if (Math.abs(told.score - told.score_again) > OFF_MAX) found.push(`The published score is ${score(told.score)}, the explained model says ${score(told.score_again)}: read the bars with care.`);
  return found.map((text) => message("down", "Not exactly what answered", text));
}

function legend(binary, target) {
  const mark = (colour) => svg("svg", { viewBox: "0 0 18 8", "aria-hidden": "true" }, svg("rect", { width: 18, height: 8, rx: 2, fill: colour }));
  return el("ul", { class: "legend" }, el("li", {}, mark("var(--s0)"), binary ? `towards ${target}` : `more ${target}`), el("li", {}, mark("var(--s1)"), binary ? `away from ${target}` : `less ${target}`));
}

function picture(plot, lines, told, target, score) {
  const width = Math.max(260, plot.clientWidth), narrow = width < 560;
  const row = narrow ? 46 : ROW, names = narrow ? 0 : Math.min(320, width * 0.36);
  const low = Math.min(0, ...lines.map((one) => one.adds)), high = Math.max(0, ...lines.map((one) => one.adds));
  // Room for the number beside the longest bar of each side that has one.
  const left = names + (low < 0 ? SIGNED : 12), right = width - (high > 0 ? SIGNED : 12);
  const x = (v) => left + ((right - left) * (v - low)) / (high - low || 1);
  const height = lines.length * row + 6;
  const said = lines.slice(0, 5).map((one) => `${one.name} ${one.value} ${signed(one.adds)}`).join(", ");
  const made = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", class: "why", "aria-label": `Why ${target}: from ${score(told.base_score)} to ${score(told.score_again)}. ${said}` });
  made.append(svg("line", { x1: x(0), x2: x(0), y1: 0, y2: height, class: "base" }));
  lines.forEach((one, i) => {
    const top = i * row + (narrow ? 22 : 6), from = Math.min(x(0), x(one.adds)), long = Math.max(1, Math.abs(x(one.adds) - x(0)));
    const up = one.adds >= 0;
    made.append(
      label(one, names, narrow ? 0 : names - 10, narrow ? i * row + 16 : top + 13, narrow ? Math.floor(width / 7.4) : Math.floor(names / 7.4)),
      svg("rect", { x: from, y: top, width: long, height: THICK, rx: 3, fill: up ? "var(--s0)" : "var(--s1)", opacity: 0.9 }),
      svg("text", { x: up ? x(one.adds) + 6 : x(one.adds) - 6, y: top + 13, class: "sign", "text-anchor": up ? "start" : "end" }, signed(one.adds)));
  });
  return made;
}

function label(one, names, x, y, letters) {
  const text = one.value === "" ? one.name : `${one.name} = ${one.value}`;
  const short = text.length > letters ? `${text.slice(0, letters - 1)}\u2026` : text;
  return svg("text", { x, y, class: "named", "text-anchor": names ? "end" : "start" }, short, svg("title", {}, text));
}

function all(told, binary) {
  const cells = told.contributions.map((one) => el("tr", {}, el("th", { scope: "row" }, one.feature.replaceAll("_", " ")), el("td", {}, typeof one.value === "number" ? full(one.value) : one.value), el("td", { class: "num" }, signed(one.adds))));
  const sums = [["baseline", told.base], ["remainder", told.remainder], ["answer", told.answer]].map(([name, v]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}), el("td", { class: "num" }, signed(v))));
  return el("details", { class: "how" }, el("summary", {}, "The same as a table"), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Contributions" }, el("table", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "feature"), el("th", { scope: "col" }, "value"), el("th", { scope: "col", class: "num" }, binary ? "adds (log-odds)" : "adds"))),
    el("tbody", {}, sums[0], ...cells, sums[1], sums[2]))));
}
