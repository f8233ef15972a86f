"use strict";
// The table of a batch.
const SORTS = {
  h_file: (i) => i.name.toLowerCase(), h_verdict: (i) => ["fake", "unsure", "real", "failed"].indexOf(verdictOf(i)), h_score: (i) => i.row?.score,
  h_probability: (i) => i.row?.probability, h_size: (i) => i.row && i.row.width * i.row.height, h_origin: (i) => i.row?.provenance?.claims.join() || "",
};
const heads = () => {
  const keys = ["h_picture", "h_file", "h_verdict", "h_score", "h_probability", "h_size", "h_origin", "h_remark"];
  at("heads").replaceChildren(...keys.map((key) => make("th", { scope: "col", class: NUMERIC.includes(key) ? "number" : undefined, "aria-sort": state.sort === key ? (state.down ? "descending" : "ascending") : undefined },
    SORTS[key] ? make("button", { type: "button", "data-sort": key, text: say(key), on: { click: () => sortBy(key) } }) : say(key))));
};
const sortBy = (key) => {
  state.down = state.sort === key && !state.down;
  state.sort = key;
  heads();
  order();
  at("heads").querySelector(`[data-sort="${key}"]`).focus();
};
const order = () => {
  const value = SORTS[state.sort] || ((i) => i.id);
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    const known = (v) => (v === undefined || v === null ? 1 : 0);
    if (known(x) || known(y)) return known(x) - known(y); // what has no value stands last, whichever way
    const sign = typeof x === "string" ? x.localeCompare(y, language, { numeric: true }) : x - y;
    return (state.down ? -sign : sign) || a.id - b.id;
  };
  const focused = document.activeElement;
  state.items.sort(compare);
  at("rows").append(...state.items.map((i) => i.line));
  if (at("rows").contains(focused)) focused.focus();
};
const fill = (item) => {
  const { row } = item;
  const remarks = row ? joined([...reasons(row), ...notes(row)]) : item.problem ? say(knows(`e_${item.problem.code}`) ? `e_${item.problem.code}` : "e_other") : "";
  if (!item.line) {
    const preview = make("img", { src: item.url, alt: "", loading: "lazy", decoding: "async" });
    preview.addEventListener("error", () => preview.remove());
    const open = make("button", { type: "button", class: "name", on: { click: () => show(item) } }, make("bdi", { text: plain(item.name) }));
    item.line = make("tr", {}, make("td", {}, preview), make("td", {}, open), ...Array.from({ length: 6 }, () => make("td")));
    at("rows").append(item.line);
  }
  const cells = item.line.children;
  cells[2].replaceChildren(badge(item));
  const texts = [row && number(row.score), row && row.probability !== null && percent(row.probability), row && `${row.width} × ${row.height}`,
    row?.provenance?.claims.map((c) => (knows(c) ? say(c) : c)).join(", "), remarks];
  texts.forEach((text, i) => { cells[3 + i].textContent = text || ""; cells[3 + i].className = i < 3 ? "number" : ""; });
};
