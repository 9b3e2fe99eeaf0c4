// What a newcomer sees: what the page is for, texts to try, some of the clips.

import { getJson } from "./api.js";
import { cards } from "./cards.js";
import { clips, el } from "./dom.js";
import { href } from "./state.js";

const CLIPS_AT_START = 8;

/** Clips from all over the index, as hits without a rank. */
export async function someClips(total, signal) {
  const number = Math.min(CLIPS_AT_START, total);
  const rows = Array.from({ length: number }, (_, i) => Math.floor((i * total) / number));
  const asked = await Promise.allSettled(rows.map((row) => getJson(`api/clips/${row}`, { signal })));
  return asked.filter((one) => one.status === "fulfilled").map((one) => ({ clip: one.value, moment: null }));
}

/** The first page. */
export function startView(some, state, info) {
  const examples = info.examples.map((text) =>
    el("li", {}, el("a", { class: "chip", href: href({ ...state, q: text }), "data-nav": true, title: text, text })),
  );
  const words = info.model.embeds
    ? `Describe what happens. ${clips(info.index.clips)} of ${info.index.name} are ranked by how well they fit, and each opens where it fits best.`
    : "This model gives words and compares nothing: clips can be opened and asked about, but not searched.";
  return [
    el(
      "section",
      { class: "hero" },
      el("h1", { tabindex: "-1", text: "Find the moment" }),
      el("p", { text: words }),
      state.where.length > 0 && el("p", { class: "notice", text: "The filters apply to what you search for next." }),
      examples.length > 0 &&
        info.model.embeds &&
        el(
          "section",
          {},
          el("h2", { class: "small", text: "For example" }),
          el("ul", { class: "chips examples" }, examples),
        ),
    ),
    some.length > 0 &&
      el(
        "section",
        {},
        el("h2", { class: "small", text: "Some of the clips" }),
        cards(some, state, { isRanked: false }),
      ),
  ].filter(Boolean);
}
