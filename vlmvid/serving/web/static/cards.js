// Ranked clips as cards, and how the keys move among them.

import { clock, el, icon, nameOf, score, unseen } from "./dom.js";
import { scaleOf, sparkline } from "./sparkline.js";
import { FIRST_CLIPS, href } from "./state.js";

const RETRY_MILLISECONDS = 3000;
const FILM_STRIP = "M2.5 4h15v12h-15zM6 4v12M14 4v12M2.5 8H6M2.5 12H6M14 8h3.5M14 12h3.5";
const SHORT_SECONDS = 600;

/** A list of cards for the hits of one answer; `state` is what they were found with. */
export function cards(hits, state, { isRanked = true } = {}) {
  const scale = scaleOf(hits.map((hit) => hit.moment));
  const list = el("ol", { class: "cards", on: { keydown: move } });
  list.append(...hits.map((hit) => card(hit, state, scale, isRanked)));
  return list;
}

/** Grey cards while an answer is awaited. */
export function skeletons(number) {
  const blank = () =>
    el(
      "div",
      { class: "card blank" },
      el("div", { class: "thumb" }),
      el("div", { class: "line" }),
      el("div", { class: "line short" }),
    );
  return el("div", { class: "cards", "aria-hidden": "true" }, Array.from({ length: number }, blank));
}

/** The picture of a clip at a time, or the words that stand for it. */
export function picture(clip, seconds) {
  const frame = el("span", { class: "thumb" });
  if (clip.missing) {
    frame.append(stand("Video missing"));
    return frame;
  }
  const address = seconds === null ? clip.thumbnail : `${clip.thumbnail}?seconds=${seconds}`;
  const image = el("img", { src: address, alt: "", loading: "lazy", decoding: "async", width: 320, height: 200 });
  let wasTriedAgain = false;
  image.addEventListener("error", () => {
    if (wasTriedAgain) return image.replaceWith(stand("No picture"));
    wasTriedAgain = true;
    // The decoders may have been busy.
    setTimeout(() => image.setAttribute("src", address), RETRY_MILLISECONDS);
  });
  frame.append(image);
  return frame;
}

/** The first card of the results gets the focus; false where there is none. */
export function focusFirst() {
  const first = document.querySelector("#results .card-open");
  first?.focus();
  return Boolean(first);
}

/** Where in the file a hit plays from. */
export const startOf = (hit) => hit.moment?.seconds ?? hit.clip.start_seconds;

/** Whole seconds tell the times of a long clip apart; of a short one, tenths do. */
export const needsTenths = (clip) => clip.end_seconds === null || clip.end_seconds - clip.start_seconds < SHORT_SECONDS;

function stand(words) {
  return el("span", { class: "stand" }, icon(FILM_STRIP, 28), el("span", { text: words }));
}

function card(hit, state, scale, isRanked) {
  const { clip, moment } = hit;
  const name = nameOf(clip);
  const frame = picture(clip, moment ? moment.seconds : null);
  if (isRanked) frame.append(el("span", { class: "rank" }, unseen("Rank "), String(hit.rank)));
  if (moment && !clip.missing) {
    const time = clock(moment.seconds, needsTenths(clip));
    frame.append(el("span", { class: "time" }, unseen("best at "), icon("M6 4l10 6-10 6z", 11), time));
  }
  const open = el(
    "a",
    {
      class: "card-open",
      href: href({ ...state, clip: clip.row, at: moment ? moment.seconds : null }),
      "data-nav": true,
    },
    frame,
    moment && sparkline(clip, moment, scale),
    el("h2", { class: "title", text: name }),
  );
  const similar = { q: null, like: clip.row, upload: null, where: state.where, k: FIRST_CLIPS, clip: null, at: null };
  const meta = el(
    "div",
    { class: "meta" },
    isRanked &&
      el("span", { class: "score", title: "Cosine similarity, from −1 to 1" }, unseen("score "), score(hit.score)),
    el("span", { class: "id", title: clip.video_id, text: name === clip.video_id ? "" : clip.video_id }),
    el("a", { class: "similar", href: href(similar), "data-nav": true }, "Similar", unseen(` to ${name}`)),
  );
  return el("li", { class: clip.missing ? "card missing" : "card" }, open, meta);
}

function move(event) {
  const here = event.target.closest(".card-open");
  if (!here || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const all = [...event.currentTarget.querySelectorAll(".card-open")];
  const columns = all.filter((one) => one.getBoundingClientRect().top === all[0].getBoundingClientRect().top).length;
  const steps = {
    ArrowRight: 1,
    ArrowLeft: -1,
    ArrowDown: columns,
    ArrowUp: -columns,
    Home: -all.length,
    End: all.length,
  };
  const step = steps[event.key];
  if (step === undefined) return;
  event.preventDefault();
  const next = all.indexOf(here) + step;
  if (event.key === "ArrowUp" && next < 0) document.getElementById("query").focus();
  else all[Math.min(Math.max(next, 0), all.length - 1)].focus();
}
