// Decodes one file: symbols exactly, then the preview, then the image through the backbone.
//
// Answers messages {kind: "status" | "error", text}, {kind: "fact", name, value}, {kind: "preview" | "decoded", image}.

import { Reader, StreamError } from "./gic.js";
import { blended, cut, inParts } from "./tiles.js";

const STRIDE = 16;
const NOISE_STRIDE = 4;
const LARGEST_PART = 64; // cells of the preview worked on at a time
const MODELS = "models/";

onmessage = async ({ data: file }) => {
  try {
    await decode(new Uint8Array(await file.arrayBuffer()));
    postMessage({ kind: "status", text: "" });
  } catch (error) {
    const text = error instanceof StreamError ? error.message : `this page cannot decode it (${error.message})`;
    postMessage({ kind: "error", text });
  }
};

async function decode(bytes) {
  const manifest = JSON.parse(new TextDecoder().decode(await model("manifest.json")));
  const reader = await Reader.load(await model("tables.safetensors"));
  status("Decoding symbols…");
  let began = performance.now();
  const read = reader.read(bytes);
  const { content, h, w, m } = read;
  fact("Size", `${content.width} × ${content.height} pixels`);
  const bpp = (8 * bytes.length) / (content.width * content.height);
  fact("File", `${bytes.length.toLocaleString("en")} bytes, ${bpp.toFixed(4)} bits per pixel`);
  fact("Quality", String(content.quality / 16));
  fact("Segments", content.segments.map(({ type, data }) => `type ${type}: ${data.length} bytes`).join(", ") || "none");
  fact("Symbols", `SHA-256 ${read.symbolsSha256.slice(0, 16)}…, ${seconds(began)}`);

  status("Preview…");
  began = performance.now();
  const ort = await import("./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs");
  ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  const session = async (name) => ort.InferenceSession.create(await model(name));
  const tensor = (data, ...shape) => new ort.Tensor("float32", data, shape);
  const quality = tensor(Float32Array.of(content.quality / 16), 1);
  const yHat = reader.dequantize(read);

  const name = manifest.files["decoder.onnx"]?.preview ?? "preview.onnx"; // the one that the decoder reads, if there is one
  const synthesis = await session(name);
  const halo = Math.ceil(manifest.files[name].halo / STRIDE);
  const preview = await inParts(h, w, STRIDE, halo, LARGEST_PART, async (top, left, rows, columns) => {
    const part = tensor(cut(yHat, m, h, w, top, left, rows, columns), 1, m, rows, columns);
    return (await synthesis.run({ y_hat: part, quality })).x.data;
  });
  await synthesis.release();
  image("preview", preview, content, h, w);
  fact("Preview", seconds(began));

  if (!manifest.backbone) return;
  status(`Decoding through ${manifest.backbone.name}…`);
  began = performance.now();
  const decoder = await session("decoder.onnx");
  const { inputs } = manifest.files["decoder.onnx"];
  const [height, width] = [h * STRIDE, w * STRIDE];
  const fixed = Number.isInteger(inputs.y_hat[2]); // to tiles of one size: smaller images are padded
  const [rows, columns] = [height, width].map((side) => (fixed ? manifest.tile : Math.min(manifest.tile, side)));
  const channels = inputs.noise?.[1] ?? 0;
  const noise = normal(content.seed, (channels * height * width) / NOISE_STRIDE ** 2);
  const decoded = await blended(height, width, rows, columns, manifest.margin, STRIDE, async (top, left) => {
    const part = (planes, count, stride) => {
      const place = [height, width, top, left, rows, columns].map((pixels) => pixels / stride);
      return tensor(cut(planes, count, ...place), 1, count, rows / stride, columns / stride);
    };
    const given = { y_hat: part(yHat, m, STRIDE), quality, preview: part(preview, 3, 1) };
    if (channels) given.noise = part(noise, channels, NOISE_STRIDE);
    return (await decoder.run(given)).x.data;
  });
  image("decoded", decoded, content, h, w);
  fact("Decoded", `through ${manifest.backbone.name}, ${seconds(began)}`);
}

async function model(name) {
  const answer = await fetch(MODELS + name);
  if (!answer.ok) throw new Error(`${MODELS}${name} is missing: run \`make web\``);
  return new Uint8Array(await answer.arrayBuffer());
}

function status(text) {
  postMessage({ kind: "status", text });
}

function fact(name, value) {
  postMessage({ kind: "fact", name, value });
}

function seconds(began) {
  return `${((performance.now() - began) / 1000).toFixed(2)} s`;
}

/** Planes [3][16 h][16 w] in [-1, 1] -> the true image, as 8-bit pixels. */
function image(kind, planes, { height, width }, h, w) {
  const area = h * w * STRIDE ** 2;
  const found = new ImageData(width, height);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 4) {
      for (let c = 0; c < 3; c++) {
        found.data[to + c] = Math.round((planes[c * area + y * w * STRIDE + x] + 1) * 127.5); // clamped by its type
      }
      found.data[to + 3] = 255;
    }
  }
  postMessage({ kind, image: found });
}

/** Standard normal numbers that depend on the seed alone (mulberry32, Box and Muller); torch draws others. */
function normal(seed, count) {
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let a = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    a = (a + Math.imul(a ^ (a >>> 7), 61 | a)) ^ a;
    return ((a ^ (a >>> 14)) >>> 0) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () =>
    Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}
