// What answers now, what could, and the switches: every one asks before it does anything.
import { el, message, post } from "./dom.js";
import { duration, minute, whole } from "./numbers.js";

const STAGES = [["shadow", "Shadow"], [1, "1 %"], [10, "10 %"], [50, "50 %"], ["champion", "Champion"]];

const ASKS = {
  promote: (v) => [`Promote ${v}?`, "It answers every key within seconds. The version before stays in memory, so a rollback is as quick."],
  try: (v) => [`Try ${v}?`, "It answers beside the champion as a shadow. `tidemill models judge` takes the next steps."],
  hold: () => ["Hold everything as it is?", "Rules change nothing until it is released. People still may."],
  release: () => ["Let the rules act again?", "`tidemill models judge` may widen, promote or take back."],
  rollback: (v) => ["Roll back?", v],
};

export function rollout(plot, answer, drawn) {
  const told = answer.announced;
  if (!told) { same(plot, "none", () => [message("empty", "Nothing is announced yet", "`tidemill up` announces the first version.")]); return; }
  const age = (answer.at_ms - told.announced_at_ms) / 1000;
  const challenger = told.challenger?.version;
  same(plot, JSON.stringify(told) + duration(age), () => [
    el("dl", { class: "tiles" },
      tile("champion", el("span", {}, told.version)), tile("challenger", challenger ?? "none"),
      tile("champion before", told.previous?.version ?? "none"), tile("since", duration(age), false)),
    challenger ? steps(told) : null,
    el("p", { class: "about" }, `Last change: ${told.action}, epoch ${told.epoch}, ${minute(told.announced_at_ms)} UTC${told.reason ? `. Reason: ${told.reason}` : ""}`),
    told.held ? el("p", {}, el("span", { class: "tag warn" }, "held by a person")) : null,
    el("div", { class: "row spaced", role: "group", "aria-label": "Change what answers" },
      challenger ? act("primary", "Promote challenger", "promote", challenger, drawn) : null,
      told.held ? act("", "Release", "release", "", drawn) : act("", "Hold", "hold", "", drawn),
      challenger || told.previous ? act("danger", "Roll back", "rollback",
        challenger ? `Takes the challenger ${challenger} back; ${told.version} goes on.` : `${told.previous.version} answers again instead of ${told.version}. Nothing has to be loaded.`, drawn) : null),
  ].filter(Boolean));
}

const tile = (name, value, code = true) => el("div", {}, el("dt", {}, name), el("dd", { class: code ? "text" : null }, value));

function steps(told) {
  const at = told.stage === "shadow" ? 0 : STAGES.findIndex(([share]) => share === told.share);
  return el("ol", { class: "stages", "aria-label": "Steps of the rollout" }, STAGES.map(([, title], i) =>
    el("li", { class: i < at ? "past" : i === at ? "now" : null, "aria-current": i === at ? "step" : null }, title)));
}

function act(kind, title, action, version, drawn, passed = true) {
  return el("button", { type: "button", class: kind || null, "data-action": action, "data-version": version, onclick: () => ask(action, version, drawn, passed) }, title);
}

// A picture that has not changed is left alone, with focus and open parts.
function same(plot, key, make) {
  if (plot.dataset.key === key && plot.childElementCount) return;
  plot.dataset.key = key;
  plot.replaceChildren(...make());
}

export function versions(plot, answer, drawn, title) {
  const serving = answer.announced?.version;
  if (!answer.versions.length) { same(plot, "none", () => [message("empty", "No version yet", "`tidemill train` makes one.")]); return; }
  const rows = [...answer.versions].sort((a, b) => (b.trained_at_ms ?? 0) - (a.trained_at_ms ?? 0));
  same(plot, JSON.stringify([rows, serving, answer.announced?.challenger]), () => [
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
      el("table", {}, el("thead", {}, el("tr", {}, ["version", "", "trained (UTC)", "from", "rows", "AUC", "log-loss", "to beat", "gate", "actions"].map((t, i) =>
        el("th", { scope: "col", class: i >= 4 && i <= 7 ? "num" : null }, t || el("span", { class: "hidden" }, "state"))))),
      el("tbody", {}, rows.flatMap((row) => version(row, answer.announced, serving, drawn)))))]);
}

function version(row, announced, serving, drawn) {
  const own = row.metrics?.model, base = row.metrics?.champion ?? row.metrics?.logistic;
  const number = (x, digits) => el("td", { class: x === undefined ? "num none" : "num" }, x === undefined ? "–" : x.toFixed(digits));
  const state = row.version === serving ? ["serves", "good"] : row.version === announced?.challenger?.version ? ["tried", "warn"] : row.version === announced?.previous?.version ? ["before", ""] : null;
  const free = row.version !== serving;
  const line = el("tr", {},
    el("th", { scope: "row", class: "code" }, row.version),
    el("td", {}, state ? el("span", { class: `tag ${state[1]}` }, state[0]) : ""),
    el("td", { class: "time" }, row.trained_at_ms ? minute(row.trained_at_ms) : "–"),
    el("td", { class: row.parent ? "code" : "none time" }, row.parent || "cold start"),
    el("td", { class: "num" }, row.data ? whole(row.data.rows) : "–"),
    number(own?.auc, 4), number(own?.log_loss, 4), number(base?.log_loss, 4),
    el("td", {}, gate(row)),
    el("td", {}, free ? el("div", { class: "row" }, act("quiet", "Promote", "promote", row.version, drawn, row.passed === true),
      announced?.challenger ? null : act("quiet", "Try", "try", row.version, drawn, row.passed === true)) : ""));
  if (!row.checks?.length) return [line];
  line.className = "joined";
  return [line, el("tr", {}, el("td", { colspan: "10" }, checks(row.checks)))];
}

function gate(row) {
  if (row.passed === null) return el("span", { class: "none" }, row.why || "not asked");
  return el("span", { class: `tag ${row.passed ? "good" : "bad"}` }, row.passed ? "passed" : "refused");
}

function checks(all) {
  const failed = all.filter((check) => !check.passed).length;
  return el("details", { class: "how" }, el("summary", {}, `What the gate looked at: ${all.length} checks, ${failed || "none"} failed`),
    el("table", { class: "checks" }, el("tbody", {}, all.map((check) => el("tr", {}, el("th", { scope: "row" }, check.name.replaceAll("_", " ")),
      el("td", {}, el("span", { class: `tag ${check.passed ? "good" : "bad"}` }, check.passed ? "passed" : "failed")), el("td", {}, check.why))))));
}

function ask(action, version, drawn, passed) {
  const [title, text] = ASKS[action](version);
  const named = action === "promote" || action === "try";
  const force = named && !passed;
  const reason = el("input", { name: "reason", maxlength: "500", autocomplete: "off", required: force, id: "reason" });
  const said = el("p", { role: "alert", class: "about" });
  const yes = el("button", { class: action === "rollback" || force ? "danger" : "primary" }, force ? `${action === "try" ? "Try" : "Promote"} anyway` : title.replace("?", "").split(" ").slice(0, 2).join(" "));
  const no = el("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const command = () => `tidemill models ${action} ${drawn.reference}${named ? ` ${version}` : ""}${force ? " --force" : ""}${(force || !named) && reason.value ? ` --reason "${reason.value}"` : ""}`;
  const line = el("code", {}, command());
  reason.addEventListener("input", () => { line.textContent = command(); });
  const form = el("form", {},
    el("h2", { id: "ask-title" }, title), el("p", { class: "about" }, text),
    force ? el("p", {}, el("span", { class: "tag warn" }, "the gate did not pass it"), " A reason is needed; it is kept for good.") : null,
    force || !named ? el("label", {}, force ? "Reason" : "Reason (kept with the decision)", reason) : null,
    el("h3", {}, "The same by command"), el("pre", {}, line), said, el("div", { class: "row" }, no, yes));
  const dialog = el("dialog", { "aria-labelledby": "ask-title" }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    yes.disabled = true;
    said.textContent = "On its way; it takes a few seconds …";
    try {
      const done = await post("/api/models", { action, version: named ? version : "", reason: reason.value, force });
      dialog.close();
      notice("good", "Done", done.said);
    } catch (error) {
      yes.disabled = false;
      said.textContent = error.message;
    }
  });
  dialog.addEventListener("close", () => { dialog.remove(); });
  document.body.append(dialog);
  dialog.showModal();
}

function notice(state, title, text) {
  const close = el("button", { type: "button", class: "quiet", onclick: (event) => event.target.closest(".notice").remove() }, "Close");
  document.getElementById("said").replaceChildren(el("div", { class: "notice", "data-state": state }, el("b", {}, title), el("span", {}, text), " ", close));
}
