// Charts are drawn when they come into view; plotly.js is unpacked for the first of them, so that tables are there at once.
const page = JSON.parse(document.getElementById("data").textContent);

// plotly.js reads some markup in texts, and names come from third parties.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => { if (value !== null) element.setAttribute(name, value); });
  element.append(...children);
  return element;
};

const figures = (() => {
  let library = null;
  const drawn = new Map(), waiting = new Map();
  const unpack = async () => {
    const packed = document.getElementById("plotly");
    const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    packed.remove();
    return window.Plotly;
  };
  const themed = (figure, element) => {
    const narrow = element.clientWidth < 520, axis = { gridcolor: theme.colour("line"), linecolor: theme.colour("line"), zerolinecolor: theme.colour("line") };
    const layout = { ...figure.layout, font: { ...figure.layout.font, color: theme.colour("fg"), size: narrow ? 10 : 12, family: "system-ui, sans-serif" },
      hoverlabel: { bgcolor: theme.colour("card"), bordercolor: theme.colour("line"), font: { color: theme.colour("fg") }, namelength: -1, align: "left" } };
    Object.keys(layout).filter((name) => /^[xy]axis/.test(name)).forEach((name) => { layout[name] = { ...layout[name], ...axis }; });
    return layout;
  };
  const draw = async (element, figure) => {
    library ??= unpack();
    try {
      const Plotly = await library;
      await Plotly.react(element, figure.data, themed(figure, element), { displayModeBar: false, responsive: true });
      element.dataset.drawn = "";
      drawn.set(element, figure);
    } catch (problem) {
      element.textContent = "This chart could not be drawn; its numbers are in the table.";
      console.warn(problem);
    }
  };
  const watcher = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (!entry.isIntersecting) return;
    watcher.unobserve(entry.target);
    draw(entry.target, waiting.get(entry.target));
    waiting.delete(entry.target);
  }), { rootMargin: "400px" });
  theme.whenChanged(() => drawn.forEach((figure, element) => draw(element, figure)));
  return {
    // Draws now where it was drawn before, else once it comes into view.
    show(element, figure) {
      if (drawn.has(element)) { draw(element, figure); return; }
      waiting.set(element, figure);
      element.style.minHeight = `${figure.layout.height}px`; // so that nothing moves when it is drawn
      watcher.observe(element);
    },
    forget(element) { drawn.delete(element); waiting.delete(element); watcher.unobserve(element); },
  };
})();

// The numbers of a chart as a table, made when it is opened.
const asTable = (details, heads, rows) => {
  details.replaceChildren(make("summary", {}, "As a table"));
  const fill = () => {
    if (!details.open || details.querySelector("table")) return;
    const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
    const body = rows().map((cells) => make("tr", {}, ...cells.map((cell, column) => make(column ? "td" : "th", column ? {} : { scope: "row" }, String(cell)))));
    details.append(make("div", { class: "wide", tabindex: "0" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body))));
  };
  details.ontoggle = fill;
  fill();
};

Object.entries(page.charts).forEach(([id, figure]) => {
  const element = document.getElementById(id);
  if (element && figure) figures.show(element, figure);
});
document.querySelectorAll("details[data-table]").forEach((details) => {
  const table = page.tables[details.dataset.table];
  if (table) asTable(details, table.heads, () => table.rows);
});
