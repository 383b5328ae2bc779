// Numbers for people.

export const count = (n) => Math.round(n).toLocaleString("en-US");

export function bytes(n) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (n < 1024 || unit === "GiB") return `${n < 10 && unit !== "B" ? n.toFixed(1) : Math.round(n)} ${unit}`;
    n /= 1024;
  }
}

export function seconds(s) {
  if (s === null || s === undefined) return "–";
  if (s < 0.0995) return `${(s * 1e3).toFixed(s < 0.00995 ? 1 : 0)} ms`;
  if (s < 99.5) return `${s.toFixed(s < 9.95 ? 2 : 1)} s`;
  return `${Math.round(s / 60)} min`;
}

export const percent = (part, whole) => (whole ? `${Math.round((100 * part) / whole)}%` : "–");

export const clock = (epoch) =>
  new Date(epoch * 1e3).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

export const named = (tenant) => (tenant === "" ? "everyone" : tenant);
