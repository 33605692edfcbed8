// The page: takes a file, shows what the worker makes of it. All work is the worker's.

const byId = (id) => document.getElementById(id);
const [file, drop, status, error, view, facts, compare, split, save] =
  ["file", "drop", "status", "error", "view", "facts", "compare", "split", "save"].map(byId);
const canvases = { preview: byId("preview"), decoded: byId("decoded") };
let worker = null;
let name = "image";

function open(chosen) {
  if (!chosen) return;
  name = chosen.name.replace(/\.gic$/i, "") || "image";
  worker?.terminate(); // a file that takes too long ends with the next one
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => show(data);
  worker.onerror = () => show({ kind: "error", text: "the page is not complete: run `make web`, and serve the folder" });
  for (const part of [error, view, compare, save]) part.hidden = true;
  canvases.decoded.hidden = true;
  facts.replaceChildren();
  status.textContent = "Reading…";
  worker.postMessage(chosen);
}

function show(message) {
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
  if (message.kind in canvases) {
    const canvas = canvases[message.kind];
    canvas.width = message.image.width;
    canvas.height = message.image.height;
    canvas.getContext("2d").putImageData(message.image, 0, 0);
    canvas.hidden = false;
    view.hidden = false;
    if (message.kind === "decoded") {
      compare.hidden = false;
      split.value = 100;
      divide();
    }
    canvas.toBlob((blob) => {
      URL.revokeObjectURL(save.href);
      save.href = URL.createObjectURL(blob);
      save.download = `${name}.png`;
      save.hidden = false;
    });
  }
}

/** Shows the decoded image left of the slider. */
function divide() {
  canvases.decoded.style.clipPath = `inset(0 ${100 - split.value}% 0 0)`;
}

split.addEventListener("input", divide);
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
