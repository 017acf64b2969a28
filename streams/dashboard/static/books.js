// The books, when a person asks for them.
import { el, message, post } from "./dom.js";
import { whole } from "./numbers.js";

const button = document.getElementById("reconcile");
const box = document.getElementById("books");

button.addEventListener("click", async () => {
  button.disabled = true;
  box.replaceChildren(el("p", { class: "about" }, "reading topics and counting rows …"));
  try {
    box.replaceChildren(...show(await post("/api/reconcile", {})));
  } catch (error) {
    box.replaceChildren(message("error", "The books could not be checked", error.message));
  }
  button.disabled = false;
});

function show(book) {
  const state = book.exact ? ["good", "exact"] : book.findings.length ? ["bad", "not exact"] : ["warn", "not finished: records are on their way"];
  const line = (name, kafka, store, waiting) => el("tr", {}, el("th", { scope: "row" }, name), ...[kafka, store, waiting].map((n) => el("td", { class: "num" }, n === null || n === undefined ? "–" : whole(n))));
  return [
    el("p", { class: "spaced" }, el("span", { class: `tag ${state[0]}` }, state[1]), ` ${whole(book.events)} events = ${whole(book.predictions)} predictions + ${whole(book.dead_letters)} dead letters; ${whole(book.rows + book.dead_letter_rows)} rows`),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Books" }, el("table", {}, el("thead", {}, el("tr", {}, ["", "in Kafka", "in ClickHouse", "still waiting"].map((t, i) => el("th", { scope: "col", class: i ? "num" : null }, t || el("span", { class: "hidden" }, "what"))))),
      el("tbody", {}, line("events", book.events, null, book.waiting_to_score), line("predictions", book.predictions, book.rows, null),
        line("dead letters", book.dead_letters, book.dead_letter_rows, book.waiting_to_land), line("labels", book.labels, book.label_rows, book.labels_waiting),
        ...(book.ledger ? [line("examples", book.ledger.steps, book.ledger.step_rows, book.ledger.rows_waiting)] : [])))),
    ...book.findings.map((one) => message("error", one.what, `${whole(one.count)} of source partition ${one.partition}, offsets ${one.offsets.join(", ")}`)),
    ...book.notes.map((note) => el("p", { class: "about" }, note)),
  ];
}
