(function () {
  var filter = document.getElementById("filter"), problems = document.getElementById("problems");
  function apply() {
    var text = filter.value.trim().toLowerCase(), shown = 0;
    document.querySelectorAll("[data-name]").forEach(function (element) {
      var hit = element.dataset.name.indexOf(text) >= 0 && (!problems.checked || element.dataset.problem === "yes");
      element.hidden = !hit;
      if (hit) { shown += 1; }
    });
    document.getElementById("empty").hidden = shown > 0;
  }
  filter.addEventListener("input", apply);
  problems.addEventListener("change", apply);
})();
