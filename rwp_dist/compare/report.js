"use strict";
// A click on a column's head sorts the rows below it; another click, the other way round.
for (const head of document.querySelectorAll("thead th")) {
  head.querySelector("button").addEventListener("click", () => {
    const order = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of head.parentNode.children) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", order === 1 ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, ...key(row.cells[head.cellIndex]) }));
    rows.sort((a, b) => a.kind - b.kind || order * compare(a, b));
    body.append(...rows.map(({ row }) => row));
  });
}

// Numbers come before texts, and what is missing comes last, in either order.
function key(cell) {
  const text = cell.textContent.trim();
  if ("value" in cell.dataset) return { kind: 0, value: Number(cell.dataset.value) };
  return { kind: text === "\u2014" ? 2 : 1, value: text };
}

function compare(a, b) {
  return a.kind === 0 ? a.value - b.value : a.value.localeCompare(b.value);
}

window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
