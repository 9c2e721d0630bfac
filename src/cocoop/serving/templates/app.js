"use strict";

const byId = (id) => document.getElementById(id);
const METHODS = { cocoop: ["CoCoOp", 3], coop: ["CoOp", 2], "zero-shot": ["Zero-shot CLIP", 1] };
const ZERO_SHOT = ["Zero-shot CLIP", 1];
const TOKEN = "cocoop-token";
const TOP = 5;
let health = null;

/** An element with properties and children; text is always text, never markup. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const plural = (count, one, several = `${one}s`) => `${count} ${count === 1 ? one : several}`;

function outcome(answers) {
  const bad = answers.filter((answer) => answer.error).length;
  return `${plural(answers.length - bad, "photo")} classified${bad ? `, ${bad} could not be used` : ""}.`;
}

async function ask(path, body) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", body, headers });
  } catch {
    throw new Error("The server cannot be reached.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw Object.assign(new Error(answer.error?.message ?? `The server answered ${response.status}.`), {
      status: response.status,
    });
  }
  return answer;
}

function predict(files, topK) {
  const form = new FormData();
  for (const file of files) form.append("images", file);
  // Several names may stand in one field, on lines of their own.
  form.append("classes", byId("classes").value.replaceAll(",", "\n"));
  form.append("top_k", topK);
  form.append("compare", String(health.method !== "zero-shot"));
  return ask("v1/predict", form);
}

function say(id, text, isProblem = false) {
  byId(id).textContent = text;
  byId(id).classList.toggle("problem", isProblem);
}

/* Connecting. */

async function connect() {
  try {
    health = await ask("v1/health");
  } catch (error) {
    const isKey = error.status === 401;
    byId("key").hidden = !isKey;
    byId("app").hidden = true;
    byId("about").textContent = isKey && !sessionStorage.getItem(TOKEN) ? "This server is protected." : error.message;
    if (isKey) byId("token").focus();
    return;
  }
  byId("key").hidden = true;
  byId("app").hidden = false;
  const [name] = METHODS[health.method];
  const how = health.method === "zero-shot" ? "for" : "trained on";
  byId("about").textContent = `${name} on ${health.backbone}, ${how} ${plural(health.classes.length, "class", "classes")}.`;
  const shown = health.classes.slice(0, 12).join(", ") + (health.classes.length > 12 ? ", …" : "");
  byId("classes").placeholder = shown;
}

byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId("token").value);
  connect();
});

/* Tabs. */

const tabs = [...document.querySelectorAll("[role=tab]")];

function select(tab) {
  for (const each of tabs) {
    each.setAttribute("aria-selected", String(each === tab));
    each.tabIndex = each === tab ? 0 : -1;
    byId(each.getAttribute("aria-controls")).hidden = each !== tab;
  }
  tab.focus();
}

for (const tab of tabs) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) select(tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length]);
  });
}

/* Choosing photos. */

/** Calls `chosen` with the photos that are dropped on or chosen in a panel. */
function choosing(panel, chosen) {
  const drop = panel.querySelector(".drop");
  const input = drop.querySelector("input");
  input.addEventListener("change", () => {
    if (input.files.length) chosen([...input.files]);
    // The same photos may be chosen again.
    input.value = "";
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    });
  }
  drop.addEventListener("drop", (event) => {
    const files = [...event.dataTransfer.files];
    if (files.length) chosen(files);
  });
}

// Beside the field, a browser would leave the page and show the photo.
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());

/* The tab of photos: they are shown with their answers. */

let photos = [];

function card(file, url, answer) {
  const body = make("div");
  const image = make("img", { src: url, alt: "" });
  image.addEventListener("error", () => image.remove());
  const item = make("li", { className: "answer" }, image, body);
  if (!answer || answer.error) {
    body.append(make("p", { className: "file", textContent: file.name }));
    if (answer) body.append(make("p", { className: "said problem", textContent: answer.error.message }));
    return item;
  }
  const own = METHODS[health.method];
  const isCompared = answer.zero_shot !== null;
  body.append(
    make("h2", { textContent: answer.label }),
    make("p", { className: "file", textContent: file.name }),
  );
  const legend = make("p", { className: "legend" });
  for (const [name, number] of isCompared ? [own, ZERO_SHOT] : [own]) {
    legend.append(make("span", { className: `key method-${number}`, textContent: name }));
  }
  const list = make("dl");
  for (const one of answer.top) {
    const dd = make("dd");
    const rows = [[own[1], one.probability]];
    if (isCompared) rows.push([ZERO_SHOT[1], one.zero_shot]);
    for (const [number, share] of rows) {
      const bar = make("i");
      bar.style.width = `${100 * share}%`;
      dd.append(make("span", { className: `meter method-${number}` }, bar), make("span", { textContent: percent(share) }));
    }
    list.append(make("div", {}, make("dt", { textContent: one.label }), dd));
  }
  body.append(legend, list);
  if (isCompared && answer.zero_shot.label !== answer.label) {
    const other = `Zero-shot CLIP would say ${answer.zero_shot.label} (${percent(answer.zero_shot.probability)}).`;
    body.append(make("p", { className: "shift", textContent: other }));
  }
  if (answer.shift) {
    const far = `Prompt shift: ${answer.shift.relative.toFixed(2)} × the length of a context vector.`;
    body.append(make("p", { className: "shift", textContent: far }));
  }
  return item;
}

function show(answers = []) {
  byId("answers").replaceChildren(...photos.map(({ file, url }, place) => card(file, url, answers[place])));
}

async function classify() {
  byId("classify").disabled = true;
  say("photos-said", "Looking…");
  const now = photos;
  try {
    const { images: answers } = await predict(now.map(({ file }) => file), TOP);
    if (now !== photos) return;
    show(answers);
    say("photos-said", outcome(answers));
  } catch (error) {
    say("photos-said", error.message, true);
  } finally {
    byId("classify").disabled = false;
  }
}

choosing(byId("photos"), (files) => {
  for (const { url } of photos) URL.revokeObjectURL(url);
  photos = files.map((file) => ({ file, url: URL.createObjectURL(file) }));
  show();
  byId("classify").disabled = false;
  say("photos-said", `${plural(files.length, "photo")} chosen.`);
});
byId("classify").addEventListener("click", classify);

/* The tab of many: they are sent in parts, and become a table. */

let many = [];

/** Parts that each fit a request. */
function parts(files) {
  const { max_upload: most, max_images: count } = health.limits;
  const found = [];
  let bytes = 0;
  for (const file of files) {
    // Around each photo stand a few hundred bytes.
    const size = file.size + 1024;
    if (!found.length || found.at(-1).length >= Math.min(count, 16) || bytes + size > 0.9 * most) {
      found.push([]);
      bytes = 0;
    }
    found.at(-1).push(file);
    bytes += size;
  }
  return found;
}

const cell = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

function columns() {
  return [
    ["file", (answer) => answer.file, String],
    ["class", (answer) => answer.label ?? "", String],
    ["probability", (answer) => answer.probability ?? null, percent],
    ...(health.method === "zero-shot"
      ? []
      : [
          ["zero_shot_class", (answer) => answer.zero_shot?.label ?? "", String],
          ["zero_shot_probability", (answer) => answer.zero_shot?.probability ?? null, percent],
        ]),
    ...(health.method === "cocoop" ? [["relative_shift", (answer) => answer.shift?.relative ?? null, (times) => times.toFixed(2)]] : []),
    ["error", (answer) => answer.error?.message ?? "", String],
  ];
}

function tell(answers) {
  const used = columns();
  const text = (value) => (typeof value === "number" ? value.toFixed(6) : (value ?? ""));
  const lines = [used.map(([name]) => name), ...answers.map((answer) => used.map(([, of]) => cell(text(of(answer)))))];
  URL.revokeObjectURL(byId("csv").href);
  const csv = new Blob([lines.map((line) => `${line.join(",")}\r\n`).join("")], { type: "text/csv" });
  byId("csv").href = URL.createObjectURL(csv);
  byId("csv").hidden = false;
  // What is wrong with a photo takes the place of its numbers.
  const shown = used.slice(0, -1);
  byId("columns").replaceChildren(
    make("tr", {}, ...shown.map(([name]) => make("th", { scope: "col", textContent: name.replaceAll("_", " ") }))),
  );
  byId("rows").tBodies[0].replaceChildren(
    ...answers.map((answer) => {
      const row = make("tr", {}, make("th", { scope: "row", textContent: answer.file }));
      if (answer.error) {
        const colSpan = shown.length - 1;
        row.append(make("td", { colSpan, className: "problem", textContent: answer.error.message }));
        return row;
      }
      for (const [, of, words] of shown.slice(1)) row.append(make("td", { textContent: words(of(answer)) }));
      return row;
    }),
  );
  byId("rows").hidden = false;
}

/** The answers to one part; where the server is busy, it is asked again. */
async function answersTo(part) {
  if (part.length === 1 && part[0].size > health.limits.max_upload) {
    return [{ file: part[0].name, error: { message: "The photo is larger than this server takes." } }];
  }
  for (;;) {
    try {
      return (await predict(part, 1)).images;
    } catch (error) {
      if (error.status !== 429) throw error;
      await new Promise((resume) => setTimeout(resume, 1000));
    }
  }
}

async function runAll() {
  byId("run").disabled = true;
  const answers = [];
  byId("progress").hidden = false;
  byId("progress").max = many.length;
  try {
    for (const part of parts(many)) {
      byId("progress").value = answers.length;
      say("batch-said", `${answers.length} of ${many.length}`);
      answers.push(...(await answersTo(part)));
    }
    say("batch-said", outcome(answers));
  } catch (error) {
    say("batch-said", `${answers.length} of ${many.length} done. ${error.message}`, true);
  } finally {
    if (answers.length) tell(answers);
    byId("progress").hidden = true;
    byId("run").disabled = false;
  }
}

choosing(byId("batch"), (files) => {
  many = files;
  byId("run").disabled = false;
  say("batch-said", `${plural(files.length, "photo")} chosen.`);
});
byId("run").addEventListener("click", runAll);

connect();
