// What a reader has chosen survives a reload of a page that is served live, which reloads when a run ends. Other pages start anew.
const kept = (() => {
  const live = document.getElementById("live");
  return {
    get(name) { try { return live ? JSON.parse(sessionStorage.getItem(`salmu-${name}`)) : null; } catch { return null; } },
    set(name, value) { try { if (live) sessionStorage.setItem(`salmu-${name}`, JSON.stringify(value)); } catch { /* not allowed: nothing is kept */ } },
  };
})();
