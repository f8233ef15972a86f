"use strict";
const at = (id) => document.getElementById(id);
const AT_ONCE = 4;
const state = { items: [], next: 1, shown: null, key: "", about: null, provenance: true, running: 0, sort: null, down: false, ended: new AbortController(), reported: null };
const tell = (text) => { at("status").textContent = text; };

// --- the beginning: who answers ---
const introduce = async () => {
  for (;;) {
    try {
      state.about = await ask("v1/detectors");
      at("key-form").hidden = !state.key;
      tell(say("ready"));
      again(["unauthorized", "not-ready", "unreachable"]);
      break;
    } catch (error) {
      if (error.problem.code === "unauthorized") {
        at("key-form").hidden = false;
        tell(say(state.key ? "key_wrong" : "e_unauthorized"));
        return;
      }
      tell(error.problem.code === "not-ready" ? say("starting") : error.problem.code === "unreachable" ? say("unreachable") : plain(error.problem.message));
      await pause(error.retry || 5);
    }
  }
  about();
};
const about = () => {
  if (!state.about) return;
  const { limits, detectors } = state.about;
  const text = say("limits", { mb: whole(limits.max_bytes / 1e6), mp: whole(limits.max_pixels / 1e6) });
  at("limits").textContent = state.about.feedback ? `${text} ${say("limits_feedback")}` : text;
  at("identity").textContent = `${say("f_detector")}: ${detectors[0].identity}.`;
};

// --- the list ---
const add = (files) => {
  if (!files.length) { tell(say("nothing")); return; }
  for (const file of files) {
    const item = { id: state.next, file, name: file.name || say("web_name"), url: URL.createObjectURL(file), state: "waiting" };
    state.next += 1;
    state.items.push(item);
    fill(item);
  }
  if (state.items.length === 1) show(state.items[0], false);
  else if (state.items.length === files.length) show(null);
  overview();
  start();
};
const start = () => { for (let n = state.running; n < AT_ONCE; n += 1) work(); };
const again = (codes) => { // what failed for want of a key or a service, once there is one
  for (const item of state.items.filter((i) => i.state === "failed" && codes.includes(i.problem.code))) {
    Object.assign(item, { state: "waiting", problem: null, when: undefined });
    fill(item);
    if (state.shown === item) show(item, false);
  }
  overview();
  start();
};
const work = async () => {
  const { signal } = state.ended;
  state.running += 1;
  try {
    for (let item; (item = state.items.find((i) => i.state === "waiting")) && !signal.aborted; ) {
      item.state = "asking";
      fill(item);
      try {
        const most = state.about?.limits.max_bytes;
        if (most && item.file.size > most) throw new Refused({ code: "too-large", message: `${item.file.size} bytes; at most ${most}`, what_to_do: "" });
        item.row = await judge(item);
        item.state = "done";
      } catch (error) {
        if (error.name === "AbortError") return;
        item.problem = error.problem || { code: "other", message: String(error), what_to_do: "" };
        item.state = "failed";
        if (item.problem.code === "unauthorized") at("key-form").hidden = false;
      }
      if (signal.aborted) return;
      item.when = new Date();
      fill(item);
      if (state.shown === item) show(item, false);
      overview(item);
    }
  } finally {
    if (!signal.aborted) {
      state.running -= 1;
      if (!state.running) order();
    }
  }
};
const overview = (last = null) => {
  const all = state.items.length, done = state.items.filter((i) => i.when).length;
  at("batch").hidden = all < 2;
  at("progress").hidden = !all || done === all;
  Object.assign(at("progress"), { max: all || 1, value: done });
  at("progress").setAttribute("aria-label", say("progress", { done, all }));
  at("counts").textContent = say("counts", tally(state.items));
  at("csv").disabled = at("report-all").disabled = done < all;
  if (!all) return;
  if (done < all) { if (all === 1 || done % 5 === 0) tell(say("progress", { done, all })); }
  else if (all > 1) tell(say("finished", { counts: say("counts", tally(state.items)) }));
  else if (last) tell(say("said", { file: plain(last.name), verdict: say(verdictOf(last)) }));
};

// --- one picture ---
const show = (item, focus = true) => {
  state.shown = item;
  for (const other of state.items) other.line.classList.toggle("shown", other === item);
  const box = at("detail");
  box.hidden = !item;
  if (!item) { box.replaceChildren(); return; }
  const title = make("h2", { id: "detail-title", class: "file", tabindex: "-1" }, make("bdi", { text: plain(item.name) }));
  const parts = item.state === "failed" ? [problem(item)] : item.state === "done" ? judged(item) : [badge(item)];
  box.replaceChildren(title, ...parts.filter(Boolean));
  if (focus) title.focus();
};
const judged = (item) => {
  const copied = make("span", { role: "status" });
  const quote = make("p", { class: "sentence", id: "quote", text: sentence(item) });
  return [
    make("div", { class: "columns" },
      make("div", {}, preview(item), heatPart(item)),
      make("div", {}, headline(item), bar(item.row), webCopy(item))),
    neighbours(item.row), origin(item), facts(item),
    make("h3", { text: say("sentence") }), quote,
    make("p", { class: "tools" },
      make("button", { type: "button", id: "copy", text: say("copy"), on: { click: () => copy(quote, copied) } }),
      make("button", { type: "button", id: "report-one", text: say("report_one"), on: { click: () => openReport([item]) } }), copied),
    wrongPart(item),
  ];
};
const preview = (item) => {
  const image = make("img", { src: item.url, alt: say("preview", { file: plain(item.name) }) });
  const box = make("figure", { class: "picture" }, image);
  box.style.aspectRatio = `${item.row.width} / ${item.row.height}`;
  image.addEventListener("error", () => image.replaceWith(make("p", { class: "quiet", text: say("no_preview") })));
  if (!item.heat?.src) return box;
  // The map's picture has a legend below it and may be wider than the picture: only the part over the picture is shown.
  const map = make("img", { src: item.heat.src, alt: say("heat_caption") });
  const scale = Math.min(1, item.heat.side / Math.max(item.row.width, item.row.height));
  map.addEventListener("load", () => { map.style.width = `${(100 * map.naturalWidth) / Math.round(item.row.width * scale)}%`; });
  const over = make("div", { class: "overlay" }, map);
  over.style.opacity = String(item.heat.strength / 100);
  box.append(over);
  return box;
};
const heatPart = (item) => {
  const box = make("div", { id: "heat" });
  if (!state.about?.detectors[0].heatmaps) return make("p", { class: "quiet", text: say("heat_none") });
  if (item.heat?.src) {
    const slider = make("input", { type: "range", id: "strength", min: "0", max: "100", value: String(item.heat.strength) });
    slider.addEventListener("input", () => {
      item.heat.strength = Number(slider.value);
      at("detail").querySelector(".overlay").style.opacity = String(item.heat.strength / 100);
    });
    box.append(make("p", { class: "slider" }, make("label", { for: "strength", text: say("heat_slider") }), slider),
      make("div", { class: "scale", "aria-hidden": "true" }), make("div", { class: "ends" }, make("span", { text: say("heat_real") }), make("span", { text: say("heat_fake") })),
      make("p", { class: "quiet", text: say("heat_caption") }));
  } else if (item.heat?.asking) box.append(make("p", { text: say("heat_wait") }));
  else {
    if (item.heat?.failed) box.append(make("p", { text: say("heat_failed", { why: plain(item.heat.failed) }) }));
    box.append(make("p", {}, make("button", { type: "button", id: "heat-button", text: say("heat"), on: { click: () => drawHeat(item) } })));
  }
  return box;
};
const drawHeat = async (item) => {
  item.heat = { asking: true };
  show(item, false);
  at("detail-title").focus();
  tell(say("heat_wait"));
  try {
    const row = await judge(item, true);
    item.heat = { src: `data:image/png;base64,${row.heatmap.base64}`, side: 1024, strength: 70 };
    tell(say("heat_done"));
  } catch (error) {
    if (error.name === "AbortError") return;
    item.heat = { failed: error.problem?.message || String(error) };
    tell(say("heat_failed", { why: plain(item.heat.failed) }));
  }
  if (state.shown !== item) return;
  show(item, false);
  if (at("strength") && document.activeElement === document.body) at("strength").focus();
};
const copy = async (quote, told) => {
  try {
    await navigator.clipboard.writeText(quote.textContent);
    told.textContent = say("copied");
  } catch { // not on plain HTTP
    getSelection().selectAllChildren(quote);
    told.textContent = document.execCommand("copy") ? say("copied") : say("copy_failed");
  }
};

// --- the report ---
const openReport = async (items) => {
  tell(say("report_wait"));
  state.reported = { items, from: document.activeElement?.id };
  at("paper").replaceChildren(await report(items));
  tell("");
  at("work").hidden = true;
  at("report").hidden = false;
  document.body.classList.add("reporting");
  scrollTo(0, 0);
  at("report-title").focus();
};
const closeReport = () => {
  const from = state.reported?.from;
  state.reported = null;
  at("paper").replaceChildren();
  at("report").hidden = true;
  at("work").hidden = false;
  document.body.classList.remove("reporting");
  if (from && at(from)) at(from).focus();
};
const clear = () => {
  state.ended.abort();
  state.ended = new AbortController();
  for (const item of state.items) URL.revokeObjectURL(item.url);
  Object.assign(state, { items: [], running: 0, sort: null, down: false });
  at("rows").replaceChildren();
  heads();
  show(null);
  overview();
  tell(say("cleared"));
  at("files").focus();
};

// --- language, beginning ---
const speak = async (name) => {
  language = name;
  document.documentElement.lang = name;
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = say(node.dataset.t);
  at("language").value = name;
  heads();
  about();
  state.items.forEach(fill);
  show(state.shown, false);
  overview(state.items[0]);
  if (!state.items.length) tell(state.about ? say("ready") : at("key-form").hidden ? say("starting") : say("e_unauthorized"));
  if (state.reported) at("paper").replaceChildren(await report(state.reported.items));
};
at("language").append(...Object.entries(WORDS).map(([value, words]) => make("option", { value, lang: value, text: words.name })));
at("language").addEventListener("change", (event) => speak(event.target.value));
at("files").addEventListener("change", (event) => { add([...event.target.files]); event.target.value = ""; });
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = at("key").value.trim();
  at("key").value = "";
  introduce();
});
const drop = at("drop");
addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (at("work").hidden) return;
  add([...event.dataTransfer.files]);
});
addEventListener("paste", (event) => {
  if (event.target.closest?.("input[type=password]") || at("work").hidden) return;
  add([...event.clipboardData.files]);
});
at("csv").addEventListener("click", () => download(csv(state.items), `${stem(state.items)}.csv`, "text/csv;charset=utf-8"));
at("report-all").addEventListener("click", () => openReport([...state.items]));
at("clear").addEventListener("click", clear);
at("back").addEventListener("click", closeReport);
at("print").addEventListener("click", () => print());
at("save").addEventListener("click", () => {
  const { items } = state.reported;
  download(reportFile(at("paper").firstElementChild, reportTitle(items)), `${stem(items)}.html`, "text/html;charset=utf-8");
});
speak(navigator.languages.map((l) => l.slice(0, 2)).find((l) => l in WORDS) || "en");
introduce();
