// Filters by attribute: boxes with counts; of many values the commonest are shown first.

import { count, el } from "./dom.js";

const SHOWN_VALUES = 6;
const SEARCHED_VALUES = 30;

/** Fill the panel; `onChange(where)` is told what is chosen. Returns a function that shows a choice. */
export function fillFilters(panel, facets, onChange) {
  const groups = Object.entries(facets).filter(([, values]) => Object.keys(values).length > 0);
  panel.hidden = groups.length === 0;
  const chosen = () => [...panel.querySelectorAll("input[type=checkbox]:checked")].map((box) => box.value);
  const clear = el("button", { type: "button", class: "link", text: "Clear", on: { click: () => onChange([]) } });
  const number = el("span", { class: "number" });
  const body = el(
    "div",
    { class: "filter-body", id: "filter-body" },
    groups.map(([name, values]) => group(name, values)),
  );
  const toggle = el(
    "button",
    { type: "button", class: "filter-toggle", "aria-expanded": "false", "aria-controls": "filter-body" },
    "Filters ",
    number,
  );
  toggle.addEventListener("click", () => {
    const isOpen = toggle.getAttribute("aria-expanded") === "true";
    toggle.setAttribute("aria-expanded", String(!isOpen));
  });
  panel.replaceChildren(el("div", { class: "filter-head" }, toggle, el("h2", { text: "Filters" }), clear), body);
  body.addEventListener("change", (event) => {
    if (event.target.matches("input[type=checkbox]")) onChange(chosen());
  });
  return (where) => {
    for (const box of panel.querySelectorAll("input[type=checkbox]")) {
      box.checked = where.includes(box.value);
      // What is chosen is never among the values that are folded away.
      if (box.checked) box.closest("li").hidden = false;
    }
    clear.hidden = where.length === 0;
    number.textContent = where.length ? `(${where.length})` : "";
  };
}

function group(name, values) {
  const sorted = Object.entries(values).sort(
    (a, b) => b[1] - a[1] || a[0].localeCompare(b[0], "en", { numeric: true }),
  );
  const rows = sorted.map(([value, number], i) =>
    el(
      "li",
      { hidden: i >= SHOWN_VALUES },
      el(
        "label",
        { class: "choice" },
        el("input", { type: "checkbox", value: `${name}:${value}`, "data-value": value.toLowerCase() }),
        el("span", { class: "value", text: value || "(empty)" }),
        el("span", { class: "number", text: count(number) }),
      ),
    ),
  );
  const list = el("ul", {}, rows);
  const set = el("fieldset", {}, el("legend", { text: name }), list);
  if (rows.length > SHOWN_VALUES) set.append(more(name, rows));
  return set;
}

function more(name, rows) {
  const button = el("button", {
    type: "button",
    class: "link",
    text: `All ${count(rows.length)}`,
    "aria-label": `All ${count(rows.length)} values of ${name}`,
  });
  button.addEventListener("click", () => {
    for (const row of rows) row.hidden = false;
    const first = rows[SHOWN_VALUES].querySelector("input");
    if (rows.length < SEARCHED_VALUES) {
      button.remove();
      first.focus();
      return;
    }
    const find = el("input", {
      type: "search",
      class: "find",
      placeholder: "Find a value",
      "aria-label": `Find a value of ${name}`,
    });
    find.addEventListener("input", () => {
      const text = find.value.trim().toLowerCase();
      for (const row of rows) {
        const box = row.querySelector("input");
        row.hidden = !box.checked && !box.dataset.value.includes(text);
      }
    });
    button.replaceWith(find);
    find.focus();
  });
  return button;
}
