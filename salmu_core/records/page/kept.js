// What a reader has chosen survives a reload of this tab (a page that is served live reloads when a run ends).
const kept = {
  get(name) { try { return JSON.parse(sessionStorage.getItem(`salmu-${name}`)); } catch { return null; } },
  set(name, value) { try { sessionStorage.setItem(`salmu-${name}`, JSON.stringify(value)); } catch { /* not allowed: nothing is kept */ } },
};
