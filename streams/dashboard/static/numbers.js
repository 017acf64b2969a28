// Numbers and moments as people read them.

export const whole = (x) => Math.round(x).toLocaleString("en-US");

export function short(x) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  const size = Math.abs(x);
  if (size >= 1e9) return `${trim(x / 1e9)} G`;
  if (size >= 1e6) return `${trim(x / 1e6)} M`;
  if (size >= 1e4) return `${trim(x / 1e3)} k`;
  if (size >= 100 || Number.isInteger(x)) return whole(x);
  if (size >= 1) return trim(x);
  return size === 0 ? "0" : Number(x.toPrecision(3)).toString();
}

const trim = (x) => Number(x.toPrecision(3)).toLocaleString("en-US", { maximumFractionDigits: 2 });

export function full(x) {
  if (x === null || x === undefined) return "–";
  if (typeof x !== "number") return String(x);
  if (Number.isInteger(x)) return whole(x);
  return Math.abs(x) >= 1000 ? whole(x) : Number(x.toPrecision(4)).toString();
}

// A probability; what is nearly certain is not shown as certain.
export function percent(p) {
  if (p > 0 && p < 0.0005) return "< 0.1 %";
  if (p < 1 && p >= 0.9995) return "> 99.9 %";
  return `${(100 * p).toFixed(1)} %`;
}

// The store speaks UTC and says so in no other way.
export function moment(text) {
  const at = Date.parse(`${String(text).replace(" ", "T")}Z`);
  return Number.isNaN(at) ? null : at;
}

const pad = (n) => String(n).padStart(2, "0");
export const clock = (ms) => { const d = new Date(ms); return `${pad(d.getUTCHours())}:${pad(d.getUTCMinutes())}:${pad(d.getUTCSeconds())}`; };
export const day = (ms) => new Date(ms).toISOString().slice(0, 10);
export const minute = (ms) => `${day(ms)} ${clock(ms).slice(0, 5)}`;

export function duration(seconds) {
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * size) return `${Math.round(seconds / size)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

export function bytes(x) {
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) if (x >= size) return `${(x / size).toFixed(1)} ${unit}`;
  return `${x} B`;
}
