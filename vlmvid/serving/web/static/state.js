// What the page shows is in its address, so that links can be sent and the back button works.

export const FIRST_CLIPS = 24;

/**
 * The state in an address: `q` a text, `like` the row of a clip, or `upload` a name; `where` filters ("name:value"),
 * `k` how many clips; `clip` the row of the open clip, `at` where it starts to play.
 */
export function parse(search) {
  const parameters = new URLSearchParams(search);
  return {
    q: parameters.get("q")?.trim() || null,
    like: whole(parameters.get("like")),
    upload: parameters.get("upload"),
    where: parameters.getAll("where"),
    k: whole(parameters.get("k")) || FIRST_CLIPS,
    clip: whole(parameters.get("clip")),
    at: seconds(parameters.get("at")),
  };
}

/** The address of a state. */
export function href(state) {
  const parameters = new URLSearchParams();
  if (state.upload) parameters.set("upload", state.upload);
  else if (state.like !== null) parameters.set("like", state.like);
  else if (state.q) parameters.set("q", state.q);
  for (const filter of state.where) parameters.append("where", filter);
  if (state.k !== FIRST_CLIPS) parameters.set("k", state.k);
  if (state.clip !== null) parameters.set("clip", state.clip);
  // Up, so that a frame that starts then is on screen.
  if (state.clip !== null && state.at !== null) parameters.set("at", Math.ceil(state.at * 1000) / 1000);
  return `?${parameters}`;
}

/** What is behind the open clip, as one text: equal when nothing has to be asked again. */
export const viewOf = (state) => href({ ...state, clip: null, at: null });

/** `where` and the number of clips as parameters of the API. */
export function apiParameters(state, mostClips) {
  const parameters = new URLSearchParams({ top_k: Math.min(state.k, mostClips) });
  for (const filter of state.where) parameters.append("where", filter);
  return parameters;
}

function whole(text) {
  return text !== null && /^\d{1,15}$/.test(text) ? Number(text) : null;
}

function seconds(text) {
  return text !== null && /^\d{1,9}(\.\d{1,3})?$/.test(text) ? Number(text) : null;
}
