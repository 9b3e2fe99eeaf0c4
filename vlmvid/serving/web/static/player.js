// A video that starts at a moment, and under it the score over time.

import { clock, el, score, svg, unseen } from "./dom.js";
import { peaksOf, scaleOf, spanOf, sparkline } from "./sparkline.js";

/** A video element for a file; plays from `start`, and pauses once at `end` (both in seconds, null: open). */
export function video(address, { start = 0, end = null, plays = false, label, onError }) {
  const player = el("video", { src: address, controls: true, playsinline: true, preload: "auto", "aria-label": label });
  player.addEventListener(
    "loadedmetadata",
    () => {
      player.currentTime = start;
    },
    { once: true },
  );
  if (end !== null) pauseOnce(player, end);
  player.addEventListener("error", onError);
  // A browser may refuse to play what nobody clicked on; then the moment is shown, and waits.
  if (plays) player.addEventListener("canplay", () => player.play().catch(() => {}), { once: true });
  return player;
}

function pauseOnce(player, end) {
  const atEnd = () => {
    if (player.currentTime < end) return;
    player.pause();
    player.removeEventListener("timeupdate", atEnd);
  };
  player.addEventListener("timeupdate", atEnd);
}

/** The moment's bars with the place that plays, and its peaks as buttons; both lead there. */
export function timeline(player, clip, moment, tenths) {
  const { from, to } = spanOf(clip, moment.steps);
  const bars = sparkline(clip, moment, scaleOf([moment]), "spark tall");
  const head = svg("line", { class: "head", x1: "0%", x2: "0%", y1: "0%", y2: "100%" });
  bars.append(head);
  const follow = () => {
    const place = `${Math.min(Math.max((100 * (player.currentTime - from)) / (to - from || 1), 0), 100)}%`;
    head.setAttribute("x1", place);
    head.setAttribute("x2", place);
  };
  for (const event of ["timeupdate", "seeked", "loadedmetadata"]) player.addEventListener(event, follow);
  const jump = (seconds) => {
    player.currentTime = seconds;
    player.play().catch(() => {});
  };
  bars.addEventListener("click", (event) => {
    const box = bars.getBoundingClientRect();
    jump(from + ((event.clientX - box.left) / box.width) * (to - from));
  });
  const buttons = peaksOf(moment).map(([seconds, value]) =>
    el(
      "button",
      { type: "button", class: seconds === moment.seconds ? "chip best" : "chip", on: { click: () => jump(seconds) } },
      unseen("Play from "),
      clock(seconds, tenths),
      el("span", { class: "number" }, unseen("score "), score(value)),
    ),
  );
  return el(
    "div",
    { class: "timeline" },
    bars,
    el(
      "div",
      { class: "ends", "aria-hidden": "true" },
      el("span", { text: clock(from, tenths) }),
      el("span", { text: "score over time" }),
      el("span", { text: clock(to, tenths) }),
    ),
    el("div", { class: "peaks" }, el("h3", { text: "Best moments" }), buttons),
  );
}
