// Makes each heading of a sortable table a button. Without this script the tables read the same, in the order given.
(() => {
  "use strict";
  const said = document.getElementById("said");
  const compare = (a, b, down) => {
    // Missing values stay last whichever way a column is sorted.
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
    return down ? -order : order;
  };
  const valueOf = (cell, isNumber) => {
    if (isNumber) return cell.dataset.sort === undefined ? null : Number(cell.dataset.sort);
    const words = cell.textContent.trim();
    return words === "" || words === "n/a" ? null : words;
  };
  const sort = (table, place, heading) => {
    const down = heading.getAttribute("aria-sort") === "ascending";
    const isNumber = heading.classList.contains("number");
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => ({ row, value: valueOf(row.cells[place], isNumber) }));
    rows.sort((a, b) => compare(a.value, b.value, down));
    body.append(...rows.map((entry) => entry.row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    said.textContent = `sorted by ${heading.textContent.trim()}, ${down ? "descending" : "ascending"}`;
  };
  // A table that hides columns says so; how wide it is, is known only here.
  const point = () => {
    for (const box of document.querySelectorAll(".table .scroll")) {
      const hides = box.scrollWidth > box.clientWidth + 1;
      const hint = box.parentElement.querySelector(".sideways");
      if (hint) hint.hidden = !hides;
    }
  };
  window.addEventListener("resize", point);
  document.addEventListener("toggle", point, true);
  point();
  for (const table of document.querySelectorAll("table.sortable")) {
    Array.from(table.tHead.rows[0].cells).forEach((heading, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, place, heading));
      heading.append(button);
    });
  }
})();
