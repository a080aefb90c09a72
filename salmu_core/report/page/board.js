// The leaderboard: headings sort, the box narrows. References stay on top, published rows stay below.
(() => {
  const board = document.getElementById("board"), said = document.getElementById("board-said"), box = document.getElementById("narrow");
  // A table that is wider than the page says so, until its end is in view.
  const wide = board.parentElement, more = document.createElement("p");
  more.className = "more";
  wide.before(more);
  const tell = () => {
    const over = wide.scrollWidth - wide.clientWidth > 2, end = wide.scrollLeft + wide.clientWidth >= wide.scrollWidth - 2;
    more.textContent = !over ? "" : end ? "← more columns to the left" : "more columns to the right →";
  };
  wide.addEventListener("scroll", tell, { passive: true });
  new ResizeObserver(tell).observe(wide);
  const body = board.tBodies[0], heads = Array.from(board.tHead.rows[0].cells), start = Array.from(body.rows);
  const key = (row, column) => {
    const cell = row.cells[column], value = cell.dataset.value;
    return value === undefined ? cell.textContent.trim().toLowerCase() : value === "" ? null : Number(value);
  };
  const sort = (column, up) => {
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
    const of = (kind) => start.filter((row) => row.classList.contains(kind));
    const moving = start.filter((row) => !row.classList.contains("reference") && !row.classList.contains("published"));
    moving.sort((a, b) => {
      const apart = a.cells[0].dataset.section - b.cells[0].dataset.section; // ruined models, controls and oracles stay below
      if (apart) return apart;
      const x = key(a, column), y = key(b, column);
      if (x === null || y === null) return (x === null) - (y === null); // what was not measured comes last either way
      return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
    });
    body.append(...of("reference"), ...moving, ...of("published"));
    said.textContent = `Sorted by ${heads[column].textContent.trim()}, ${up ? "ascending" : "descending"}.`;
  };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    sort(column, up);
    kept.set("sort", [column, up]);
  }));
  const narrow = () => {
    const words = box.value.trim().toLowerCase();
    let shown = 0;
    start.forEach((row) => { row.hidden = words !== "" && !row.cells[0].textContent.toLowerCase().includes(words) && !row.classList.contains("reference"); shown += !row.hidden; });
    said.textContent = words ? `${shown} of ${start.length} rows are shown.` : "";
  };
  box.addEventListener("input", () => { narrow(); kept.set("narrow", box.value); });
  box.value = kept.get("narrow") ?? "";
  if (box.value) narrow();
  const before = kept.get("sort");
  if (before && heads[before[0]]) sort(...before);
})();
document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const text = button.dataset.copy, done = (words) => { button.textContent = words; setTimeout(() => { button.textContent = "Copy"; }, 1500); };
  const copied = navigator.clipboard ? navigator.clipboard.writeText(text) : Promise.reject();
  copied.then(() => done("Copied"), () => done("Select and copy"));
});
