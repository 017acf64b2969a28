// Before the first paint, so that a dark room is never flashed at.
(() => {
  const modes = ["system", "light", "dark"];
  const stored = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const apply = (mode) => {
    if (mode === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = mode;
  };
  let mode = modes.includes(stored()) ? stored() : "system";
  apply(mode);
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => { button.textContent = `Theme: ${mode}`; };
    show();
    button.addEventListener("click", () => {
      mode = modes[(modes.indexOf(mode) + 1) % modes.length];
      try { localStorage.setItem("theme", mode); } catch { /* private window */ }
      apply(mode);
      show();
      dispatchEvent(new Event("themed"));
    });
  });
})();
