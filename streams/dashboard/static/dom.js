// Elements without strings of HTML: what comes from the store is text and stays text.

export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

export const { page, pipeline } = document.body.dataset;
export const own = (path) => `${path}?pipeline=${encodeURIComponent(pipeline)}`;

export function message(state, title, text = "") {
  return el("div", { class: "message", "data-state": state }, el("strong", {}, title), text);
}

async function read(reply) {
  const text = await reply.text();
  if (!reply.ok) throw new Error(text.trim() || `status ${reply.status}`);
  return JSON.parse(text);
}

const reached = (request) => request.catch(() => { throw new Error("The dashboard does not answer. Is `tidemill up` still running?"); });

export const get = async (path, more = "") => read(await reached(fetch(own(path) + more)));

export async function post(path, body) {
  const token = document.querySelector('meta[name="tidemill-token"]').content;
  const headers = { "Content-Type": "application/json", "X-Tidemill-Token": token };
  return read(await reached(fetch(own(path), { method: "POST", headers, body: JSON.stringify(body) })));
}

// The question and the command below what is not a figure of its own.
export function how(sql, command) {
  const part = (title, text) => [el("h3", {}, title), el("pre", { tabindex: "0" }, el("code", {}, text)),
    el("p", {}, el("button", { type: "button", class: "quiet copy" }, `Copy ${title}`))];
  return el("details", { class: "how" }, el("summary", {}, "How to ask this"), ...(sql ? part("SQL", sql) : []), ...part("command", command));
}
