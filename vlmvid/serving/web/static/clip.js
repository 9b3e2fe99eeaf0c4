// The dialog of one clip: its video at the moment, its captions and attributes, questions about it.

import { getJson } from "./api.js";
import { needsTenths, picture } from "./cards.js";
import { clock, el, icon, nameOf } from "./dom.js";
import { timeline, video } from "./player.js";
import { FIRST_CLIPS, href } from "./state.js";
import { talk } from "./talk.js";

const CROSS = "M4.5 4.5l11 11M15.5 4.5l-11 11";

/** The dialog; `onClose()` is called when a person closes it. */
export class ClipDialog {
  #dialog = document.getElementById("clip");
  #info;
  #talks = new Map();

  constructor(info, onClose) {
    this.#info = info;
    this.#dialog.addEventListener("close", () => {
      if (this.shown === null || this.#dialog.open) return;
      this.#empty();
      onClose();
    });
    this.#dialog.addEventListener("click", (event) => {
      if (event.target === this.#dialog) this.#dialog.close();
    });
  }

  /** The row of the clip that is shown, or null. */
  shown = null;

  /** Show a clip; `moment` may be null, `at` is where it plays from, and `plays` whether a click led here. */
  show(clip, moment, state, plays) {
    this.shown = clip.row;
    this.#dialog.replaceChildren(
      this.#head(nameOf(clip)),
      el(
        "div",
        { class: "clip-body" },
        el("div", { class: "stage" }, this.#stage(clip, moment, state.at, plays)),
        this.#facts(clip, state),
      ),
    );
    if (!this.#dialog.open) this.#dialog.showModal();
  }

  /** Tell why a clip cannot be shown. */
  fail(row, error) {
    this.shown = row;
    this.#dialog.replaceChildren(
      this.#head("This clip cannot be shown"),
      el("p", { class: "notice failed", role: "alert", text: error.message }),
    );
    if (!this.#dialog.open) this.#dialog.showModal();
  }

  /** Close it because the address says so. */
  hide() {
    this.#empty();
    if (this.#dialog.open) this.#dialog.close();
  }

  #head(title) {
    const close = el(
      "button",
      {
        type: "button",
        class: "quiet square close",
        "aria-label": "Close",
        on: { click: () => this.#dialog.close() },
      },
      icon(CROSS),
    );
    return el("div", { class: "clip-head" }, el("h2", { id: "clip-title", text: title }), close);
  }

  #empty() {
    this.shown = null;
    const player = this.#dialog.querySelector("video");
    if (player) {
      player.pause();
      // Ends the download.
      player.removeAttribute("src");
      player.load();
    }
    this.#dialog.replaceChildren();
  }

  #stage(clip, moment, at, plays) {
    if (clip.missing)
      return [
        picture(clip, null),
        this.#notice(
          "The video is no longer where it was indexed. Its captions and similar clips are still known; index the folder again to let the clip go.",
        ),
      ];
    const start = at ?? moment?.seconds ?? clip.start_seconds;
    const notice = el("p", { class: "notice failed", role: "alert", hidden: true });
    const player = video(clip.video, {
      start,
      end: clip.end_seconds,
      plays,
      label: `Video of ${nameOf(clip)}`,
      onError: async () => {
        if (this.shown !== clip.row || !player.hasAttribute("src")) return;
        notice.textContent = await whyNot(clip.row);
        notice.hidden = false;
      },
    });
    return [player, notice, moment && timeline(player, clip, moment, needsTenths(clip))];
  }

  #notice(text) {
    return el("p", { class: "notice failed", text });
  }

  #facts(clip, state) {
    const similar = { q: null, like: clip.row, upload: null, where: state.where, k: FIRST_CLIPS, clip: null, at: null };
    const tenths = needsTenths(clip);
    const range =
      clip.end_seconds === null
        ? clip.start_seconds
          ? `from ${clock(clip.start_seconds, tenths)}`
          : "the whole file"
        : `${clock(clip.start_seconds, tenths)} to ${clock(clip.end_seconds, tenths)}`;
    const facts = [["Video", clip.video_id], ["Part", range], ...Object.entries(clip.attributes)];
    return el(
      "div",
      { class: "facts" },
      clip.captions.length > 1 &&
        el(
          "section",
          {},
          el("h3", { text: "Captions" }),
          el(
            "ul",
            { class: "captions" },
            clip.captions.map((text) => el("li", { text })),
          ),
        ),
      el(
        "dl",
        {},
        facts.map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: value }))),
      ),
      el(
        "div",
        { class: "actions" },
        el("a", { class: "button", href: href(similar), "data-nav": true, text: "Similar clips" }),
        !clip.missing &&
          el("a", { class: "button", href: clip.video, target: "_blank", rel: "noopener", text: "Open the file" }),
      ),
      this.#info.model.speaks && !clip.missing && this.#talk(clip.row),
    );
  }

  #talk(row) {
    // What was asked stays while the page does.
    if (!this.#talks.has(row)) this.#talks.set(row, talk(`api/clips/${row}`, { canDescribe: true }));
    return this.#talks.get(row);
  }
}

async function whyNot(row) {
  try {
    const now = await getJson(`api/clips/${row}`);
    if (now.missing) return "The video is no longer where it was indexed.";
  } catch (error) {
    return error.message;
  }
  return "This browser cannot play the video: it does not know its format, or the file is damaged. “Open the file” saves it for another player.";
}
