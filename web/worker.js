// Does the work of the page: decodes a .gic file, or encodes a photograph and decodes what it wrote.
//
// Takes {file, quality}, or {quality} alone: the same photograph again. Answers {kind: "begin" | "end"},
// {kind: "status" | "error", text}, {kind: "fact", name, value}, {kind: "file", bytes},
// {kind: "original" | "preview" | "decoded", image}, {kind: "regions", regions}.

import { MAX_PIXELS, QUALITY_STEPS, STRIDE, checkSize, padded } from "./container.js";
import { Reader, StreamError } from "./gic.js";
import { normal } from "./random.js";
import { painted } from "./regions.js";
import { Runtime, model } from "./runtime.js";
import { blended, cut, inParts, mirrored } from "./tiles.js";
import { write } from "./writer.js";

const LARGEST_PART = 64; // cells that local networks work on at a time
const LAYERS = ["residual.safetensors", "semantic.safetensors"]; // which an encoder may have
const NAMES = { 1: "statistics", 16: "structure", 17: "texture", 48: "residual" }; // of segments

let loaded = null; // what all files share
let photo = null; // the last photograph and its features

onmessage = async ({ data: { file, quality } }) => {
  postMessage({ kind: "begin" });
  try {
    loaded ??= await load();
    if (file) {
      photo = null;
      const start = new Uint8Array(await file.slice(0, 3).arrayBuffer());
      if (String.fromCharCode(...start) === "GIC" || /\.gic$/i.test(file.name)) {
        await decode(new Uint8Array(await file.arrayBuffer()), true);
      } else {
        photo = await analyze(file);
      }
    }
    if (photo) await decode(await encode(photo, quality), false);
    postMessage({ kind: "status", text: "" });
  } catch (error) {
    const text = error instanceof StreamError ? error.message : `this page cannot do it (${error.message})`;
    postMessage({ kind: "error", text });
  }
  postMessage({ kind: "end" });
};

async function load() {
  status("Loading…");
  const manifest = JSON.parse(new TextDecoder().decode(await model("manifest.json")));
  const listed = (name) => (manifest.files[name] ? model(name, manifest) : null);
  const [residual, semantic] = await Promise.all(LAYERS.map(listed));
  return {
    manifest,
    reader: await Reader.load(await model("tables.safetensors", manifest), residual, semantic),
    runtime: await Runtime.load(manifest),
  };
}

/** An image file -> its size, and y (Float32Array [m][h][w]), which serves every quality. */
async function analyze(file) {
  status("Reading the photograph…");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new StreamError("neither a .gic file nor an image that this browser can read: choose another file");
  }
  const { width, height } = bitmap;
  if (padded(width) * padded(height) > MAX_PIXELS) {
    throw new StreamError(
      `the photograph is ${width} × ${height} pixels, more than the ${MAX_PIXELS.toLocaleString("en")} that this page codes: ` +
        "choose a smaller one",
    );
  }
  checkSize(height, width, MAX_PIXELS); // no side beyond the format's
  const canvas = new OffscreenCanvas(width, height).getContext("2d");
  canvas.fillStyle = "white"; // under transparent parts
  canvas.fillRect(0, 0, width, height);
  canvas.drawImage(bitmap, 0, 0);
  const pixels = canvas.getImageData(0, 0, width, height);
  if (pixels.data[pixels.data.length - 1] !== 255) { // a canvas beyond the browser's limit stays empty
    throw new StreamError(`the photograph is ${width} × ${height} pixels, more than this browser draws: choose a smaller one`);
  }
  postMessage({ kind: "original", image: pixels });

  status("Analyzing…");
  const began = performance.now();
  const [h, w] = [height, width].map((side) => padded(side) / STRIDE);
  const [down, along] = [mirrored(height, h * STRIDE), mirrored(width, w * STRIDE)];
  const y = await features(h, w, (c, row, column) => pixels.data[4 * (down[row] * width + along[column]) + c]);
  return { width, height, h, w, y, seconds: (performance.now() - began) / 1000 };
}

/** Features of a padded image: level(c, row, column), 0 to 255, of an image of h by w cells -> Float32Array [m][h][w]. */
async function features(h, w, level) {
  const { reader, runtime } = loaded;
  const halo = haloOf("analysis");
  const y = await inParts(h, w, 1, halo, LARGEST_PART, reader.config.m, async (top, left, rows, columns) => {
    const [high, wide] = [rows * STRIDE, columns * STRIDE];
    const x = new Float32Array(3 * high * wide);
    for (let c = 0, to = 0; c < 3; c++) {
      for (let i = 0; i < high; i++) {
        for (let j = 0; j < wide; j++) x[to++] = level(c, top * STRIDE + i, left * STRIDE + j) / 127.5 - 1;
      }
    }
    return (await runtime.run("analysis", { x: [x, 1, 3, high, wide] })).y;
  });
  await runtime.release("analysis");
  return y;
}

/** An analyzed photograph at a quality in levels -> the bytes of its file. */
async function encode({ width, height, h, w, y, seconds: analysis }, quality) {
  status("Encoding…");
  const began = performance.now();
  const { reader, runtime } = loaded;
  const byte = Math.round(Math.min(quality, reader.config.levels - 1) * QUALITY_STEPS);
  const level = Float32Array.of(byte / QUALITY_STEPS);
  const scaled = await runtime.run("hyper", { y: [y, 1, reader.config.m, h, w], quality: [level, 1] });
  const { data } = write(reader, scaled.y_q, scaled.z, { quality: byte, height, width, h, w });
  postMessage({ kind: "file", bytes: data });
  fact("Encoded", `${((performance.now() - began) / 1000 + analysis).toFixed(2)} s`);
  return data;
}

/** Shows what a file holds; preview: whether to show that as well. */
async function decode(bytes, preview) {
  const { manifest, reader, runtime } = loaded;
  status("Decoding symbols…");
  let began = performance.now();
  const content = reader.open(bytes);
  const latent = content.string === null && reader.semantic ? null : reader.latent(content);
  const regions = latent ? attempt(() => reader.regions(content, latent)) : reader.regions(content);
  if (!latent && !regions.values) {
    throw new StreamError("the file has a structure layer but no texture layer: there is no image to decode");
  }
  fact("Size", `${content.width} × ${content.height} pixels`);
  const bpp = (8 * bytes.length) / (content.width * content.height);
  fact("File", `${bytes.length.toLocaleString("en")} bytes, ${bpp.toFixed(4)} bits per pixel`);
  if (latent) fact("Quality", `${content.quality / QUALITY_STEPS} of ${reader.config.levels - 1}`);
  const parts = content.segments.map(({ type, data }) => `${NAMES[type] ?? `type ${type}`} ${data.length} bytes`);
  if (parts.length && latent) parts.push(`latent ${content.string.length} bytes`);
  if (parts.length) fact("Segments", parts.join(", "));
  if (latent) fact("Symbols", `SHA-256 ${latent.symbolsSha256.slice(0, 16)}…, ${seconds(began)}`);
  if (regions?.error) fact("Regions", regions.error);
  else if (regions) postMessage({ kind: "regions", regions });

  status("Preview…");
  began = performance.now();
  const image = await (latent ? synthesized(latent) : rendered(content, regions));
  if (preview || !manifest.backbone) show("preview", image.base, image);
  fact("Preview", `${seconds(began)}, ${runtime.device}`);
  if (!manifest.backbone) return;
  status(`Decoding through ${manifest.backbone.name}…`);
  began = performance.now();
  const { base, h, w } = image;
  image.yHat ??= await features(h, w, (c, row, column) => levelOf(base[(c * h * STRIDE + row) * w * STRIDE + column]));
  show("decoded", await throughBackbone(image), image);
  fact("Decoded", `through ${manifest.backbone.name}, ${seconds(began)}, ${runtime.device}`);
}

/** What `Reader.latent` gave -> {content, h, w, quality, base, yHat}; base: the preview's planes [3][16 h][16 w]. */
async function synthesized(latent) {
  const { manifest, reader, runtime } = loaded;
  const { content, h, w, m } = latent;
  const quality = [Float32Array.of(latent.quality / QUALITY_STEPS), 1];
  const yHat = reader.dequantize(latent);
  const graph = manifest.files["decoder.onnx"]?.preview ?? "preview.onnx"; // the one that the decoder reads, if there is one
  const name = graph.replace(".onnx", "");
  const base = await inParts(h, w, STRIDE, haloOf(name), LARGEST_PART, 3, async (top, left, rows, columns) => {
    const part = cut(yHat, m, h, w, top, left, rows, columns);
    return (await runtime.run(name, { y_hat: [part, 1, m, rows, columns], quality })).x;
  });
  await runtime.release(name);
  return { content, h, w, quality, base, yHat };
}

/** The same for a file without a latent, from its regions; the features of its preview are made when they are needed. */
async function rendered(content, regions) {
  const { runtime } = loaded;
  const [h, w] = [content.height, content.width].map((side) => padded(side) / STRIDE);
  const planes = painted(regions, content.seed, h, w);
  const channels = planes.length / (h * w);
  const base = await inParts(h, w, STRIDE, haloOf("renderer"), LARGEST_PART, 3, async (top, left, rows, columns) => {
    const part = cut(planes, channels, h, w, top, left, rows, columns);
    return (await runtime.run("renderer", { painted: [part, 1, channels, rows, columns] })).x;
  });
  await runtime.release("renderer");
  const quality = [Float32Array.of(content.quality / QUALITY_STEPS), 1];
  return { content, h, w, quality, base: base.map((value) => levelOf(value) / 127.5 - 1), yHat: null };
}

/** Regions of a file whose image can be shown without them: an error is no more than a line. */
function attempt(read) {
  try {
    return read();
  } catch (error) {
    if (error instanceof StreamError) return { error: error.message };
    throw error;
  }
}

/** Cells that a graph looks beyond its own. */
function haloOf(name) {
  const file = loaded.manifest.files[`${name}.onnx`];
  if (!file) throw new Error(`models/${name}.onnx is missing: run \`make web\``);
  return Math.ceil(file.halo / STRIDE);
}

/** Features and preview -> planes [3][16 h][16 w], in tiles where the image is large. */
async function throughBackbone({ content, h, w, quality, base, yHat }) {
  const { manifest, runtime } = loaded;
  const { inputs } = manifest.files["decoder.onnx"];
  const [height, width] = [h * STRIDE, w * STRIDE];
  const fixed = Number.isInteger(inputs.y_hat[2]); // to tiles of one size: smaller images are padded
  const side = fixed ? manifest.tile - 2 * manifest.margin : manifest.tile;
  const whole = { y_hat: [yHat, yHat.length / (h * w), STRIDE], preview: [base, 3, 1] };
  if (inputs.noise) {
    const stride = Number.parseInt(inputs.preview[2], 10) / Number.parseInt(inputs.noise[2], 10);
    whole.noise = [normal(content.seed, (inputs.noise[1] * height * width) / stride ** 2), inputs.noise[1], stride];
  }
  return blended(height, width, side, manifest.margin, padded(1), async (row, column) => {
    const [high, wide] = [row, column].map(({ low, high }) => (fixed ? manifest.tile : high - low));
    const given = { quality };
    for (const [name, [planes, channels, stride]] of Object.entries(whole)) {
      const place = [height, width, row.low, column.low, high, wide].map((pixels) => pixels / stride);
      given[name] = [cut(planes, channels, ...place), 1, channels, high / stride, wide / stride];
    }
    return { planes: (await runtime.run("decoder", given)).x, high, wide };
  });
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

/** [-1, 1] -> 0 to 255, rounded once, halves up. */
function levelOf(value) {
  return Math.max(0, Math.min(255, Math.floor((value + 1) * 127.5 + 0.5)));
}

/** Planes [3][16 h][16 w] in [-1, 1] -> the true image, as 8-bit pixels. */
function show(kind, planes, { content: { height, width }, h, w }) {
  const area = h * w * STRIDE ** 2;
  const found = new ImageData(width, height);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 4) {
      for (let c = 0; c < 3; c++) found.data[to + c] = levelOf(planes[c * area + y * w * STRIDE + x]);
      found.data[to + 3] = 255;
    }
  }
  postMessage({ kind, image: found });
}
