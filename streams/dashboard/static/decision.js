// One prediction, from the question to the truth.
import { el, get, how, message } from "./dom.js";
import { why } from "./why.js";
import { duration, full, minute, moment, clock, percent } from "./numbers.js";

const box = document.getElementById("decision");
const id = new URLSearchParams(location.search).get("id");

if (id) {
  document.getElementById("event-id").value = id;
  box.replaceChildren(message("empty", "asking …"));
  get("/api/decision", `&id=${encodeURIComponent(id)}`).then(show).catch((error) => box.replaceChildren(message("error", "This could not be asked", error.message)));
}

function show(found) {
  const [made] = found.prediction.rows;
  if (!made) {
    box.replaceChildren(message("empty", `No prediction of ${id}`, "It is not in the store: not sent yet, on its way, or a dead letter (see Health)."), how(found.prediction.sql, found.prediction.command));
    return;
  }
  const last = found.history.rows.at(-1);
  const reasons = section("Why", el("div", { class: "plot", "aria-busy": "true" }));
  reasons.classList.add("wide");
  box.replaceChildren(el("div", { class: "figures" }, answer(found, made, last), features(found, made), reasons, way(made, last), history(found)));
  explain(reasons.querySelector(".plot"), found);
}

// The version that answered is loaded for it: that takes seconds, and the rest does not wait.
function explain(plot, found) {
  plot.replaceChildren(message("empty", "Asking the version that answered …", "It is loaded from the registry for this, which takes some seconds."));
  get("/api/explain", `&id=${encodeURIComponent(id)}`)
    .then((told) => {
      why(plot, told, found);
      addEventListener("resize", () => why(plot, told, found));
      plot.after(how("", told.command));
    })
    .catch((error) => plot.replaceChildren(message("down", "This cannot be explained", error.message)))
    .finally(() => plot.removeAttribute("aria-busy"));
}

function section(title, ...content) {
  const name = `part-${title.toLowerCase().replaceAll(" ", "-")}`;
  return el("section", { class: "figure", "aria-labelledby": name }, el("h2", { id: name }, title), ...content);
}

function answer(found, made, last) {
  const binary = found.kind === "binary";
  const truth = last?.[found.target] ?? null;
  const right = binary && truth !== null ? (made.score > 0.5) === (truth > 0.5) : null;
  return section(`${found.target.replaceAll("_", " ")}?`,
    el("dl", { class: "tiles" },
      pair("answered", binary ? percent(made.score) : full(made.score)),
      pair("truth", truth === null ? (last ? "never came" : "not known yet") : binary ? (truth > 0.5 ? "yes" : "no") : full(truth)),
      right === null ? null : el("div", {}, el("dt", {}, "so it was"), el("dd", {}, el("span", { class: `tag ${right ? "good" : "bad"}` }, right ? "right" : "wrong")))),
    rows([["event", made.event_id], [found.key.replaceAll("_", " "), made[found.key] ?? made[`feature_${found.key}`]], ["version", made.model_version],
      ["age of the version", duration(made.model_age_ms / 1000)], ["place in Kafka", `partition ${made.source_partition}, offset ${full(made.source_offset)}`]]),
    how(found.prediction.sql, found.prediction.command));
}

const pair = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));

function rows(pairs) {
  return el("div", { class: "scroll" }, el("table", { class: "pairs" }, el("tbody", {}, pairs.map(([name, value]) =>
    el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value === null || value === undefined ? "–" : String(value)))))));
}

function features(found, made) {
  return section("What the model saw", rows(found.features.map((name) => {
    const value = made[name] ?? made[`feature_${name}`];
    return [name.replaceAll("_", " "), typeof value === "number" ? full(value) : value];
  })));
}

function way(made, last) {
  const at = (text) => moment(text);
  const line = [["in Kafka", at(made.produced_at)], ["answered", at(made.predicted_at)], ["in SQL", at(made.landed_at)]];
  if (last?.known_at) line.push([last.kind === "expired" ? "given up" : "truth known", at(last.known_at)]);
  line.sort(([, one], [, other]) => one - other); // the truth may be known before the row is landed
  let before = null;
  return section("Its way", el("ol", { class: "way" }, line.map(([what, ms]) => {
    const gap = before === null ? `event of ${minute(at(made.event_time))}` : ms - before < 10000 ? `${ms - before} ms later` : `${duration((ms - before) / 1000)} later`;
    before = ms;
    return el("li", {}, el("strong", {}, what), ` ${clock(ms)}.${String(ms % 1000).padStart(3, "0")}`, el("span", { class: "about" }, ` ${gap}`));
  })));
}

function history(found) {
  const steps = found.history.rows;
  const body = steps.map((step) => el("tr", {}, el("td", {}, minute(moment(step.known_at))), el("td", {}, el("span", { class: `tag ${step.kind === "corrected" ? "warn" : step.kind === "expired" ? "bad" : "good"}` }, step.kind)),
    el("td", { class: "num" }, step[found.target] === null ? "–" : full(step[found.target])), el("td", { class: "num" }, step.previous === null ? "–" : full(step.previous)),
    el("td", { class: "num" }, step.delay_ms === null ? "–" : duration(step.delay_ms / 1000))));
  return section("What became of it", steps.length
    ? el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Steps" }, el("table", {}, el("thead", {}, el("tr", {}, ["known at (UTC)", "step", found.target, "before", "after the event"].map((t, i) => el("th", { scope: "col", class: i > 1 ? "num" : null }, t)))), el("tbody", {}, body)))
    : message("empty", "No truth yet", "It waits for its label."),
    how(found.history.sql, found.history.command));
}
