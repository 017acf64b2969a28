// A person's own question: editor, table or chart, export.
import { el, message, post } from "./dom.js";
import { full, whole } from "./numbers.js";
import { bars, line } from "./plot.js";

const SHOWN_MAX = 1000;
const editor = document.getElementById("sql");
const box = document.getElementById("answer");
const said = document.getElementById("asked");
const run = document.getElementById("run");

const given = new URLSearchParams(location.search).get("q");
if (given) editor.value = given;
for (const button of document.querySelectorAll(".example")) {
  button.addEventListener("click", () => { editor.value = button.dataset.sql; ask(); });
}
editor.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); ask(); }
});
document.getElementById("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });

async function ask() {
  if (run.disabled || !editor.value.trim()) return;
  run.disabled = true;
  box.setAttribute("aria-busy", "true");
  said.textContent = "asking …";
  try {
    show(await post("/api/sql", { sql: editor.value }));
  } catch (error) {
    said.textContent = "";
    box.replaceChildren(message("error", "The store refused the question", error.message));
  } finally {
    run.disabled = false;
    box.removeAttribute("aria-busy");
  }
}

// Integers of 64 bits come as text, so that none is rounded; most are small enough to be numbers.
function values(answer) {
  const whole64 = answer.types.map((type) => /U?Int(64|128|256)/.test(type));
  return answer.rows.map((row) => row.map((value, i) => whole64[i] && typeof value === "string" && Number.isSafeInteger(Number(value)) ? Number(value) : value));
}

function show(answer) {
  answer.rows = values(answer);
  said.textContent = `${whole(answer.rows.length)} rows${answer.cut ? " (there are more: add a LIMIT or ask for less)" : ""}, ${full(answer.took_ms)} ms, ${whole(answer.read_rows)} rows read`;
  const drawn = drawing(answer);
  const area = el("div", { class: "plot" });
  const views = { Table: () => area.replaceChildren(grid(answer)), ...(drawn ? { Chart: () => drawn(area) } : {}) };
  const tabs = Object.entries(views).map(([title, make]) => el("button", { type: "button", class: "quiet", "aria-pressed": "false", onclick: (event) => choose(event.target, make) }, title));
  const choose = (button, make) => { for (const tab of tabs) tab.setAttribute("aria-pressed", String(tab === button)); make(); };
  const command = `tidemill sql '${editor.value.trim().replaceAll("'", "'\\''")}'`;
  box.replaceChildren(
    el("div", { class: "row spaced", role: "group", "aria-label": "Show and export" }, tabs, el("span", { class: "grow" }),
      save("Save CSV", "answer.csv", "text/csv", () => csv(answer)), save("Save JSON", "answer.json", "application/json", () => json(answer))),
    area,
    el("details", { class: "how" }, el("summary", {}, "The same by command"), el("pre", { tabindex: "0" }, el("code", {}, command)), el("p", {}, el("button", { type: "button", class: "quiet copy" }, "Copy command"))));
  choose(tabs[0], views.Table);
}

function grid(answer) {
  if (!answer.rows.length) return message("empty", "No rows", "The question is answered: there are none.");
  const numeric = answer.columns.map((_, i) => answer.rows.every((row) => row[i] === null || typeof row[i] === "number"));
  const rows = answer.rows.slice(0, SHOWN_MAX).map((row) => el("tr", {}, row.map((value, i) =>
    el("td", { class: value === null ? "none" : numeric[i] ? "num" : "clip" }, value === null ? "–" : numeric[i] ? full(value) : typeof value === "object" ? JSON.stringify(value) : String(value)))));
  return el("div", {}, el("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Answer" },
    el("table", {}, el("thead", {}, el("tr", {}, answer.columns.map((name, i) => el("th", { scope: "col", class: numeric[i] ? "num" : null }, name)))), el("tbody", {}, rows))),
  answer.rows.length > SHOWN_MAX ? el("p", { class: "about" }, `The first ${whole(SHOWN_MAX)} are shown; all are saved.`) : "");
}

// The first column is the axis; the numbers after it are lines, or bars where the axis is words.
function drawing(answer) {
  const numeric = (i) => i > 0 && answer.rows.some((row) => typeof row[i] === "number") && answer.rows.every((row) => row[i] === null || typeof row[i] === "number");
  const [x] = answer.columns;
  const series = Object.fromEntries(answer.columns.filter((_, i) => numeric(i)).slice(0, 6).map((name) => [name, name]));
  if (answer.rows.length < 2 || !Object.keys(series).length) return null;
  const time = /Date/.test(answer.types[0]), number = typeof answer.rows[0][0] === "number";
  if (!time && !number) return (plot) => bars(plot, { ...answer, rows: answer.rows.slice(0, 60) }, { x, y: Object.keys(series)[0] }, `${Object.keys(series)[0]} by ${x}`);
  const sorted = { ...answer, rows: [...answer.rows].sort((a, b) => (a[0] > b[0] ? 1 : -1)) };
  return (plot) => choosing(plot, Object.keys(series), (area, names) => line(area, sorted,
    { x, series: Object.fromEntries(names.map((name) => [name, name])), xTitle: time ? "" : x, dots: answer.rows.length < 40 }, `${names.join(", ")} by ${x}`));
}

// Columns of different size do not share an axis well, so each can be looked at alone.
function choosing(plot, names, draw) {
  const area = el("div", { class: "plot inner" });
  const show = (chosen) => draw(area, chosen ? [chosen] : names);
  const chooser = el("select", { "aria-label": "Column", onchange: (event) => show(event.target.value) },
    ...names.map((name) => el("option", { value: name }, name)), ...(names.length > 1 ? [el("option", { value: "" }, "all columns")] : []));
  plot.replaceChildren(...(names.length > 1 ? [chooser] : []), area);
  show(names[0]);
}

function save(title, name, type, make) {
  return el("button", { type: "button", class: "quiet", onclick: () => {
    const link = el("a", { href: URL.createObjectURL(new Blob([make()], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  } }, title);
}

const cell = (value) => value === null ? "" : /[",\n\r]/.test(String(value)) || typeof value === "object" ? `"${(typeof value === "object" ? JSON.stringify(value) : String(value)).replaceAll('"', '""')}"` : String(value);
const csv = (answer) => [answer.columns, ...answer.rows].map((row) => row.map(cell).join(",")).join("\n");
const json = (answer) => JSON.stringify(answer.rows.map((row) => Object.fromEntries(answer.columns.map((name, i) => [name, row[i]]))), null, 1);
