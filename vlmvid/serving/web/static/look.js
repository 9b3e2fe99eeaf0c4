// Light or dark. theme.js does what must be done before the first paint.

import { icon } from "./dom.js";

/** The button goes from the system's look to light, to dark, and back; what is chosen is kept. */
export function listenToTheme(button) {
  const themes = {
    auto: ["Theme: as the system", "M10 2.5a7.5 7.5 0 1 0 0 15zM10 2.5a7.5 7.5 0 0 1 0 15"],
    light: [
      "Theme: light",
      "M10 6.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7M10 1.5v2M10 16.5v2M1.5 10h2M16.5 10h2M4 4l1.4 1.4M14.6 14.6L16 16M16 4l-1.4 1.4M5.4 14.6L4 16",
    ],
    dark: ["Theme: dark", "M16.5 12A7 7 0 0 1 8 3.5 7 7 0 1 0 16.5 12"],
  };
  const paint = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.replaceChildren(icon(themes[theme][1]));
    button.setAttribute("aria-label", themes[theme][0]);
    button.title = themes[theme][0];
    button.dataset.now = theme;
  };
  button.addEventListener("click", () => {
    const names = Object.keys(themes);
    const next = names[(names.indexOf(button.dataset.now) + 1) % names.length];
    paint(next);
    try {
      localStorage.setItem("theme", next);
    } catch {
      // Then it lasts as long as the page.
    }
  });
  paint(document.documentElement.dataset.theme ?? "auto");
}
