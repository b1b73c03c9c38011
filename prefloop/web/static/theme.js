// Before the page is painted: light or dark as chosen here, else as the system says.
"use strict";
(() => {
  const root = document.documentElement;
  const read = () => { try { return localStorage.getItem("prefloop:theme"); } catch { return null; } };
  const chosen = read();
  if (chosen) root.dataset.theme = chosen;
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-theme-switch]")) return;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("prefloop:theme", root.dataset.theme); } catch { /* private mode: for this page only */ }
  });
})();
