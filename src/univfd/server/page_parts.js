"use strict";
// Parts of a judged picture, as elements; used on the page and in the report. Data only ever becomes text.
const make = (tag, options = {}, ...inside) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") node.textContent = value;
    else if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...inside.filter((part) => part !== null));
  return node;
};
// Line breaks and marks that turn the direction of text would make a name look like another one.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const plain = (name) => name.replace(HIDDEN, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
const joined = (remarks) => remarks.map((r) => plain(r.text)).join("; ");
const remarked = (r) => make("li", { lang: r.lang, text: plain(r.text) });
const serverText = (tag, text) => make(tag, { lang: english(), text: plain(text) });
const oneThreshold = (promise) => promise.real_below === promise.fake_above;
const verdictOf = (item) => (item.state === "done" ? item.row.verdict : item.state);
const badge = (item) => make("span", { class: `verdict ${verdictOf(item)}`, text: say(verdictOf(item)) });

const promiseText = ({ verdict, promise }) => {
  if (promise.max_fpr === null) return say("promise_none");
  const rates = [say("promise_fpr", { fpr: percent(promise.max_fpr) })];
  if (promise.max_miss !== null) rates.push(say("promise_miss", { miss: percent(promise.max_miss) }));
  if (verdict === "real") rates.reverse();
  if (verdict === "unsure") rates.unshift(say("promise_void"));
  return rates.join(" ");
};
const basisText = ({ promise }) => promise.max_fpr === null ? "" : say("promise_basis", {
  confidence: percent(promise.confidence), real: whole(promise.n_real), fake: whole(promise.n_fake), data: plain(promise.data),
});

const headline = (item) => {
  const { row } = item;
  const box = make("div", {}, make("p", { class: `headline ${row.verdict}`, text: say(row.verdict) }));
  if (row.verdict === "real") box.append(make("p", { text: say("real_means") }));
  if (row.verdict === "unsure") {
    box.append(make("p", { text: say("unsure_means") }));
    box.append(make("ul", {}, ...reasons(row).map(remarked)));
  }
  box.append(make("p", { class: "promise", text: promiseText(row) }));
  const basis = basisText(row);
  if (basis) box.append(make("p", { class: "quiet", text: basis }));
  return box;
};

const bar = ({ score, promise }) => {
  const { real_below: low, fake_above: high } = promise;
  const middle = (low + high) / 2;
  const reach = Math.max((high - low) * 1.5, Math.abs(score - middle) * 1.15, 1e-6);
  const place = (value) => 50 + (50 * (value - middle)) / reach;
  const box = make("div", { class: "bar", role: "img", "aria-label": say("bar", { score: number(score), low: number(low), high: number(high) }) });
  const put = (name, text, styles) => {
    const node = make("div", { class: name, text });
    Object.assign(node.style, styles);
    box.append(node);
  };
  const [left, right] = [place(low), place(high)];
  const zone = (kind, from, to) => put(`zone ${kind}`, to - from > 18 ? say(`short_${kind}`) : "", { left: `${from}%`, width: `${to - from}%` });
  zone("real", 0, left);
  if (right > left) zone("unsure", left, right);
  zone("fake", right, 100);
  put("tick", "", { left: `calc(${left}% - 1px)` });
  if (oneThreshold(promise)) put("at", say("threshold", { value: number(low) }), { left: `calc(${left}% + .3rem)` });
  else {
    put("tick", "", { left: `calc(${right}% - 1px)` });
    put("at", say("real_below", { value: number(low) }), { right: `calc(${100 - left}% + -.4rem)`, textAlign: "right" });
    put("at", say("fake_above", { value: number(high) }), { left: `calc(${right}% - .4rem)` });
  }
  put("needle", "", { left: `${place(score)}%` });
  const at = Math.min(88, Math.max(12, place(score)));
  put("mark", `${say("score")} ${number(score)}`, { left: `${at}%` });
  return make("div", {}, box, make("p", { class: "quiet", text: say("score_hint") }));
};

const NUMERIC = ["n_distance", "h_score", "h_probability", "h_size"];
const table = (caption, heads, rows) => make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
  make("table", {},
    make("thead", {}, make("tr", {}, ...heads.map((h) => make("th", { scope: "col", class: NUMERIC.includes(h) ? "number" : undefined, text: say(h) })))),
    make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells)))));

const neighbours = (row, most = 3, full = false) => {
  const line = (n) => [
    make("td", {}, make("span", { class: `verdict ${n.label}`, text: say(`short_${n.label}`) })),
    make("td", { class: "number", text: number(n.distance, 3) }),
    make("td", { text: plain(n.generator) || "–" }),
    make("td", { text: plain(n.source) || "–" }),
    make("td", {}, make("code", { text: full ? n.key : n.key.slice(0, 8) })),
  ];
  const near = [...row.nearest_fake.slice(0, most), ...row.nearest_real.slice(0, most)].sort((a, b) => a.distance - b.distance);
  const box = make("section", {}, make("h3", { text: say("evidence") }));
  if (!near.length) box.append(make("p", { text: say("evidence_none") }));
  else box.append(table(say("evidence"), ["n_class", "n_distance", "n_generator", "n_source", "n_key"], near.map(line)));
  box.append(make("p", { class: "quiet", text: say("evidence_hint") }));
  return box;
};

const SMALL_COPY = 1280; // cameras write more on the long side, web sites and messengers often send no more
const LOSSY = ["JPEG", "WEBP", "AVIF", "HEIF"];
const webCopy = ({ row }) => {
  const codes = row.reason_codes.map((r) => r.code);
  const why = [];
  const small = Math.max(row.width, row.height) <= SMALL_COPY && LOSSY.includes(row.format);
  const camera = (row.provenance?.claims || []).length > 0; // copies have mostly lost that
  const reduced = codes.includes("small") || codes.includes("tiny");
  if (reduced || (small && !camera)) why.push(say("web_small", { w: row.width, h: row.height, format: plain(row.format) }));
  if (codes.includes("recompressed")) why.push(say("web_recompressed"));
  if (codes.includes("upscaled")) why.push(say("web_upscaled"));
  const sure = reduced || why.length > 1 || !small;
  return why.length ? make("p", { class: "warning", text: say(sure ? "web_copy" : "web_maybe", { why: why.join(say("and")) }) }) : null;
};

const claimsText = (found) => found && found.claims.length
  ? say("claims", { claims: found.claims.map((c) => (knows(c) ? say(c) : c)).join(", ") }) : say(found?.c2pa === "not-read" ? "claims_unread" : "claims_none");
const finding = (f) => make("li", { lang: english() },
  make("strong", { text: plain(f.found) }), " ", make("span", { class: "quiet", lang: language, text: say("origin_where", { where: plain(f.where) }) }),
  make("br"), plain(f.meaning), make("br"),
  make("span", { class: "quiet", text: say("origin_forge", { who: plain(f.forgery) }) }),
  Object.keys(f.details).length ? make("details", {}, make("summary", { lang: language, text: say("origin_details") }),
    make("dl", {}, ...Object.entries(f.details).flatMap(([k, v]) => [make("dt", { text: plain(k) }), make("dd", { text: plain(v) })]))) : null);
const origin = ({ row }, open = false) => {
  const box = make("section", { class: "origin" }, make("h3", { text: say("origin") }), make("p", { class: "quiet", text: say("origin_hint") }));
  const found = row.provenance;
  if (!found) {
    box.append(make("p", { text: say(found === undefined ? "origin_off" : "origin_failed") }));
    return box;
  }
  const c2pa = `c2pa_${found.c2pa}`;
  box.append(make("p", {}, make("strong", { text: claimsText(found) })));
  box.append(make("p", { text: `${say("c2pa")}: ${knows(c2pa) ? say(c2pa) : found.c2pa}` }));
  if (found.findings.length) box.append(make("ul", {}, ...found.findings.map(finding)));
  box.append(make("p", { class: "quiet", text: say("origin_absent") }));
  box.append(make("details", {}, make("summary", { text: say("origin_not_checked") }), make("ul", {}, ...found.not_checked.map((t) => serverText("li", t)))));
  if (open) for (const part of box.querySelectorAll("details")) part.open = true;
  return box;
};

const facts = (item) => {
  const { row } = item;
  const lines = [
    ["f_file", plain(item.name)], ["f_sha", row.sha256],
    ["f_size", say("f_bytes", { w: row.width, h: row.height, format: plain(row.format), bytes: whole(item.file.size) })],
    row.attribution ? ["attribution", row.attribution === "unknown generator" ? say("unknown_generator") : plain(row.attribution)] : null,
    row.probability === null ? null : ["probability", say("probability_of", { p: percent(row.probability) })],
    ["f_thresholds", oneThreshold(row.promise) ? number(row.promise.real_below, 4) : say("f_thresholds_of", { low: number(row.promise.real_below, 4), high: number(row.promise.fake_above, 4) })],
    ["score", number(row.score, 4)], ["f_detector", plain(row.detector)], ["f_view", plain(row.view)], ["f_bank", plain(row.space)],
    ["f_date", date(item.when)], row.notes.length ? ["f_notes", joined(notes(row))] : null,
  ].filter(Boolean);
  return make("section", {}, make("h3", { text: say("facts") }),
    make("dl", {}, ...lines.flatMap(([key, value]) => [make("dt", { text: say(key) }), make("dd", { text: value })])));
};

const sentence = (item) => {
  const { row } = item;
  const { max_fpr: fpr, n_real: n, confidence } = row.promise;
  const promise = fpr === null ? say("promise_none") : say("sentence_fpr", { fpr: percent(fpr), n: whole(n), confidence: percent(confidence) });
  const result = say(`sentence_${row.verdict}`, { promise, why: joined(reasons(row)) });
  return say("sentence_of", { file: plain(item.name), sha: row.sha256, detector: plain(row.detector), date: item.when.toISOString(), result });
};

const problem = (item) => {
  const key = `e_${item.problem.code}`;
  return make("div", {}, make("p", { class: "headline failed", text: say(knows(key) ? key : "e_other") }),
    item.problem.message ? serverText("p", item.problem.message) : null,
    item.problem.what_to_do ? make("p", { lang: english(), text: say("tell", { what: item.problem.what_to_do }) }) : null);
};
