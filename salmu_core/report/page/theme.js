// Light, dark, or what the system says. A choice is remembered where the browser allows it.
const theme = (() => {
  const root = document.documentElement, button = document.getElementById("theme"), words = { auto: "Auto", light: "Light", dark: "Dark" };
  const order = ["auto", "light", "dark"], listeners = [];
  const stored = () => { try { return localStorage.getItem("salmu-theme"); } catch { return null; } };
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = order.includes(stored()) ? stored() : "auto";
  const show = () => {
    if (chosen === "auto") root.removeAttribute("data-theme"); else root.setAttribute("data-theme", chosen);
    button.textContent = `Theme: ${words[chosen]}`;
    listeners.forEach((listener) => listener());
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    chosen = order[(order.indexOf(chosen) + 1) % order.length];
    try { localStorage.setItem("salmu-theme", chosen); } catch { /* a page opened from a file may not store */ }
    show();
  });
  system.addEventListener("change", show);
  show();
  return {
    colour: (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim(),
    whenChanged: (listener) => listeners.push(listener),
  };
})();
