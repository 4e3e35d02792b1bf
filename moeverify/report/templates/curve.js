/* Quality curves: values at a ratio by pointer or arrow keys, tasks shown or hidden, scale from 0 or fitted. */
(function () {
  "use strict";
  document.querySelectorAll("figure[data-curve]").forEach(function (figure) {
    var data = JSON.parse(figure.dataset.curve), svg = figure.querySelector("svg.curve");
    var guide = svg.querySelector(".guide"), said = figure.querySelector("output"), at = -1, fitted = false;
    var groups = Array.from(svg.querySelectorAll(".series")), ticks = Array.from(svg.querySelectorAll(".tick"));

    function shown(n) { return !groups[n].hasAttribute("hidden"); }

    function point(to) {
      at = Math.max(0, Math.min(data.points.length - 1, to));
      var here = data.points[at];
      guide.setAttribute("x1", here.x); guide.setAttribute("x2", here.x); guide.removeAttribute("hidden");
      said.textContent = here.title + ": " + here.values.filter(function (value) { return shown(value.series); })
        .map(function (value) { return value.text; }).join(", ");
    }

    function scale() {
      var all = [];
      groups.forEach(function (group, n) { if (shown(n)) {
        group.querySelectorAll("circle").forEach(function (dot) { all.push(Number(dot.dataset.value)); }); } });
      var low = 0, high = data.top;
      if (fitted && all.length) {
        low = Math.min.apply(null, all); high = Math.max.apply(null, all);
        var room = (high - low || high || 1) * 0.08; low -= room; high += room;
      }
      function y(value) { return data.above + (data.below - data.above) * (1 - (value - low) / (high - low)); }
      groups.forEach(function (group) {
        var places = Array.from(group.querySelectorAll("circle")).map(function (dot) {
          dot.setAttribute("cy", y(Number(dot.dataset.value)));
          return dot.getAttribute("cx") + "," + dot.getAttribute("cy");
        });
        group.querySelector("polyline").setAttribute("points", places.join(" "));
      });
      var random = svg.querySelector(".random");
      if (random) {
        var middle = y(Number(random.dataset.value));
        random.setAttribute("y", middle - 5);
        random.toggleAttribute("hidden", middle < data.above || middle > data.below);
      }
      ticks.forEach(function (tick, n) { tick.textContent = Number((low + (high - low) * n / (ticks.length - 1)).toPrecision(3)); });
    }

    svg.addEventListener("pointermove", function (event) {
      var box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
      var nearest = data.points.reduce(function (best, here, n) {
        return Math.abs(here.x - x) < Math.abs(data.points[best].x - x) ? n : best; }, 0);
      if (nearest !== at) { point(nearest); }
    });
    svg.addEventListener("keydown", function (event) {
      var step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) { event.preventDefault(); point(at + step); }
    });
    figure.querySelectorAll("button[data-series]").forEach(function (button) {
      button.addEventListener("click", function () {
        var group = groups[Number(button.dataset.series)], hide = !group.hasAttribute("hidden");
        group.toggleAttribute("hidden", hide);
        button.setAttribute("aria-pressed", String(!hide));
        scale();
        if (at >= 0) { point(at); }
      });
    });
    var fit = figure.querySelector("button.fit");
    fit.addEventListener("click", function () {
      fitted = !fitted; fit.setAttribute("aria-pressed", String(fitted)); scale();
    });
    svg.setAttribute("tabindex", "0");
    figure.querySelectorAll(".tools").forEach(function (tools) { tools.hidden = false; });
  });
})();
