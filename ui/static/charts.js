// Draws the charts of all pages, and keeps what a person chose about them in the browser: how smooth lines are, whether
// an axis is logarithmic, and what is across where runs are compared. Nothing of it goes to the server.
window.workbenchCharts = (() => {
  const KEY = "workbench.charts";
  const OPTIONS = {displayModeBar: false, responsive: true, doubleClick: "reset"};
  const standard = {smoothing: 50, log: false, across: "step"};
  const figures = new Map();

  const read = () => {
    try { return {...standard, ...JSON.parse(localStorage.getItem(KEY))}; } catch { return {...standard}; }
  };
  let chosen = read();

  // A mean over a window around each point, which lags behind nothing; it narrows towards both ends. At most a tenth of
  // the curve on either side.
  const smoothed = (values) => {
    const widest = Math.round(values.length * chosen.smoothing / 1000);
    if (widest < 1) return values;
    const sums = [0];
    for (const value of values) sums.push(sums.at(-1) + value);
    return values.map((_, at) => {
      const reach = Math.min(widest, at, values.length - 1 - at);
      return (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1);
    });
  };

  const series = (trace) => {
    const across = trace.meta?.across?.[chosen.across];
    const placed = across ? {...trace, x: across} : trace;
    if (!trace.meta?.smooth || !chosen.smoothing || trace.x.length < 3) return [placed];
    const faint = {...placed, line: {...trace.line, width: 1}, opacity: 0.3, showlegend: false, hoverinfo: "skip"};
    return [faint, {...placed, y: smoothed(trace.y)}];
  };

  const layout = (figure) => {
    const {meta = {}, xaxis, yaxis, uirevision} = figure.layout;
    const isLog = Boolean(meta.log && chosen.log);
    const title = meta.across ? {text: meta.across[chosen.across], standoff: 6, font: {size: 12}} : xaxis.title;
    const zoom = [uirevision, isLog ? "log" : "", meta.across ? chosen.across : ""].join("|");
    const scale = isLog ? {type: "log", rangemode: "normal", tickformat: "~g", dtick: undefined} : {};
    return {...figure.layout, uirevision: zoom, xaxis: {...xaxis, title}, yaxis: {...yaxis, ...scale}};
  };

  const react = (target) => {
    const figure = figures.get(target);
    if (!figure || !target.isConnected) return figures.delete(target);
    if (!window.Plotly) return setTimeout(react, 100, target);
    if (!target.classList.contains("drawn")) {
      target.classList.add("drawn");
      new ResizeObserver(() => { if (target.offsetWidth) Plotly.Plots.resize(target); }).observe(target);
    }
    Plotly.react(target, figure.data.flatMap(series), layout(figure), OPTIONS);
  };

  const draw = (target, figure) => {
    figures.set(target, figure);
    react(target);
  };

  const show = (tools) => {
    for (const control of tools.querySelectorAll("[data-chart]")) {
      const value = chosen[control.dataset.chart];
      if (control.type === "checkbox") control.checked = value;
      else if (control.type === "radio") control.checked = control.value === value;
      else control.value = value;
    }
    for (const label of tools.querySelectorAll("output")) label.value = chosen.smoothing ? `${chosen.smoothing} %` : "off";
  };

  const choose = (control) => {
    const kinds = {checkbox: () => control.checked, range: () => Number(control.value)};
    chosen = {...chosen, [control.dataset.chart]: (kinds[control.type] ?? (() => control.value))()};
    try { localStorage.setItem(KEY, JSON.stringify(chosen)); } catch { /* a browser that keeps nothing forgets it */ }
    document.querySelectorAll(".chart-tools").forEach(show);
    for (const target of [...figures.keys()]) react(target);
  };

  addEventListener("input", (event) => { if (event.target.matches?.("[data-chart]")) choose(event.target); });
  return {draw, show};
})();
