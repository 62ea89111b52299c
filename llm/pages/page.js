/* Draws the charts that the page carries as JSON, in the colours of the present scheme, and redraws them when
   the scheme, the switch of the horizontal axis or the width changes. */
(() => {
  "use strict";
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const hovers = window.matchMedia("(hover: hover)").matches; /* a mouse; else a finger */
  const narrow = window.matchMedia("(max-width: 36rem)");

  /* A chart names colours as CSS variables ("--blue"); plotly wants their values. */
  function colour(value, key, style) {
    if (Array.isArray(value)) return value.map((item) => colour(item, key, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, colour(v, k, style)]));
    }
    const named = typeof value === "string" && /color(scale)?$/i.test(key) && value.startsWith("--");
    return named ? style.getPropertyValue(value).trim() : value;
  }

  function theme() {
    const axis = {
      gridcolor: "--line", linecolor: "--line", zerolinecolor: "--line", automargin: true,
      title: { font: { color: "--muted" }, standoff: 8 }, tickfont: { color: "--muted" },
    };
    return {
      layout: {
        font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif", color: "--text",
                size: narrow.matches ? 11 : 13 },
        paper_bgcolor: "--page", plot_bgcolor: "--page", xaxis: axis, yaxis: axis,
        hoverlabel: { bgcolor: "--surface", bordercolor: "--line", font: { color: "--text" } },
        legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", font: { color: "--text" } },
        margin: { l: 12, r: narrow.matches ? 8 : 16, t: 8, b: 12 },
      },
    };
  }

  function draw() {
    const style = getComputedStyle(document.documentElement);
    const chosen = document.querySelector("input[name=across]:checked");
    for (const [name, chart] of Object.entries(charts)) {
      const layout = structuredClone(chart.layout);
      const traces = structuredClone(chart.traces);
      const view = chosen && chart.views[chosen.value];
      if (view) {
        layout.xaxis = { ...layout.xaxis, title: { text: view.title } };
        traces.forEach((trace, i) => { trace.x = view.x[i]; });
        (layout.shapes || []).forEach((shape, i) => { shape.x0 = shape.x1 = view.marks[i]; });
        (layout.annotations || []).forEach((note, i) => { note.x = view.marks[i]; });
      }
      layout.template = theme();
      if (!hovers) layout.dragmode = false; /* a finger on the chart scrolls the page */
      Plotly.react(document.getElementById(name), colour(traces, "", style), colour(layout, "", style),
        {
          responsive: true, displaylogo: false, displayModeBar: hovers && !narrow.matches ? "hover" : false,
          modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]],
          /* plotly.js 4 offers to send a chart to its makers' cloud; nothing leaves this page */
          showSendToCloud: false, plotlyServerURL: "",
        });
    }
    document.documentElement.dataset.drawn = Object.keys(charts).length;
  }

  draw();
  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
  document.querySelectorAll("input[name=across]").forEach((input) => input.addEventListener("change", draw));
})();
