// One stream of answers per page; each goes to the figure it belongs to.
import { el, message, own, page } from "./dom.js";
import { clock } from "./numbers.js";
import { line, bars, reliability, heat } from "./plot.js";
import { flow } from "./flow.js";
import { table, tiles } from "./table.js";
import { rollout, versions } from "./models.js";

const DRAW = { line, bars, reliability, heat, flow, table, tiles, rollout, versions };
const SCRIPTS = { decision: "./decision.js", sql: "./sql.js", health: "./health.js" };
const pulse = document.getElementById("pulse");
const answers = new Map();

function draw(name) {
  const section = document.getElementById(`figure-${name}`);
  const answer = answers.get(name);
  if (!section || !answer) return;
  const plot = section.querySelector(".plot");
  plot.removeAttribute("aria-busy");
  if (answer.state !== "ok" || (answer.rows && !answer.rows.length)) delete plot.dataset.key;
  const drawn = JSON.parse(section.dataset.drawn);
  if (answer.state === "ok" && answer.rows && !answer.rows.length) {
    plot.replaceChildren(message("empty", "Nothing to show yet", section.dataset.empty));
  } else if (answer.state === "ok") {
    const make = DRAW[section.dataset.kind];
    if (!make) return;
    const keep = plot.contains(document.activeElement) ? document.activeElement.id : "";
    make(plot, answer, drawn, section.querySelector("h2").textContent);
    if (keep) document.getElementById(keep)?.focus();
  } else if (answer.state === "down") {
    const what = answer.what === "store" ? "The store does not answer" : "Kafka does not answer";
    plot.replaceChildren(message("down", `${what}; asked again every 2 s`, answer.message));
  } else {
    plot.replaceChildren(message("error", "This question failed", answer.message));
  }
}

const redraw = () => { for (const name of answers.keys()) draw(name); };

function notices() {
  const box = document.getElementById("notices");
  const down = new Set([...answers.values()].filter((a) => a.state === "down").map((a) => a.what));
  const wanted = [...down].sort().join();
  if (box.dataset.shown === wanted) return;
  box.dataset.shown = wanted;
  box.replaceChildren(...[...down].map((what) => el("div", { class: "notice" },
    el("b", {}, what === "store" ? "The store is down" : "Kafka is down"),
    what === "store"
      ? "Predictions go on: landers keep their rows until it is back. This page asks again by itself."
      : "Workers wait for it. This page asks again by itself.")));
}

// A tab in the background asks nothing. Besides, a browser gives one address six connections only.
let source = null;

function follow() {
  if (source || document.hidden) return;
  source = new EventSource(own(`/live/${page}`));
  source.onmessage = (event) => {
    const news = JSON.parse(event.data);
    let latest = 0;
    for (const [name, answer] of Object.entries(news)) {
      answers.set(name, answer);
      draw(name);
      latest = Math.max(latest, answer.at_ms);
    }
    notices();
    say("live", `live, ${clock(latest)} UTC`);
  };
  source.onerror = () => {
    say("lost", "the dashboard does not answer; trying again");
    if (source?.readyState !== EventSource.CLOSED) return;
    source = null;
    setTimeout(follow, 2000);
  };
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) { follow(); return; }
  source?.close();
  source = null;
  say("paused", "paused while nobody looks");
});

// Said to screen readers only when it changes in kind, not every second.
function say(state, text) {
  pulse.setAttribute("aria-live", pulse.dataset.state === state ? "off" : "polite");
  pulse.dataset.state = state;
  pulse.textContent = text;
}

document.addEventListener("click", async (event) => {
  if (!event.target.matches("button.copy")) return;
  const code = event.target.parentElement.previousElementSibling.textContent;
  await navigator.clipboard.writeText(code);
  const before = event.target.textContent;
  event.target.textContent = "Copied";
  setTimeout(() => { event.target.textContent = before; }, 1500);
});
document.getElementById("choose")?.addEventListener("change", (event) => event.target.form.submit());

// On a phone the links are one line that scrolls: the present one must be in sight.
document.querySelector("nav a[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
if (SCRIPTS[page]) import(SCRIPTS[page]);
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });
addEventListener("themed", redraw);
if (document.querySelector(".figure")) follow();
else pulse.remove();
