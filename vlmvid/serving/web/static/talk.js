// Questions about one video, and the model's answers.

import { isAborted, postJson } from "./api.js";
import { el } from "./dom.js";

const QUESTION = "Ask about this video";

/** A form for questions to `address`/ask, and what was asked; with `canDescribe` also a button for a caption. */
export function talk(address, { canDescribe }) {
  const log = el("div", {
    class: "talk-log",
    role: "log",
    "aria-live": "polite",
    "aria-label": "Questions and answers",
  });
  const input = el("input", {
    type: "text",
    name: "question",
    "aria-label": QUESTION,
    placeholder: QUESTION,
    autocomplete: "off",
  });
  const ask = el("button", { type: "submit", class: "primary", text: "Ask" });
  const form = el("form", { class: "talk-form" }, input, ask);
  let isWaiting = false;

  const say = async (question, send) => {
    if (isWaiting) return false;
    isWaiting = true;
    const answer = el("p", { class: "answer waiting", text: "The model looks at the video…" });
    log.append(el("div", {}, el("p", { class: "question", text: question }), answer));
    answer.scrollIntoView({ block: "nearest" });
    try {
      const words = await send({
        onWait: (seconds) => {
          answer.textContent = `The model is busy; asking again in ${seconds} s…`;
        },
      });
      answer.textContent = words || "The model gave no words.";
    } catch (error) {
      answer.textContent = isAborted(error) ? "Given up." : error.message;
      answer.classList.add("failed");
    } finally {
      answer.classList.remove("waiting");
      isWaiting = false;
    }
    answer.scrollIntoView({ block: "nearest" });
    return true;
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const question = input.value.trim();
    if (!question) return input.focus();
    if (isWaiting) return;
    input.value = "";
    say(question, async (options) => (await postJson(`${address}/ask`, { question }, options)).answer);
  });
  const describe = el("button", { type: "button", text: "Describe it" });
  describe.addEventListener("click", () =>
    say("What does it show?", async (options) => (await postJson(`${address}/caption`, null, options)).caption),
  );
  return el(
    "section",
    { class: "talk" },
    el("div", { class: "talk-head" }, el("h3", { text: "Ask the model" }), canDescribe && describe),
    log,
    form,
  );
}
