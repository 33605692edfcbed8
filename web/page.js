// The page: takes a file, shows what the worker makes of it. All work is the worker's.

import { draw as drawRegions, meanColor, palette } from "./regions.js";
import { areas as areasOf } from "./semantic.js";

const byId = (id) => document.getElementById(id);
const [file, drop, status, error, view, facts, compare, left, split, save, make, quality, level, gic] = [
  "file", "drop", "status", "error", "view", "facts", "compare", "left", "split", "save", "make", "quality", "level", "gic",
].map(byId);
const canvases = { original: byId("original"), preview: byId("preview"), decoded: byId("decoded") };
const [overlay, toggle, shown, count, table] = ["regions", "toggle", "shown", "count", "areas"].map(byId);
const SETTLED = 400; // milliseconds after which a quality counts
let worker = null;
let waiting = 0;
let busy = false;
let chosen = null;
let name = "image";
let regions = null;
let drawn = 0; // images so far

function open(given) {
  if (!given) return;
  chosen = given;
  name = given.name.replace(/\.[^.]*$/, "") || "image";
  restart();
}

/** A new worker for the chosen file: whatever the last one was at ends here. */
function restart() {
  clearTimeout(waiting);
  drawn++;
  worker?.terminate();
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => show(data);
  worker.onerror = () => show({ kind: "error", text: "the page is not complete: run `make web`, and serve the folder" });
  for (const part of [error, view, make, ...Object.values(canvases)]) part.hidden = true;
  worker.postMessage({ file: chosen, quality: Number(quality.value) });
  busy = true;
}

function show(message) {
  if (message.kind === "begin") {
    busy = true;
    drawn++; // what is still being drawn is of before
    for (const part of [error, compare, save, gic, toggle, overlay, table, canvases.decoded]) part.hidden = true;
    facts.replaceChildren();
    regions = null;
  }
  if (message.kind === "end") busy = false;
  if (message.kind === "status") status.textContent = message.text;
  if (message.kind === "error") {
    error.textContent = message.text;
    error.hidden = false;
    status.textContent = "";
  }
  if (message.kind === "fact") {
    const [term, value] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = message.name;
    value.textContent = message.value;
    facts.append(term, value);
    view.hidden = false;
  }
  if (message.kind === "file") {
    offer(gic, new Blob([message.bytes]), `${name}.gic`);
    gic.textContent = `Save ${name}.gic (${message.bytes.length.toLocaleString("en")} bytes)`;
  }
  if (message.kind === "regions") list(message.regions);
  if (message.kind in canvases) draw(message.kind, message.image);
}

function draw(kind, image) {
  const canvas = canvases[kind];
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.hidden = false;
  view.hidden = false;
  cover();
  if (kind === "original") {
    make.hidden = false;
    return;
  }
  if (kind === "decoded") {
    left.textContent = canvases.original.hidden ? "Preview" : "Original";
    compare.hidden = false;
    split.value = 0;
    divide();
  }
  const [as, turn] = [`${name}${canvases.original.hidden ? "" : "-decoded"}.png`, ++drawn];
  canvas.toBlob((blob) => {
    if (blob && turn === drawn) offer(save, blob, as); // else the canvas is too large, or shows something else by now
  });
}

/** Offers to show regions, and lists them, the largest first. */
function list(found) {
  regions = found;
  const areas = areasOf(found.labels, found.count);
  const origin = found.classes ? "derived from the image's features" : "written in the file";
  count.textContent = `Show ${found.count} ${found.count === 1 ? "region" : "regions"}, ${origin}`;
  const head = row("th", ["Region", "Area", ...(found.values ? ["Mean color"] : [])]);
  const order = areas.map((_, region) => region).sort((a, b) => areas[b] - areas[a]);
  const rows = order.map((region) => {
    const share = `${((100 * areas[region]) / found.labels.length).toFixed(1)} %`;
    const color = found.values ? [swatch(meanColor(found.values, region))] : [];
    return row("td", [swatch(palette(region), `${region}`), share, ...color]);
  });
  table.replaceChildren(head, ...rows);
  toggle.hidden = false;
  cover();
}

/** Shows the regions over the images, if that is wanted. */
function cover() {
  const image = Object.values(canvases).find((canvas) => !canvas.hidden);
  const wanted = Boolean(regions && shown.checked);
  table.hidden = !wanted;
  overlay.hidden = !wanted || !image;
  if (overlay.hidden) return;
  [overlay.width, overlay.height] = [image.width, image.height];
  drawRegions(overlay.getContext("2d"), regions);
}

function row(kind, cells) {
  const line = document.createElement("tr");
  for (const content of cells) {
    const cell = document.createElement(kind);
    cell.append(content);
    line.append(cell);
  }
  return line;
}

/** A small square of a color, and a text: its hexadecimal digits if there is none. */
function swatch(color, text = `#${color.map((value) => value.toString(16).padStart(2, "0")).join("")}`) {
  const [both, square] = [document.createDocumentFragment(), document.createElement("span")];
  square.className = "swatch";
  square.style.background = `rgb(${color.join(" ")})`;
  both.append(square, text);
  return both;
}

/** Lets a link save a file. */
function offer(link, blob, as) {
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(blob);
  link.download = as;
  link.hidden = false;
}

/** Shows the decoded image right of the handle. */
function divide() {
  canvases.decoded.style.clipPath = `inset(0 0 0 ${split.value}%)`;
}

function showLevel() {
  level.textContent = Number(quality.value).toString();
}

split.addEventListener("input", divide);
shown.addEventListener("change", cover);
quality.addEventListener("input", showLevel);
quality.addEventListener("change", () => {
  clearTimeout(waiting); // keys change it step by step
  waiting = setTimeout(() => {
    if (busy) restart();
    else worker.postMessage({ quality: Number(quality.value) });
  }, SETTLED);
});
file.addEventListener("change", () => {
  open(file.files[0]);
  file.value = "";
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") open(event.dataTransfer.files[0]);
  });
}
showLevel();
navigator.serviceWorker?.register("offline.js").catch(() => {}); // without it, the page needs its network each time
