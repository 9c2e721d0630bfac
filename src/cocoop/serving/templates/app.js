"use strict";

const byId = (id) => document.getElementById(id);
const METHODS = { cocoop: ["CoCoOp", 3], coop: ["CoOp", 2], "zero-shot": ["Zero-shot CLIP", 1] };
const ZERO_SHOT = ["Zero-shot CLIP", 1];
const TOKEN = "cocoop-token";
const TOP = 5;
let health = null;

/** Create an element. Strings among the children become text, never markup. */
function create(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const percent = (fraction) => `${(100 * fraction).toFixed(1)} %`;
const plural = (count, one, several = `${one}s`) => `${count} ${count === 1 ? one : several}`;

function summary(results) {
  const unreadable = results.filter((result) => result.error).length;
  const suffix = unreadable ? `, ${unreadable} could not be read` : "";
  return `${plural(results.length - unreadable, "photo")} classified${suffix}.`;
}

/** Send a request and return its JSON, or throw an error with a message for the user. */
async function request(path, body) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", body, headers });
  } catch {
    throw new Error("Could not reach the server.");
  }
  const content = await response.json().catch(() => ({}));
  if (!response.ok) {
    const message = content.error?.message ?? `The server answered with status ${response.status}.`;
    throw Object.assign(new Error(message), { status: response.status });
  }
  return content;
}

function predict(files, topK) {
  const form = new FormData();
  for (const file of files) form.append("images", file);
  // One field may hold several names, on separate lines.
  form.append("classes", byId("classes").value.replaceAll(",", "\n"));
  form.append("top_k", topK);
  form.append("compare", String(health.method !== "zero-shot"));
  return request("v1/predict", form);
}

function setStatus(id, text, isProblem = false) {
  byId(id).textContent = text;
  byId(id).classList.toggle("problem", isProblem);
}

/* Connection */

async function connect() {
  try {
    health = await request("v1/health");
  } catch (error) {
    const needsToken = error.status === 401;
    const isFirst = needsToken && !sessionStorage.getItem(TOKEN);
    byId("key").hidden = !needsToken;
    byId("app").hidden = true;
    byId("about").textContent = isFirst ? "This server is protected." : error.message;
    if (needsToken) byId("token").focus();
    return;
  }
  byId("key").hidden = true;
  byId("app").hidden = false;
  const [name] = METHODS[health.method];
  const verb = health.method === "zero-shot" ? "for" : "trained on";
  byId("about").textContent = `${name} on ${health.backbone}, ${verb} ${plural(health.classes.length, "class", "classes")}.`;
  const shown = health.classes.slice(0, 12).join(", ") + (health.classes.length > 12 ? ", …" : "");
  byId("classes").placeholder = shown;
}

byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId("token").value);
  connect();
});

/* Tabs */

const tabs = [...document.querySelectorAll("[role=tab]")];

function select(tab) {
  for (const other of tabs) {
    other.setAttribute("aria-selected", String(other === tab));
    other.tabIndex = other === tab ? 0 : -1;
    byId(other.getAttribute("aria-controls")).hidden = other !== tab;
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

/* Choosing files */

/** Call `onChoose` with the files that are dropped on a panel or chosen in it. */
function listenForFiles(panel, onChoose) {
  const drop = panel.querySelector(".drop");
  const input = drop.querySelector("input");
  input.addEventListener("change", () => {
    if (input.files.length) onChoose([...input.files]);
    // Allow choosing the same files again.
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
    if (files.length) onChoose(files);
  });
}

// Outside the panel, the browser would leave the page and open the dropped file.
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());

/* Tab "Photos": images with their results */

let images = [];

function card(file, url, result) {
  const body = create("div");
  const image = create("img", { src: url, alt: "" });
  image.addEventListener("error", () => image.remove());
  const item = create("li", { className: "answer" }, image, body);
  if (!result || result.error) {
    body.append(create("p", { className: "file", textContent: file.name }));
    if (result) body.append(create("p", { className: "status problem", textContent: result.error.message }));
    return item;
  }
  const own = METHODS[health.method];
  const isCompared = result.zero_shot !== null;
  body.append(
    create("h2", { textContent: result.label }),
    create("p", { className: "file", textContent: file.name }),
  );
  const legend = create("p", { className: "legend" });
  for (const [name, number] of isCompared ? [own, ZERO_SHOT] : [own]) {
    legend.append(create("span", { className: `key method-${number}`, textContent: name }));
  }
  const list = create("dl");
  for (const entry of result.top) {
    const dd = create("dd");
    const rows = [[own[1], entry.probability]];
    if (isCompared) rows.push([ZERO_SHOT[1], entry.zero_shot]);
    for (const [number, probability] of rows) {
      const bar = create("i");
      bar.style.width = `${100 * probability}%`;
      dd.append(create("span", { className: `meter method-${number}` }, bar), create("span", { textContent: percent(probability) }));
    }
    list.append(create("div", {}, create("dt", { textContent: entry.label }), dd));
  }
  body.append(legend, list);
  if (isCompared && result.zero_shot.label !== result.label) {
    const text = `Zero-shot CLIP: ${result.zero_shot.label} (${percent(result.zero_shot.probability)}).`;
    body.append(create("p", { className: "shift", textContent: text }));
  }
  if (result.shift) {
    const text = `Prompt shift: ${result.shift.relative.toFixed(2)} × the length of a context vector.`;
    body.append(create("p", { className: "shift", textContent: text }));
  }
  return item;
}

function showCards(results = []) {
  byId("answers").replaceChildren(...images.map(({ file, url }, index) => card(file, url, results[index])));
}

async function classify() {
  byId("classify").disabled = true;
  setStatus("photos-status", "Classifying…");
  const current = images;
  try {
    const response = await predict(current.map(({ file }) => file), TOP);
    // Other files may have been chosen meanwhile.
    if (current !== images) return;
    showCards(response.images);
    setStatus("photos-status", summary(response.images));
  } catch (error) {
    setStatus("photos-status", error.message, true);
  } finally {
    byId("classify").disabled = false;
  }
}

listenForFiles(byId("photos"), (files) => {
  for (const { url } of images) URL.revokeObjectURL(url);
  images = files.map((file) => ({ file, url: URL.createObjectURL(file) }));
  showCards();
  byId("classify").disabled = false;
  setStatus("photos-status", `${plural(files.length, "photo")} chosen.`);
});
byId("classify").addEventListener("click", classify);

/* Tab "Batch": many images, sent in chunks, with a table and a CSV file of results */

let manyFiles = [];

/** Divide files into chunks that each fit a request. */
function chunksOf(files) {
  const { max_upload: maxBytes, max_images: maxImages } = health.limits;
  const chunks = [];
  let bytes = 0;
  for (const file of files) {
    // Allow for the header of each part of the form.
    const size = file.size + 1024;
    if (!chunks.length || chunks.at(-1).length >= Math.min(maxImages, 16) || bytes + size > 0.9 * maxBytes) {
      chunks.push([]);
      bytes = 0;
    }
    chunks.at(-1).push(file);
    bytes += size;
  }
  return chunks;
}

const csvCell = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

/** Columns of the table and of the CSV file: name, value of a result, text of a value in the table. */
function columns() {
  return [
    ["file", (result) => result.file, String],
    ["class", (result) => result.label ?? "", String],
    ["probability", (result) => result.probability ?? null, percent],
    ...(health.method === "zero-shot"
      ? []
      : [
          ["zero_shot_class", (result) => result.zero_shot?.label ?? "", String],
          ["zero_shot_probability", (result) => result.zero_shot?.probability ?? null, percent],
        ]),
    ...(health.method === "cocoop"
      ? [["relative_shift", (result) => result.shift?.relative ?? null, (times) => times.toFixed(2)]]
      : []),
    ["error", (result) => result.error?.message ?? "", String],
  ];
}

function showTable(results) {
  const all = columns();
  const text = (value) => (typeof value === "number" ? value.toFixed(6) : (value ?? ""));
  const rows = results.map((result) => all.map(([, value]) => csvCell(text(value(result)))));
  const lines = [all.map(([name]) => name), ...rows].map((cells) => `${cells.join(",")}\r\n`);
  URL.revokeObjectURL(byId("csv").href);
  byId("csv").href = URL.createObjectURL(new Blob([lines.join("")], { type: "text/csv" }));
  byId("csv").hidden = false;
  // In the table, an error replaces the other columns.
  const shown = all.slice(0, -1);
  byId("columns").replaceChildren(
    create("tr", {}, ...shown.map(([name]) => create("th", { scope: "col", textContent: name.replaceAll("_", " ") }))),
  );
  byId("rows").tBodies[0].replaceChildren(
    ...results.map((result) => {
      const row = create("tr", {}, create("th", { scope: "row", textContent: result.file }));
      if (result.error) {
        const colSpan = shown.length - 1;
        row.append(create("td", { colSpan, className: "problem", textContent: result.error.message }));
        return row;
      }
      for (const [, value, format] of shown.slice(1)) {
        row.append(create("td", { textContent: format(value(result)) }));
      }
      return row;
    }),
  );
  byId("rows").hidden = false;
}

/** Classify one chunk; retry while the server is busy. */
async function predictChunk(files) {
  if (files.length === 1 && files[0].size > health.limits.max_upload) {
    return [{ file: files[0].name, error: { message: "The photo is larger than this server accepts." } }];
  }
  for (;;) {
    try {
      return (await predict(files, 1)).images;
    } catch (error) {
      if (![429, 503].includes(error.status)) throw error;
      await new Promise((resume) => setTimeout(resume, 1000));
    }
  }
}

async function runAll() {
  byId("run").disabled = true;
  const results = [];
  byId("progress").hidden = false;
  byId("progress").max = manyFiles.length;
  try {
    for (const files of chunksOf(manyFiles)) {
      byId("progress").value = results.length;
      setStatus("batch-status", `${results.length} of ${manyFiles.length}`);
      results.push(...(await predictChunk(files)));
    }
    setStatus("batch-status", summary(results));
  } catch (error) {
    setStatus("batch-status", `${results.length} of ${manyFiles.length} classified. ${error.message}`, true);
  } finally {
    if (results.length) showTable(results);
    byId("progress").hidden = true;
    byId("run").disabled = false;
  }
}

listenForFiles(byId("batch"), (files) => {
  manyFiles = files;
  byId("run").disabled = false;
  setStatus("batch-status", `${plural(files.length, "photo")} chosen.`);
});
byId("run").addEventListener("click", runAll);

connect();
