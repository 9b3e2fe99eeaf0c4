// A visitor's own video: sending it, and what the model makes of it.

import { Failure, isAborted, remove, sendFile } from "./api.js";
import { cards } from "./cards.js";
import { clock, el, message, say, score, size } from "./dom.js";
import { video } from "./player.js";
import { href } from "./state.js";
import { talk } from "./talk.js";

const KEPT = "upload:";

/** What is known of an upload: kept for this tab, so that a reload shows it again; null where it is not. */
export function uploaded(name) {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT + name));
  } catch {
    return null;
  }
}

function keep(answer) {
  try {
    sessionStorage.setItem(KEPT + answer.upload, JSON.stringify(answer));
  } catch {
    // Without storage a reload has to send the video again.
  }
}

/** Whether the server still has an upload; raises Failure where it does not answer. */
export async function isThere(answer) {
  try {
    const found = await fetch(answer.thumbnail);
    return found.status !== 404;
  } catch {
    throw new Failure("offline", "The server does not answer. Check that vlmvid serve still runs, then try again.");
  }
}

/** Send `file` while `results` shows how far it is; the answer, or null when `given` was given up. Raises Failure. */
export async function send(file, limits, results, given) {
  if (file.size > limits.upload_bytes) {
    throw new Failure(
      "too_large",
      `${file.name} has ${size(file.size)}; at most ${size(limits.upload_bytes)} are taken. Send a shorter piece or a smaller copy.`,
    );
  }
  const bar = el("progress", { max: 1, value: 0, "aria-label": "Sent" });
  const words = el("p", { text: `Sending ${size(file.size)}…` });
  const cancel = el("button", { type: "button", text: "Cancel", on: { click: () => given.abort() } });
  results.replaceChildren(
    el(
      "section",
      { class: "message" },
      el("h1", { text: file.name }),
      bar,
      words,
      el("div", { class: "actions" }, cancel),
    ),
  );
  say(`Sending ${file.name}`);
  const onProgress = (share) => {
    if (share < 1) {
      bar.value = share;
      words.textContent = `${Math.round(100 * share)} % of ${size(file.size)} sent…`;
    } else if (bar.hasAttribute("value")) {
      // How long the model looks is not known.
      bar.removeAttribute("value");
      words.textContent = "The model looks at the video…";
      say(words.textContent);
    }
  };
  try {
    const answer = { ...(await sendFile("api/uploads", file, { signal: given.signal, onProgress })), name: file.name };
    keep(answer);
    return answer;
  } catch (error) {
    if (isAborted(error)) return null;
    throw error;
  }
}

/** The page of an upload; `onRemove` is called when it is gone. */
export function uploadView(answer, state, info, onRemove) {
  const notice = el("p", { class: "notice failed", role: "alert", hidden: true });
  const fail = (words) => {
    notice.textContent = words;
    notice.hidden = false;
  };
  const player = video(answer.video, {
    label: `Video ${answer.name}`,
    onError: () => fail("This browser cannot play the video, though the model has seen it."),
  });
  const drop = el("button", { type: "button", text: "Remove my video" });
  drop.addEventListener("click", async () => {
    drop.disabled = true;
    try {
      await remove(`api/uploads/${answer.upload}`);
      sessionStorage.removeItem(KEPT + answer.upload);
      onRemove();
    } catch (error) {
      drop.disabled = false;
      fail(error.message);
    }
  });
  return [
    el(
      "section",
      { class: "upload" },
      el("div", { class: "stage" }, player, notice),
      el(
        "div",
        { class: "facts" },
        el("h1", { tabindex: "-1", text: answer.caption || answer.name }),
        el("p", {
          class: "sub",
          text: answer.caption ? `${answer.name}, ${clock(answer.seconds, true)}` : clock(answer.seconds, true),
        }),
        answer.tags.length > 0 && tags(answer.tags, state),
        info.model.speaks && talk(`api/uploads/${answer.upload}`, { canDescribe: false }),
        el("div", { class: "actions" }, drop),
        el("p", {
          class: "fine",
          text: "Your video is kept on the server for a short time, and only this tab knows its address.",
        }),
      ),
    ),
    answer.similar.length > 0
      ? el(
          "section",
          {},
          el("h2", { class: "heading", text: "Similar clips of the index" }),
          cards(answer.similar, state),
        )
      : null,
  ].filter(Boolean);
}

function tags(found, state) {
  const chips = found.map(([text, value]) =>
    el(
      "li",
      {},
      el(
        "a",
        { class: "chip", "data-nav": true, href: href({ ...state, upload: null, q: text, clip: null, at: null }) },
        text,
        el("span", { class: "number", text: score(value) }),
      ),
    ),
  );
  return el(
    "section",
    {},
    el("h2", { class: "small", text: "Nearest words of the index" }),
    el("ul", { class: "chips" }, chips),
  );
}

/** The words for an upload that the server has forgotten. */
export const gone = (choose) =>
  message("This upload is gone", "Uploads are kept for a short time only. Choose the file again.", {
    actions: [choose],
  });
