// A served page asks now and then whether records changed, and loads itself again when they did.
(() => {
  const line = document.getElementById("live");
  if (!line) return;
  const seen = line.dataset.version, place = kept.get("scroll");
  if (place) { window.scrollTo(0, place); kept.set("scroll", 0); }
  const ask = async () => {
    try {
      const answer = await fetch("/version", { cache: "no-store" });
      const { version } = await answer.json();
      if (version !== seen) { kept.set("scroll", window.scrollY); location.reload(); return; }
      line.classList.remove("lost");
    } catch { line.classList.add("lost"); line.textContent = "The server has stopped; what you see is its last state."; }
    setTimeout(ask, 2000);
  };
  setTimeout(ask, 2000);
})();
