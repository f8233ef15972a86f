"use strict";
// Reporting a wrong verdict, where the service takes reports. It stores the picture then, so it is asked first.
const wrongPart = (item) => {
  if (!state.about?.feedback) return null;
  item.wrong ??= { open: false, truth: "", note: "", status: "" };
  const { open, status, why } = item.wrong;
  const box = make("section", { id: "wrong" });
  const told = make("p", { id: "wrong-told", role: "status", tabindex: "-1" });
  if (status === "failed") told.append(say("wrong_failed"), " ", knows(why) ? say(why) : serverText("span", why));
  else if (status) told.textContent = say(`wrong_${status}`);
  if (open) box.append(make("h3", { text: say("wrong") }), wrongForm(item));
  else if (["", "failed"].includes(status)) {
    box.append(make("p", {}, make("button", { type: "button", id: "wrong-button", text: say("wrong"), on: { click: () => openWrong(item) } })));
  }
  box.append(told);
  return box;
};
const wrongForm = (item) => {
  const { wrong } = item;
  const could = ["real", "fake"].filter((truth) => truth !== item.row.verdict);
  if (could.length === 1) [wrong.truth] = could;
  const choice = (truth) => {
    const input = make("input", { type: "radio", name: "wrong-truth", value: truth, required: true });
    input.checked = wrong.truth === truth;
    input.addEventListener("change", () => { wrong.truth = truth; });
    return make("label", {}, input, ` ${say(`short_${truth}`)}`);
  };
  const note = make("input", { type: "text", id: "wrong-note", maxlength: "200", autocomplete: "off" });
  note.value = wrong.note;
  note.addEventListener("input", () => { wrong.note = note.value; });
  const form = make("form", { id: "wrong-form" }, make("p", { text: say("wrong_explain") }),
    make("fieldset", {}, make("legend", { text: say("wrong_truth") }), ...could.map(choice)),
    make("p", {}, make("label", { for: "wrong-note", text: say("wrong_note") }), note),
    make("p", {}, make("label", {}, make("input", { type: "checkbox", id: "wrong-agree", required: true }), ` ${say("wrong_agree")}`)),
    make("p", { class: "tools" }, make("button", { id: "wrong-send", text: say("wrong_send") }),
      make("button", { type: "button", id: "wrong-cancel", text: say("wrong_cancel"), on: { click: () => endWrong(item, "") } })));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (form.querySelector("#wrong-agree").checked) sendWrong(item, form);
  });
  return form;
};
const openWrong = (item) => {
  Object.assign(item.wrong, { open: true, status: "" });
  show(item, false);
  at("wrong-form").querySelector("input").focus();
};
const endWrong = (item, status, why = "") => {
  Object.assign(item.wrong, { open: false, status, why });
  if (state.shown !== item) return;
  show(item, false);
  at(status ? "wrong-told" : "wrong-button").focus();
};
const sendWrong = async (item, form) => {
  for (const control of form.elements) control.disabled = true;
  at("wrong-told").textContent = say("wrong_sending");
  const { truth, note } = item.wrong;
  try {
    const said = await post(`v1/feedback?${new URLSearchParams({ truth, note })}`, item.file);
    endWrong(item, said.status);
  } catch (error) {
    if (error.name === "AbortError") return;
    const key = `e_${error.problem?.code}`;
    endWrong(item, "failed", knows(key) ? key : error.problem?.message || String(error));
  }
};
