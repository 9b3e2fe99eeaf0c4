// Elements, times and numbers. Text reaches the page through text nodes alone, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `on` holds listeners, `text` is its text; other properties are attributes, of which false and null are left out. */
export function el(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** As `el`, of SVG. */
export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name === "text") node.textContent = value;
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** A drawing of one path, e.g. on a button. */
export function icon(path, size = 18) {
  return svg(
    "svg",
    { viewBox: "0 0 20 20", width: size, height: size, class: "icon", "aria-hidden": "true" },
    svg("path", { d: path }),
  );
}

/** Text that only screen readers get. */
export const unseen = (text) => el("span", { class: "hidden", text });

/** 74.26 -> "1:14"; with tenths, "1:14.3". */
export function clock(seconds, tenths = false) {
  const whole = tenths ? Math.round(Math.max(0, seconds) * 10) / 10 : Math.floor(Math.max(0, seconds));
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor((whole % 3600) / 60);
  const rest = (whole % 60).toFixed(tenths ? 1 : 0).padStart(tenths ? 4 : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** 1234 -> "1,234". */
export const count = (number) => number.toLocaleString("en");

/** "1 clip", "2 clips". */
export const clips = (number) => `${count(number)} ${number === 1 ? "clip" : "clips"}`;

/** 0.31234 -> "0.312"; a real minus sign. */
export const score = (value) => value.toFixed(3).replace("-", "−");

/** Bytes for people. */
export function size(bytes) {
  if (bytes >= 2 ** 30) return `${(bytes / 2 ** 30).toFixed(1)} GB`;
  if (bytes >= 2 ** 20) return `${(bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0)} MB`;
  return `${Math.max(1, Math.round(bytes / 1024))} kB`;
}

/** What a clip is called: its first caption, else its id. */
export const nameOf = (clip) => clip.captions[0] || clip.video_id;

/** Say something to screen readers. */
export function say(text) {
  document.getElementById("status").textContent = text;
}

/** A notice in place of results: what happened, what to do, and the ways on. */
export function message(title, text, { actions = [], isError = false } = {}) {
  return el(
    "section",
    { class: isError ? "message error" : "message", role: isError ? "alert" : null },
    el("h1", { text: title }),
    text && el("p", { text }),
    actions.length > 0 && el("div", { class: "actions" }, actions),
  );
}
