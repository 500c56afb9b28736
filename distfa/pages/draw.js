/* Draws FIGURES, which the page defines, in the colours of the reader's theme and at the width of her window. */
const dark = matchMedia("(prefers-color-scheme: dark)"), css = name => getComputedStyle(document.documentElement)
  .getPropertyValue(name).trim();
const config = {responsive: true, displaylogo: false, displayModeBar: true,
  modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]]};
function stacked(layout) {  // one panel below the other, where two side by side cannot be read
  const axes = Object.keys(layout).filter(key => /^yaxis/.test(key)), n = axes.length;
  if (n < 2) return;
  const gap = 0.28 / n, height = (1 - gap * (n - 1)) / n;
  axes.forEach((key, k) => {
    const top = 1 - k * (height + gap), x = key.replace("y", "x");
    layout[key] = {...layout[key], domain: [Math.max(0, top - height), top]};
    layout[x] = {...layout[x], domain: [0, 1], title: {text: (layout.xaxis.title || {}).text || ""}};
    if (layout.annotations && layout.annotations[k])
      layout.annotations[k] = {...layout.annotations[k], x: 0, y: top};
  });
  layout.height = 110 + 290 * n;
}
function draw() {
  const ink = css("--ink"), card = css("--card"), line = css("--edge"), narrow = innerWidth < 700;
  const style = {
    font: {family: 'system-ui, "Segoe UI", Roboto, sans-serif', size: 12.5, color: ink},
    margin: {l: narrow ? 48 : 64, r: 16, t: 62, b: 48}, paper_bgcolor: card, plot_bgcolor: card, hovermode: "closest",
    legend: {orientation: "h", traceorder: "normal", x: 0, xanchor: "left", y: 1, yref: "container", yanchor: "top"}};
  const axis = {gridcolor: line, zerolinecolor: css("--dim"), linecolor: css("--dim"), automargin: true};
  for (const [name, plain] of Object.entries(FIGURES)) {
    const figure = JSON.parse(JSON.stringify(plain).replaceAll(INK, ink).replaceAll(BLUE, css("--blue")));
    const place = document.getElementById("plot-" + name), layout = {...style, ...figure.layout};
    if (narrow) stacked(layout);
    for (const key of Object.keys(layout)) if (/^[xy]axis/.test(key)) {
      layout[key] = {...axis, ...layout[key]};
      layout[key].title = {font: {size: 12.5, color: css("--dim")}, standoff: 8, ...layout[key].title};
    }
    // a legend of many boundaries takes more rows
    const shown = figure.traces.filter(trace => trace.showlegend !== false).length;
    const more = 20 * Math.floor((shown - 1) / (narrow ? 2 : 5));
    layout.height += more;
    layout.margin = {...style.margin, t: style.margin.t + more};
    place.style.height = layout.height + "px";
    Plotly.react(place, figure.traces, layout, config);
  }
}
draw();
dark.addEventListener("change", draw);
matchMedia("(max-width: 700px)").addEventListener("change", draw);
