// Score over time, as bars: one for each time step that the model saw, as wide as the time it stands for.

import { svg } from "./dom.js";

const LOWEST_PERCENT = 10;

/** The time that a clip's steps span: from its start to its end, or half a step past the last one where that is open. */
export function spanOf(clip, steps) {
  const from = Math.min(clip.start_seconds, steps[0][0]);
  const last = steps[steps.length - 1][0];
  const gap = steps.length > 1 ? last - steps[steps.length - 2][0] : 1;
  return { from, to: clip.end_seconds ?? last + Math.max(gap / 2, 0.001) };
}

/** Lowest and highest score of many moments, so that bars of one search compare. */
export function scaleOf(moments) {
  const scores = moments.filter(Boolean).flatMap((moment) => moment.steps.map(([, value]) => value));
  return { low: Math.min(...scores), high: Math.max(...scores) };
}

/** The bars of a moment; a picture without words, which the text beside it has. */
export function sparkline(clip, moment, { low, high }, className = "spark") {
  const { from, to } = spanOf(clip, moment.steps);
  const share = (seconds) => (100 * (seconds - from)) / (to - from || 1);
  const times = moment.steps.map(([seconds]) => seconds);
  const bars = moment.steps.map(([seconds, value], i) => {
    const start = i === 0 ? 0 : share((times[i - 1] + seconds) / 2);
    const end = i === times.length - 1 ? 100 : share((seconds + times[i + 1]) / 2);
    const height = LOWEST_PERCENT + ((100 - LOWEST_PERCENT) * (value - low)) / (high - low || 1);
    const gap = Math.min(0.8, (end - start) / 4);
    return svg("rect", {
      class: seconds === moment.seconds ? "bar best" : "bar",
      x: `${start + gap / 2}%`,
      width: `${Math.max(end - start - gap, 0.1)}%`,
      y: `${100 - height}%`,
      height: `${height}%`,
      rx: 1.5,
    });
  });
  return svg("svg", { class: className, "aria-hidden": "true", focusable: "false" }, bars);
}

/** The three best steps that are higher than their neighbours, in the order of time. */
export function peaksOf(moment) {
  const scores = moment.steps.map(([, value]) => value);
  return moment.steps
    .filter(([, value], i) => value >= (scores[i - 1] ?? -Infinity) && value > (scores[i + 1] ?? -Infinity))
    .sort((a, b) => b[1] - a[1])
    .slice(0, 3)
    .sort((a, b) => a[0] - b[0]);
}
