"use strict";
// Sorts the table of models: by a button in each header, or by the address (#sort=bpd, #sort=-bpd).
(() => {
  const table = document.getElementById("models");
  const body = table.tBodies[0];
  const headers = Array.from(table.tHead.rows[0].cells);

  const valueIn = (row, column, numeric) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    return numeric ? Number(text) : text.toLowerCase();
  };

  const sortBy = (header, direction) => {
    const column = headers.indexOf(header);
    const numeric = header.dataset.type === "number";
    const sign = direction === "descending" ? -1 : 1;
    const rows = Array.from(body.rows);
    // compares instead of subtracting: two infinite values have no difference
    rows.sort((a, b) => {
      const [x, y] = [valueIn(a, column, numeric), valueIn(b, column, numeric)];
      return x < y ? -sign : x > y ? sign : 0;
    });
    body.append(...rows);
    headers.forEach((other) => other.setAttribute("aria-sort", other === header ? direction : "none"));
  };

  headers.forEach((header) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = header.title;
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      sortBy(header, header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
    });
  });

  const followAddress = () => {
    const match = /^#sort=(-?)([a-z_]+)$/.exec(location.hash);
    const header = match && headers.find((one) => one.dataset.key === match[2]);
    if (header) sortBy(header, match[1] ? "descending" : "ascending");
  };
  window.addEventListener("hashchange", followAddress);
  followAddress();
})();
