// One run up close: words, similarities, map, retrieval and training, before (Compromised) and after. Everything is set as text.
(() => {
  const section = document.getElementById("up-close"), select = document.getElementById("run"), close = page.close;
  if (!section || !close.runs.length) return;
  const at = (id) => document.getElementById(`close-${id}`);
  let start, clean, scene; // of the run that is shown: where instances of a benchmark are pooled, each has its own
  const aspects = { forgetting: "To forget", holdout: "Holdouts", general: "General", retained: "Retained" };
  const colours = { forgetting: "#D55E00", holdout: "#E69F00", general: "#56B4E9", retained: "#009E73" };
  const relations = { pair: ["✓", "the very one"], association: ["≈", "same person and field"], person: ["~", "same person"], other: ["", "another"] };

  // ---------------------------------------------------------------- similarities
  const WIDTH = 4; // of the record's bins of 0.01 in one that is drawn
  const shares = ([, , n, , first, counts]) => {
    const sums = new Map();
    counts.forEach((count, bin) => { const wide = Math.floor((first + bin) / WIDTH); sums.set(wide, (sums.get(wide) ?? 0) + count); });
    const bins = Array.from(sums.keys()), low = Math.min(...bins) - 1, high = Math.max(...bins) + 1, x = [], y = [];
    for (let bin = low; bin <= high; bin += 1) { x.push(-1 + (bin + 0.5) * WIDTH * 0.01); y.push((sums.get(bin) ?? 0) / n); }
    return { x, y };
  };
  const histogram = (split, models) => {
    const data = models.filter(([, found]) => found).map(([name, found, style]) => ({
      ...shares(found), type: "scatter", mode: "lines", name: plain(name), line: { shape: "hvh", width: 2, ...style.line }, fill: style.fill ? "tozeroy" : "none",
      fillcolor: style.fill, hovertemplate: `${plain(name)}<br>cosine %{x:.2f}: %{y:.1%} of pairs<extra></extra>`,
    }));
    return { data, layout: { height: 230, margin: { l: 46, r: 8, t: 6, b: 38 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      xaxis: { title: { text: "cosine of picture and caption" }, zeroline: false }, yaxis: { tickformat: ".0%", rangemode: "tozero", zeroline: false }, legend: { orientation: "h", y: 1.18 }, showlegend: true } };
  };
  const similarities = (run) => {
    const place = at("similarities");
    place.querySelectorAll(".chart").forEach(figures.forget);
    place.replaceChildren(...run.similarities.map((own) => {
      const of = (other) => other?.similarities.find((found) => found[0] === own[0]);
      const models = [["Compromised (before)", of(start), { line: { color: theme.colour("soft"), dash: "dot" } }], ["Clean", of(clean), { line: { color: "#CC79A7", dash: "dash" } }],
        [run.title, own, { line: { color: colours[own[1]] }, fill: `${colours[own[1]]}40` }]].filter(([, found], number) => found && (number === 2 || found !== own));
      const chart = make("div", { class: "chart", role: "img", "aria-label": `Histogram of cosines on ${own[0]}; numbers in the table below` }), details = make("details");
      figures.show(chart, histogram(own[0], models));
      asTable(details, ["model", "pairs", "mean cosine", "middle half"], () => models.map(([name, found]) => [name, found[2], found[3].toFixed(3), middle(found)]));
      return make("div", { class: "card" }, make("b", {}, own[0]), ` ${aspects[own[1]].toLowerCase()}, ${own[2].toLocaleString("en")} pairs`, chart, details);
    }));
  };
  const middle = ([, , n, , first, counts]) => {
    const quantile = (share) => { let sum = 0; for (let bin = 0; bin < counts.length; bin += 1) { sum += counts[bin]; if (sum >= share * n) return (-1 + (first + bin + 0.5) * 0.01).toFixed(2); } return "–"; };
    return `${quantile(0.25)} to ${quantile(0.75)}`;
  };

  // ---------------------------------------------------------------- map
  const about = (row) => {
    const fact = scene?.[row] ?? {};
    return [fact.split, fact.person, fact.field, fact.caption].filter(Boolean).map((text) => plain(text.length > 70 ? `${text.slice(0, 70)}…` : text)).join("<br>");
  };
  const aspectOf = (row) => scene?.[row]?.aspect ?? "retained";
  const map = (places, range) => {
    const [[imageX, imageY], [textX, textY]] = places, unit = (n) => n / 1000, data = [];
    [...new Set(imageX.map((_, row) => aspectOf(row)))].forEach((aspect) => {
      const rows = imageX.map((_, row) => row).filter((row) => aspectOf(row) === aspect), colour = colours[aspect];
      data.push({ x: rows.flatMap((row) => [unit(imageX[row]), unit(textX[row]), null]), y: rows.flatMap((row) => [unit(imageY[row]), unit(textY[row]), null]),
        mode: "lines", line: { color: colour, width: 0.8 }, opacity: 0.45, hoverinfo: "skip", showlegend: false, legendgroup: aspect });
      [["picture", imageX, imageY, "circle"], ["caption", textX, textY, "diamond-open"]].forEach(([what, x, y, symbol]) => data.push({
        x: rows.map((row) => unit(x[row])), y: rows.map((row) => unit(y[row])), mode: "markers", name: `${aspects[aspect]}: ${what}`, legendgroup: aspect,
        marker: { color: colour, size: 6, symbol }, text: rows.map(about), hovertemplate: `${what}<br>%{text}<extra></extra>` }));
    });
    return { data, layout: { height: 400, margin: { l: 36, r: 8, t: 6, b: 30 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: true,
      legend: { orientation: "h", y: -0.12, font: { size: 10 } }, xaxis: { range: range[0], zeroline: false }, yaxis: { range: range[1], zeroline: false, scaleanchor: "x" } } };
  };
  const apart = (places, aspect) => {
    const [[ix, iy], [tx, ty]] = places, rows = ix.map((_, row) => row).filter((row) => aspectOf(row) === aspect);
    return rows.length ? (rows.reduce((sum, row) => sum + Math.hypot(ix[row] - tx[row], iy[row] - ty[row]), 0) / rows.length / 1000).toFixed(3) : "–";
  };
  const maps = (run) => {
    at("maps").hidden = !run.map || !start?.map || start.scene !== run.scene;
    if (at("maps").hidden) return;
    at("share").textContent = run.share.map((share) => `${Math.round(100 * share)} %`).join(" and ");
    const ends = (axis) => { const all = [start, run].flatMap((model) => model.map.flatMap((side) => side[axis])), low = Math.min(...all) / 1000, high = Math.max(...all) / 1000, room = 0.06 * (high - low); return [low - room, high + room]; };
    const range = [ends(0), ends(1)];
    at("after-title").textContent = `After: ${run.title}`;
    figures.show(at("map-before"), map(start.map, range));
    figures.show(at("map-after"), map(run.map, range));
    asTable(at("map-table"), ["distance of a picture to its own caption on the map, mean", "before", "after"],
      () => Object.entries(aspects).filter(([aspect]) => apart(run.map, aspect) !== "–").map(([aspect, words]) => [words, apart(start.map, aspect), apart(run.map, aspect)]));
  };

  // ---------------------------------------------------------------- retrieval
  const thumbnail = (row, words) => {
    const picture = scene?.[row]?.picture;
    return picture ? make("img", { src: `data:image/jpeg;base64,${picture}`, alt: words, title: words, width: 56, height: 56, loading: "lazy" }) : make("span", { class: "no-picture", title: words }, words);
  };
  const named = (row) => { const fact = scene?.[row] ?? {}; return [fact.person || "somebody", fact.field].filter(Boolean).join(", "); };
  const found = (title, retrieval) => {
    if (!retrieval) return make("div", {}, make("h5", {}, title), make("p", { class: "soft" }, "not kept"));
    const captions = retrieval.captions.map(([cosine, relation, caption]) => make("li", { class: relation },
      make("span", { class: "mark", title: relations[relation][1] }, relations[relation][0]), ` ${caption} `, make("span", { class: "soft" }, `${cosine.toFixed(2)}${relation === "other" ? "" : `, ${relations[relation][1]}`}`)));
    const pictures = retrieval.pictures.map(([cosine, relation, row]) => make("span", { class: `thumb ${relation}` }, thumbnail(row, `${named(row)} (${relations[relation][1]}, cosine ${cosine.toFixed(2)})`)));
    return make("div", {}, make("h5", {}, title),
      make("p", { class: "soft" }, `own caption in place ${retrieval.caption[0].toLocaleString("en")} of ${retrieval.caption[1].toLocaleString("en")}`), make("ol", { class: "captions" }, ...captions),
      make("p", { class: "soft" }, `own picture in place ${retrieval.picture[0]} of ${retrieval.picture[1]}`), make("div", { class: "thumbs" }, ...pictures));
  };
  const gallery = (run) => {
    at("gallery").hidden = !run.retrievals.length || !scene;
    if (at("gallery").hidden) return;
    const of = (model, row) => (model?.scene === run.scene ? model.retrievals.find((retrieval) => retrieval.row === row) : undefined);
    const open = kept.get("gallery") ?? 0;
    at("associations").replaceChildren(...run.retrievals.filter(({ row }) => scene[row]).map((own, number) => {
      const fact = scene[own.row], models = [["Compromised (before)", start], [`${run.title} (after)`, run], ["Clean", clean]].filter(([, model], place) => model && (place === 1 || model !== run));
      const before = of(start, own.row), line = before ? `caption: place ${before.caption[0]} → ${own.caption[0]}` : `caption: place ${own.caption[0]}`;
      const details = make("details", { class: "pair-card" }, make("summary", {}, thumbnail(own.row, named(own.row)), make("span", {}, make("b", {}, named(own.row)), make("span", { class: `pill ${fact.aspect}` }, fact.aspect === "forgetting" ? "to forget" : "nobody asked"), make("br"), make("span", { class: "soft" }, `${fact.caption} · ${line}`))));
      const fill = () => { if (details.open && !details.querySelector(".models")) details.append(make("div", { class: "models" }, ...models.map(([title, model]) => found(title, of(model, own.row))))); };
      details.addEventListener("toggle", () => { if (details.open) kept.set("gallery", number); fill(); });
      details.open = number === open;
      fill();
      return details;
    }));
  };

  // ---------------------------------------------------------------- training
  const training = (run) => {
    const place = at("curves");
    at("training").hidden = !run.curves.some(([, , steps]) => steps.length > 1);
    place.querySelectorAll(".chart").forEach(figures.forget);
    if (at("training").hidden) { place.replaceChildren(); return; }
    const palette = ["#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#0072B2"], fits = [...new Set(run.curves.map(([fit]) => fit))];
    place.replaceChildren(...fits.flatMap((fit) => [false, true].map((rates) => {  // learning rates have an axis of their own
      const curves = run.curves.filter((curve) => curve[0] === fit && curve[2].length > 1 && (curve[1] === "lr") === rates);
      if (!curves.length) return null;
      const words = (rates ? "Learning rate" : "Training") + (fits.length > 1 ? `, fit ${fit + 1}` : "");
      const chart = make("div", { class: "chart", role: "img", "aria-label": `${words}; numbers in the table below` }), details = make("details");
      figures.show(chart, { data: curves.map(([, name, steps, values], number) => ({ x: steps, y: values, mode: "lines", name: plain(name), line: { color: palette[number % palette.length], width: 1.6 }, hovertemplate: `${plain(name)}<br>step %{x}: %{y:.4g}<extra></extra>` })),
        layout: { height: 280, margin: { l: 50, r: 8, t: 6, b: 38 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", xaxis: { title: { text: "step" }, zeroline: false }, yaxis: { zeroline: false, exponentformat: "e" }, legend: { orientation: "h", y: 1.16 }, showlegend: true } });
      asTable(details, ["value", "first", "last", "smallest", "largest"], () => curves.map(([, name, , values]) => [name, values[0], values.at(-1), Math.min(...values), Math.max(...values)]));
      return make("div", { class: "card" }, make("b", {}, words), chart, details);
    })).filter((card) => card));
  };

  // ---------------------------------------------------------------- choosing
  const show = (number) => {
    const run = close.runs[number];
    [start, clean, scene] = [close.runs[run.compromised], close.runs[run.clean], close.scenes[run.scene]];
    select.value = String(number);
    at("title").textContent = run.title;
    at("verdict").textContent = run.verdict || run.kind;
    at("verdict").dataset.verdict = run.verdict;
    at("summary").textContent = run.summary;
    at("words").replaceChildren(...run.words.map((sentence) => make("li", {}, sentence)));
    at("options").textContent = Object.entries(run.options).map(([name, value]) => `${name} = ${value}`).join(", ") || "none";
    at("command").textContent = run.command;
    at("again").hidden = !run.command;
    at("copy").dataset.copy = run.command;
    at("nothing").hidden = run.similarities.length > 0 || run.kind === "published";
    similarities(run);
    maps(run);
    gallery(run);
    training(run);
    kept.set("run", run.title);
  };
  close.runs.forEach((run, number) => select.append(make("option", { value: String(number) }, run.verdict ? `${run.title} (${run.verdict})` : run.title)));
  select.addEventListener("change", () => show(Number(select.value)));
  const step = (by) => show((Number(select.value) + by + close.runs.length) % close.runs.length);
  document.getElementById("run-before").addEventListener("click", () => step(-1));
  document.getElementById("run-after").addEventListener("click", () => step(1));
  document.getElementById("board").addEventListener("click", (event) => {
    const link = event.target.closest("a[data-row]");
    const number = link ? close.runs.findIndex((run) => run.row === Number(link.dataset.row)) : -1;
    if (number >= 0) show(number);
  });
  theme.whenChanged(() => similarities(close.runs[Number(select.value)]));
  const before = close.runs.findIndex((run) => run.title === kept.get("run"));
  const first = close.runs.findIndex((run) => run.kind === "run");
  section.hidden = false;
  show(before >= 0 ? before : Math.max(first, 0));
})();
