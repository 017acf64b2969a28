// The way of an event as a picture. Two layouts, one drawing.
import { el, svg } from "./dom.js";
import { short, whole, duration } from "./numbers.js";

const WIDE = {
  size: [1000, 336], box: [156, 72],
  at: { events: [90, 56], score: [350, 56], out: [910, 56], labels: [90, 184], join: [520, 168], learn: [760, 168], land: [520, 284], store: [910, 284] },
};
const NARROW = {
  size: [358, 590], box: [150, 70],
  at: { events: [77, 42], score: [77, 158], out: [280, 158], labels: [280, 254], join: [77, 300], learn: [280, 346], land: [77, 424], store: [77, 540] },
};
const NAMES = { score: "Score", join: "Join", learn: "Learn", land: "Land" };
const DOES = { score: "predictions", join: "examples", learn: "learned", land: "rows" };

// From a side of one box to a side of another: r, l, t, b. Moved along these sides by the numbers.
const WIRES = {
  wide: [["events", "r", "score", "l"], ["score", "r", "out", "l"], ["score", "b", "join", "l", 14, -16], ["labels", "r", "join", "l", 0, 16],
    ["join", "r", "learn", "l"], ["join", "b", "land", "t"], ["score", "b", "land", "l", -14, 0], ["land", "r", "store", "l"]],
  narrow: [["events", "b", "score", "t"], ["score", "r", "out", "l"], ["score", "b", "join", "t"], ["labels", "l", "join", "r"],
    ["join", "r", "learn", "l"], ["join", "b", "land", "t"], ["land", "b", "store", "t", 0, 9]],
};

export function flow(plot, answer) {
  const narrow = plot.clientWidth < 620;
  const { size, box, at } = narrow ? NARROW : WIDE;
  const rates = ratesOf(answer);
  const picture = svg("svg", { viewBox: `0 0 ${size[0]} ${size[1]}`, class: "flow", "aria-hidden": "true" });
  const side = ([x, y], where) => ({
    r: [x + box[0] / 2, y], l: [x - box[0] / 2, y], t: [x, y - box[1] / 2], b: [x, y + box[1] / 2] })[where];
  for (const [from, out, to, into, dx = 0, dy = 0] of narrow ? WIRES.narrow : WIRES.wide) {
    const [x1, y1] = side(at[from], out), [x2, y2] = side(at[to], into);
    wire(picture, [x1 + dx, y1], out, [x2, y2 + dy], into, rates[from]);
  }
  if (!narrow) learned(picture, side(at.learn, "t"), side(at.score, "b"), rates.learn);
  topic(picture, at.events, box, "Events", answer.arriving.events);
  topic(picture, at.labels, box, "Labels", answer.arriving.labels);
  end(picture, at.out, box, "Your consumers", "topic predictions");
  end(picture, at.store, box, "ClickHouse", "SQL, views");
  for (const role of Object.keys(NAMES)) step(picture, at[role], box, role, answer.steps[role]);
  keepMoving(plot, picture);
  plot.replaceChildren(picture, spoken(answer));
}

function ratesOf(answer) {
  const found = { events: answer.arriving.events.per_s, labels: answer.arriving.labels.per_s };
  for (const [role, step] of Object.entries(answer.steps)) found[role] = step.per_s;
  return found;
}

function wire(picture, [x1, y1], out, [x2, y2], into, rate) {
  const flat = out === "r" || out === "l";
  let path;
  if (x1 === x2 || y1 === y2) path = `M${x1} ${y1}L${x2} ${y2}`;
  else if (!flat && (into === "l" || into === "r")) {
    const turn = into === "l" ? 14 : -14;
    path = `M${x1} ${y1}V${y2 - 14}Q${x1} ${y2} ${x1 + turn} ${y2}H${x2}`;
  } else path = `M${x1} ${y1}C${flat ? (x1 + x2) / 2 : x1} ${flat ? y1 : (y1 + y2) / 2} ${flat ? (x1 + x2) / 2 : x2} ${flat ? y2 : (y1 + y2) / 2} ${x2} ${y2}`;
  stroke(picture, path, rate);
}

function learned(picture, [x1, y1], [x2, y2], rate) {
  const y = y1 - 20;
  stroke(picture, `M${x1} ${y1}V${y + 10}Q${x1} ${y} ${x1 - 10} ${y}H${x2 + 50}Q${x2 + 40} ${y} ${x2 + 40} ${y - 10}V${y2}`, rate);
  picture.append(svg("text", { x: x1 - 14, y: y - 7, class: "small", "text-anchor": "end" }, "what was learned helps the next answer"));
}

function stroke(picture, path, rate) {
  picture.append(svg("path", { d: path, class: "wire" }));
  if (!(rate > 0)) return;
  // Faster with the logarithm of the rate: 1/s crawls, 10,000/s runs.
  const seconds = Math.max(0.18, 1.6 / (1 + Math.log10(1 + rate)));
  const dots = svg("path", { d: path, class: "moving" });
  dots.style.setProperty("animation-duration", `${seconds.toFixed(2)}s`);
  picture.append(dots);
}

function card(picture, [x, y], [w, h], kind, name, value, small) {
  picture.append(
    svg("rect", { x: x - w / 2, y: y - h / 2, width: w, height: h, rx: 10, class: kind }),
    svg("text", { x: x - w / 2 + 12, y: y - h / 2 + 22, class: "name" }, name),
    svg("text", { x: x - w / 2 + 12, y: y - h / 2 + 42, class: "value" }, value),
    svg("text", { x: x - w / 2 + 12, y: y - h / 2 + 60, class: "small" }, small));
}

const topic = (picture, at, box, name, coming) =>
  card(picture, at, box, "topic", name, `${short(coming.per_s)} /s`, `${short(coming.total)} in the topic`);

function end(picture, [x, y], [w, h], name, small) {
  picture.append(
    svg("rect", { x: x - w / 2, y: y - h / 2 + 9, width: w, height: h - 18, rx: (h - 18) / 2, class: "node" }),
    svg("text", { x, y: y - 2, class: "name", "text-anchor": "middle" }, name),
    svg("text", { x, y: y + 15, class: "small", "text-anchor": "middle" }, small));
}

function step(picture, at, box, role, told) {
  const running = told.state === "running", passing = ["starting", "stopping"].includes(told.state);
  const kind = passing || (running && waits(told)) ? "behind" : running ? "step" : "broken";
  card(picture, at, box, kind, NAMES[role], running ? `${short(told.per_s)} ${DOES[role]}/s` : passing ? told.state : `! ${told.state}`, waiting(told));
}

// More than two seconds of work, and more than a handful.
const waits = (told) => told.lag > 1000 && told.lag > 2 * told.per_s;

function waiting(told) {
  if (!told.lag) return "nothing waits";
  const gone = waits(told) && told.lag_per_s < -1 ? `, gone in ${duration(told.lag / -told.lag_per_s)}` : "";
  return `${short(told.lag)} waiting${gone}`;
}

// A new picture every second must not make the dots jump: the old animation goes on where it was.
function keepMoving(plot, picture) {
  const before = plot.querySelector("svg.flow");
  const started = before?.dataset.started ?? String(performance.now());
  picture.dataset.started = started;
  const delay = `-${((performance.now() - Number(started)) / 1000).toFixed(2)}s`;
  for (const dots of picture.querySelectorAll(".moving")) dots.style.setProperty("animation-delay", delay);
}

// The same for those who do not look at pictures.
function spoken(answer) {
  const rows = Object.entries(answer.steps).map(([role, told]) => el("tr", {},
    el("th", { scope: "row" }, NAMES[role]), el("td", {}, told.state), el("td", { class: "num" }, `${short(told.per_s)}`),
    el("td", { class: "num" }, whole(told.lag)), el("td", {}, told.detail || "–")));
  return el("details", { class: "how" }, el("summary", {}, "The same as a table"),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Steps" },
      el("table", {}, el("thead", {}, el("tr", {}, ...["step", "state", "records/s", "waiting", "why"].map(
        (title, i) => el("th", { scope: "col", class: i === 2 || i === 3 ? "num" : null }, title)))), el("tbody", {}, rows))));
}
