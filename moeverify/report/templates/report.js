(function () {
  "use strict";
  var filter = document.getElementById("filter"), problems = document.getElementById("problems");
  var table = document.getElementById("matrix");
  if (!table) { return; }
  var body = table.tBodies[0];

  function apply() {
    var text = filter.value.trim().toLowerCase(), shown = 0, rows = body.rows.length;
    document.querySelectorAll("[data-name]").forEach(function (element) {
      var hit = element.dataset.name.indexOf(text) >= 0 && (!problems.checked || element.dataset.problem === "yes");
      element.hidden = !hit;
      if (hit && element.parentNode === body) { shown += 1; }
    });
    document.getElementById("empty").hidden = shown > 0;
    document.getElementById("shown").textContent = shown + " of " + rows + " " + (table.dataset.unit || "models");
  }

  function sort(button) {
    var column = Number(button.dataset.sort), head = button.parentNode;
    var ascending = head.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("thead th").forEach(function (other) { other.setAttribute("aria-sort", "none"); });
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    Array.from(body.rows).sort(function (a, b) {
      var order = a.cells[column].textContent.trim().localeCompare(b.cells[column].textContent.trim());
      return ascending ? order : -order;
    }).forEach(function (row) { body.appendChild(row); });
  }

  filter.addEventListener("input", apply);
  problems.addEventListener("change", apply);
  table.querySelectorAll("button[data-sort]").forEach(function (button) {
    button.addEventListener("click", function () { sort(button); });
  });

  function reveal() {
    var target = document.getElementById(location.hash.slice(1)), inner = target && target.querySelector("details");
    if (inner && target.tagName === "LI") { inner.open = true; }
  }
  window.addEventListener("hashchange", reveal);
  reveal();

  if (navigator.clipboard) {
    document.querySelectorAll("button.copy").forEach(function (button) {
      button.hidden = false;
      button.addEventListener("click", function () {
        navigator.clipboard.writeText(button.parentNode.querySelector("code").textContent).then(
          function () { button.textContent = "Copied"; }, function () { button.textContent = "Select and copy"; });
      });
    });
  }

  var shut = [];
  window.addEventListener("beforeprint", function () {
    shut = Array.from(document.querySelectorAll("article details:not([open])"));
    shut.forEach(function (element) { element.open = true; });
  });
  window.addEventListener("afterprint", function () { shut.forEach(function (element) { element.open = false; }); });
})();
