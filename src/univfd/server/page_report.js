"use strict";
// The report to attach to a case, and the table as CSV.
const THUMB = 640;
const picture = (item, alt) => new Promise((resolve) => {
  const image = new Image();
  const none = () => resolve(make("p", { class: "quiet", text: say("no_preview") }));
  image.onerror = none;
  image.onload = () => {
    try {
      const scale = Math.min(1, THUMB / Math.max(image.naturalWidth, image.naturalHeight));
      const canvas = make("canvas");
      canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
      canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      resolve(make("img", { src: canvas.toDataURL("image/jpeg", 0.85), alt }));
    } catch { none(); }
  };
  image.src = item.url;
});

const sheet = async (item) => {
  const box = make("section", { class: "sheet" }, make("h2", { class: "file" }, make("bdi", { text: plain(item.name) })));
  if (item.state !== "done") {
    box.append(item.state === "failed" ? problem(item) : badge(item));
    return box;
  }
  const thumbs = make("div", { class: "thumbs" }, await picture(item, say("preview", { file: plain(item.name) })));
  if (item.heat?.src) thumbs.append(make("img", { src: item.heat.src, alt: say("heat_caption") }));
  box.append(headline(item), bar(item.row));
  const warning = webCopy(item);
  if (warning) box.append(warning);
  box.append(thumbs, facts(item), neighbours(item.row, 3, true), origin(item, true), make("h3", { text: say("sentence") }), make("p", { class: "sentence", text: sentence(item) }));
  return box;
};

const reportTitle = (items) => say("report_title", { n: items.length === 1 ? plain(items[0].name) : say("report_n", { n: items.length }) });
const report = async (items) => {
  const paper = make("article", { lang: language },
    make("h1", { id: "report-title", tabindex: "-1", text: reportTitle(items) }), make("p", { text: say("report_made", { date: date(new Date()) }) }));
  if (items.length > 1) {
    paper.append(make("p", { text: say("counts", tally(items)) }));
    paper.append(table(say("pictures"), ["h_file", "h_verdict", "h_score"], items.map((item) => [
      make("td", {}, make("bdi", { text: plain(item.name) })), make("td", {}, badge(item)), make("td", { class: "number", text: item.row ? number(item.row.score) : "" })])));
  }
  for (const item of items) paper.append(await sheet(item));
  paper.append(make("section", { class: "sheet last" }, make("h2", { text: say("limits_title") }), make("p", { text: say("limits_text") })));
  return paper;
};

// A file that asks nobody: what it shows is in it, and its own policy forbids the rest.
const reportFile = (paper, title) => {
  const made = document.implementation.createHTMLDocument(title);
  const head = made.head;
  made.documentElement.lang = language;
  made.documentElement.className = "printed";
  for (const [name, value] of [["charset", "utf-8"], ["name", "viewport"]]) {
    const meta = made.createElement("meta");
    meta.setAttribute(name, value);
    if (name === "name") meta.setAttribute("content", "width=device-width, initial-scale=1");
    head.append(meta);
  }
  const text = `<!doctype html>\n${made.documentElement.outerHTML}`;
  const policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">";
  const style = `<style>${document.querySelector("style").textContent}</style>`;
  const [before, after] = text.split("</head><body></body>");
  return `${before}${policy}${style}</head><body>${paper.outerHTML}</body>${after}`;
};

const tally = (items) => {
  const counts = { fake: 0, real: 0, unsure: 0, failed: 0 };
  for (const item of items) if (verdictOf(item) in counts) counts[verdictOf(item)] += 1;
  return counts;
};

// Spreadsheets run what begins like a formula: an apostrophe in front makes it text. Numbers of ours stay numbers.
const cell = (value) => {
  if (typeof value === "number") return String(value);
  const text = String(value ?? "");
  return `"${(/^[\s\u0000-\u001f]*[=+\-@|%\uff1d\uff0b\uff0d\uff20]/.test(text) || /^[\t\r\n']/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
};
const near = (n) => (n ? [n.distance, n.generator, n.source, n.key] : ["", "", "", ""]);
const COLUMNS = [
  "file", "status", "verdict", "score", "probability", "attribution", "reasons", "reason_codes", "notes", "width", "height", "format", "sha256", "detector",
  "real_below", "fake_above", "max_fpr", "max_miss", "confidence", "fake_distance", "fake_generator", "fake_source", "fake_key",
  "real_distance", "real_generator", "real_source", "real_key", "content_credentials", "origin_claims", "error", "message", "judged",
];
const csv = (items) => {
  const lines = items.map((item) => {
    const row = item.row;
    if (!row) return [item.name, item.state, ...Array(27).fill(""), item.problem?.code, item.problem?.message, item.when?.toISOString()];
    return [
      item.name, "ok", row.verdict, row.score, row.probability, row.attribution, row.reasons.join("; "), row.reason_codes.map((r) => r.code).join("; "), row.notes.join("; "), row.width, row.height,
      row.format, row.sha256, row.detector, row.promise.real_below, row.promise.fake_above, row.promise.max_fpr, row.promise.max_miss, row.promise.confidence,
      ...near(row.nearest_fake[0]), ...near(row.nearest_real[0]), row.provenance?.c2pa, row.provenance?.claims.join("; "), "", "", item.when.toISOString(),
    ];
  });
  return `\ufeff${[COLUMNS, ...lines].map((line) => line.map(cell).join(",")).join("\r\n")}\r\n`;
};

const download = (text, name, type) => {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = make("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
};
const stem = (items) => {
  const only = items.length === 1 ? items[0] : null;
  const base = only ? `${only.name.replace(/[^\p{L}\p{N}._-]+/gu, "_").slice(0, 60)}-${only.row?.sha256.slice(0, 8) || only.state}` : `${items.length}`;
  return `univfd-${base}-${new Date().toISOString().slice(0, 10)}`;
};
