// The page: what its address says is shown; what is clicked changes the address.

import { getJson, isAborted } from "./api.js";
import { cards, focusFirst, picture, skeletons } from "./cards.js";
import { ClipDialog } from "./clip.js";
import { clips, count, el, icon, message, nameOf, say } from "./dom.js";
import { listenToDrops } from "./drops.js";
import { fillFilters } from "./filters.js";
import { listenToTheme } from "./look.js";
import { FIRST_CLIPS, apiParameters, href, parse, viewOf } from "./state.js";
import { someClips, startView } from "./start.js";
import { gone, isThere, send, uploaded, uploadView } from "./upload.js";

const PATIENCE_MILLISECONDS = 150;
const MOST_REMEMBERED = 20;

const byId = (id) => document.getElementById(id);
const results = byId("results");
const input = byId("query");
const fileInput = byId("file");
const answers = new Map();

let info;
let dialog;
let showFilters;
let state = parse(location.search);
let shownView = null;
let shownHits = [];
let hasShown = false;
let loading = new AbortController();
let sending = null;

start();

async function start() {
  history.scrollRestoration = "manual";
  listen();
  busy(true);
  try {
    info = await getJson("api/info", { onWait });
  } catch (error) {
    fail(error, () => location.reload());
    return;
  } finally {
    busy(false);
  }
  const { model, index } = info;
  byId("about").textContent =
    `${model.name} · ${clips(index.clips)} in ${index.name} · ${count(index.dimension)} dimensions · model ${model.digest.slice(0, 12)}`;
  dialog = new ClipDialog(info, closedByHand);
  showFilters = fillFilters(byId("filters"), info.facets, (where) =>
    go({ ...state, where, k: FIRST_CLIPS, clip: null, at: null }),
  );
  await show({ scroll: history.state?.scroll });
}

// ---- the address ----

/** Go to a state: a new entry of the history, so that "back" leads here again. */
function go(next, { isReplaced = false, plays = false } = {}) {
  if (href(next) === href(state) && viewOf(next) === shownView) return null;
  rememberScroll();
  const opens = next.clip !== null && viewOf(next) === shownView;
  if (isReplaced) history.replaceState({ ...history.state }, "", href(next));
  else history.pushState({ opens }, "", href(next));
  state = next;
  return show({ plays });
}

function rememberScroll() {
  history.replaceState({ ...history.state, scroll: scrollY }, "");
}

/** The dialog was closed: to where it was opened, if it was opened here. */
function closedByHand() {
  if (history.state?.opens) history.back();
  else go({ ...state, clip: null, at: null }, { isReplaced: true });
}

async function show({ plays = false, scroll = null } = {}) {
  const view = viewOf(state);
  if (view !== shownView) {
    dialog.hide();
    const isDone = await showView(view);
    if (!isDone) return;
    scrollTo(0, scroll ?? 0);
    // The first view leaves the focus where a load puts it.
    if (hasShown) keepFocus();
    hasShown = true;
  }
  await showClip(plays);
}

/** Show what `state` says; false when something else was asked for meanwhile. */
async function showView(view) {
  loading.abort();
  sending?.abort();
  sending = null;
  const mine = (loading = new AbortController());
  input.value = state.q ?? "";
  hint("");
  showFilters(state.where);
  byId("filters").hidden = Boolean(state.upload) || Object.keys(info.facets).length === 0;
  document.title = state.q ? `${state.q} – vlmvid` : "vlmvid";
  results.setAttribute("aria-busy", "true");
  const timer = setTimeout(() => {
    busy(true);
    if (!state.upload) results.replaceChildren(skeletons(8));
  }, PATIENCE_MILLISECONDS);
  try {
    const nodes = await viewNodes(view, mine.signal);
    if (mine.signal.aborted) return false;
    results.replaceChildren(...nodes);
    shownView = view;
    return true;
  } catch (error) {
    if (isAborted(error) || mine.signal.aborted) return false;
    shownView = null;
    fail(error, () => show());
    return true;
  } finally {
    clearTimeout(timer);
    if (loading === mine) busy(false);
  }
}

function viewNodes(view, signal) {
  shownHits = [];
  if (state.upload) return uploadNodes();
  if (state.like !== null) return similarNodes(view, signal);
  if (state.q) return searchNodes(view, signal);
  return startNodes(signal);
}

async function showClip(plays) {
  if (state.clip === null) {
    dialog.hide();
    return;
  }
  if (dialog.shown === state.clip) return;
  const row = state.clip;
  const hit = shownHits.find((one) => one.clip.row === row);
  try {
    const clip = hit?.clip ?? (await getJson(`api/clips/${row}`));
    if (state.clip === row) dialog.show(clip, hit?.moment ?? null, state, plays);
  } catch (error) {
    if (state.clip === row) dialog.fail(row, error);
  }
}

// ---- views ----

async function remembered(view, address, signal) {
  if (!answers.has(view)) {
    answers.set(view, await getJson(address, { signal, onWait }));
    if (answers.size > MOST_REMEMBERED) answers.delete(answers.keys().next().value);
  }
  return answers.get(view);
}

async function searchNodes(view, signal) {
  const parameters = apiParameters(state, info.limits.top_k);
  parameters.set("text", state.q);
  const answer = await remembered(view, `api/search?${parameters}`, signal);
  const facts = `${count(answer.hits.length)} of ${clips(info.index.clips)} · ${answer.seconds.toFixed(answer.seconds < 1 ? 3 : 1)} s`;
  return hitNodes(answer.hits, `Clips for “${state.q}”`, facts);
}

async function similarNodes(view, signal) {
  const like = await getJson(`api/clips/${state.like}`, { signal, onWait });
  const answer = await remembered(
    view,
    `api/clips/${state.like}/similar?${apiParameters(state, info.limits.top_k)}`,
    signal,
  );
  document.title = `Like ${nameOf(like)} – vlmvid`;
  const source = el(
    "a",
    {
      class: "source",
      href: href({ ...state, clip: like.row, at: null }),
      "data-nav": true,
      "aria-label": `Open “${nameOf(like)}”`,
    },
    picture(like, null),
  );
  return hitNodes(answer.hits, `Clips like “${nameOf(like)}”`, clips(answer.hits.length), source);
}

function hitNodes(hits, title, facts, source = null) {
  shownHits = hits;
  const chosen = state.where.map((filter) =>
    el(
      "button",
      {
        type: "button",
        class: "chip",
        "aria-label": `Remove the filter ${filter}`,
        on: { click: () => go({ ...state, where: state.where.filter((other) => other !== filter), k: FIRST_CLIPS }) },
      },
      filter.replace(":", ": "),
      icon("M5 5l10 10M15 5L5 15", 12),
    ),
  );
  const head = el(
    "div",
    { class: source ? "heading with-source" : "heading" },
    source,
    el("div", {}, el("h1", { tabindex: "-1", text: title }), el("p", { class: "sub", text: facts })),
    chosen.length > 0 && el("div", { class: "chips" }, chosen),
  );
  say(hits.length ? `${clips(hits.length)}. ${title}` : `No clips. ${title}`);
  if (hits.length === 0) return [head, nothing()];
  const nodes = [head, cards(hits, state)];
  if (hits.length >= state.k && state.k < info.limits.top_k) nodes.push(moreButton(hits.length));
  return nodes;
}

function nothing() {
  const clear = el("button", {
    type: "button",
    class: "primary",
    text: "Clear the filters",
    on: { click: () => go({ ...state, where: [] }) },
  });
  return state.where.length
    ? el(
        "section",
        { class: "message" },
        el("p", { text: "No clip passes these filters together." }),
        el("div", { class: "actions" }, clear),
      )
    : el("section", { class: "message" }, el("p", { text: "The index has no other clips." }));
}

function moreButton(number) {
  const button = el("button", { type: "button", text: "Show more" });
  button.addEventListener("click", async () => {
    button.disabled = true;
    const y = scrollY;
    await go({ ...state, k: Math.min(state.k + FIRST_CLIPS, info.limits.top_k) }, { isReplaced: true });
    scrollTo(0, y);
    results.querySelectorAll(".card-open")[number]?.focus({ preventScroll: true });
  });
  return el("div", { class: "more" }, button);
}

async function startNodes(signal) {
  const some = await someClips(info.index.clips, signal);
  shownHits = some;
  say("");
  return startView(some, state, info);
}

async function uploadNodes() {
  const answer = uploaded(state.upload);
  if (answer === null || !(await isThere(answer))) return [gone(chooseButton("Choose a video"))];
  shownHits = answer.similar;
  document.title = `${answer.name} – vlmvid`;
  say(`${answer.caption ?? answer.name}. ${clips(answer.similar.length)} like it`);
  return uploadView(answer, state, info, () => go({ ...state, upload: null, clip: null, at: null }));
}

// ---- what people do ----

function listen() {
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  input.addEventListener("input", () => hint(""));
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" && focusFirst()) event.preventDefault();
  });
  document.addEventListener("click", followed);
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest?.("input:not([type=checkbox]), textarea, dialog");
    if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    input.focus();
    input.select();
  });
  addEventListener("popstate", (event) => {
    state = parse(location.search);
    if (info) show({ scroll: event.state?.scroll });
  });
  addEventListener("pagehide", rememberScroll);
  byId("upload-button").addEventListener("click", () => fileInput.click());
  fileInput.addEventListener("change", () => {
    if (fileInput.files.length) bring(fileInput.files[0]);
    fileInput.value = "";
  });
  listenToDrops(byId("drop"), bring);
  listenToTheme(byId("theme"));
}

function search() {
  const text = input.value.trim();
  const most = info?.limits.query_characters ?? Infinity;
  const length = [...text].length;
  if (!info) return;
  if (!text) return hint("Type what you look for, for example “" + (info.examples[0] ?? "a red car") + "”.");
  if (length > most)
    return hint(
      `The text has ${count(length)} characters; at most ${count(most)} are taken. Shorten it to what matters.`,
    );
  const next = { ...state, q: text, like: null, upload: null, k: FIRST_CLIPS, clip: null, at: null };
  if (viewOf(next) !== shownView) go(next);
}

function hint(text) {
  byId("query-hint").textContent = text;
  input.setAttribute("aria-invalid", String(Boolean(text)));
}

/** A plain click on a link of the page changes the address without a load; others are the browser's. */
function followed(event) {
  const link = event.target.closest?.("a[data-nav]");
  if (!link || event.defaultPrevented || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (!info) return;
  event.preventDefault();
  const next = parse(new URL(link.href).search);
  go(next, { plays: next.clip !== null });
}

/** Send a video, then show what the model makes of it. */
async function bring(file) {
  if (!info) return;
  loading.abort();
  sending?.abort();
  const mine = (sending = new AbortController());
  busy(false);
  dialog.hide();
  shownView = null;
  byId("filters").hidden = true;
  scrollTo(0, 0);
  try {
    const answer = await send(file, info.limits, results, mine);
    // When something else is shown by now, this one has been given up.
    if (sending !== mine) return;
    if (answer === null) await show();
    else await go({ ...state, q: null, like: null, upload: answer.upload, clip: null, at: null });
  } catch (error) {
    if (sending !== mine) return;
    fail(error, null, [chooseButton("Choose another video")]);
  }
}

function chooseButton(text) {
  return el("button", { type: "button", class: "primary", text, on: { click: () => fileInput.click() } });
}

// ---- waiting and failing ----

function busy(isBusy) {
  byId("progress").hidden = !isBusy;
  results.setAttribute("aria-busy", String(isBusy));
  if (isBusy) say("Searching…");
}

function onWait(seconds) {
  const words = `Asking again in ${seconds} s.`;
  results.replaceChildren(message("The server is busy", words));
  say(`The server is busy. ${words}`);
}

function fail(error, again, actions = []) {
  const titles = {
    offline: "No answer",
    busy: "The server is busy",
    no_video: "This is no video",
    too_large: "This video is too large",
  };
  if (state.where.length && error.status === 404) {
    actions = [
      el("button", { type: "button", text: "Clear the filters", on: { click: () => go({ ...state, where: [] }) } }),
    ];
    again = null;
  }
  const buttons = again
    ? [el("button", { type: "button", class: "primary", text: "Try again", on: { click: again } })]
    : actions;
  const title = titles[error.code] ?? (error.status === 404 ? "Not found" : "That did not work");
  results.replaceChildren(message(title, error.message, { actions: buttons, isError: true }));
  say("");
}

/** Who had the focus on something that is gone is led to the new heading. */
function keepFocus() {
  if (document.activeElement && document.activeElement !== document.body && document.activeElement.isConnected) return;
  results.querySelector("h1")?.focus({ preventScroll: true });
}
