// Reads .gic files exactly, from docs/format.md alone: a second reader, independent of the Python one. No dependency, no build step.
//
//     const reader = await Reader.load(bytesOfTheEncodersTables);
//     const { yHatQ, symbolsSha256 } = reader.read(bytesOfAFile);
//     const { labels, values } = reader.regions(reader.open(bytesOfAFileWithoutALatent));
//
// For a browser, a worker and node alike. `read` takes a good part of a second for a large photograph: call it in a worker.

import { CoderTables, Decoder } from "./coder.js";
import { MAX_PIXELS, QUALITY_STEPS, STRIDE, padded, unpack } from "./container.js";
import { StreamError, WeightsError } from "./errors.js";
import { Grid, HyperSynthesis, Pass, clamped } from "./networks.js";
import { Sha256 } from "./sha256.js";
import { RESIDUAL, readSettings, refine } from "./residual.js";
import { Semantic } from "./semantic.js";
import { LIMIT, readResidual, readSemantic, readTables } from "./tables.js";

export { MAX_PIXELS, StreamError, WeightsError, unpack };

const ONE = 256;

export class Reader {
  /**
   * bytes (Uint8Array): an encoder's weight file, or its tables as `priorcodec export` writes them; residual, semantic: the weight
   * files of these layers, without which they are skipped. Throws WeightsError.
   */
  static async load(bytes, residual = null, semantic = null) {
    const { config, encoderId, tables } = readTables(bytes);
    const id = encoderId ?? (await idOf(bytes));
    const finer = residual && readResidual(residual);
    if (finer && finer.encoderId !== id) throw new WeightsError("the residual layer was made for another encoder");
    const layers = semantic && readSemantic(semantic, config);
    if (layers && layers.encoderId !== id) throw new WeightsError("the semantic layers were made for another encoder");
    return new Reader(config, id, tables, finer?.frequency ?? null, layers && new Semantic(layers.tables));
  }

  constructor(config, encoderId, tables, frequency, semantic) {
    this.config = config;
    this.frequency = frequency;
    this.semantic = semantic;
    this.encoderId = encoderId;
    this.tables = tables;
    this.yCoder = new CoderTables(tables, "y", config.certain);
    this.zCoder = new CoderTables(tables, "z");
    this.hyper = new HyperSynthesis(tables, config.n);
    this.groups = [];
    let start = 0;
    config.groups.forEach((count, g) => {
      const passes = [new Pass(tables, `anchor.${g}`, start), new Pass(tables, `other.${g}`, start + count)];
      this.groups.push({ start, count, passes });
      start += count;
    });
  }

  /** A file (Uint8Array) -> its content as of `unpack`, of this encoder. Throws StreamError. */
  open(data, { maxPixels = MAX_PIXELS } = {}) {
    const content = unpack(data, { maxPixels });
    if (content.encoderId !== this.encoderId) {
      const [got, own] = [content.encoderId, this.encoderId].map((id) => id.toString(16).padStart(8, "0"));
      throw new StreamError(
        `the file was written by encoder ${got}, or is damaged; this is encoder ${own}: ` +
          "get the file again, or use the priorcodec version that ships that encoder",
      );
    }
    if (content.quality >= this.config.rows) {
      throw new StreamError(`quality byte ${content.quality} is beyond this encoder's ${this.config.levels} levels`);
    }
    return content;
  }

  /**
   * A file (Uint8Array) -> {content, m, h, w, quality, yHatQ, latentQ, symbolsSha256}. Throws StreamError.
   * content: as of `unpack`; quality: the byte that networks are given; yHatQ: Float32Array [m][h][w], decoded features in
   * quantization steps; latentQ: without the residual layer.
   */
  read(data, options) {
    return this.latent(this.open(data, options));
  }

  /** What `open` gave -> what `read` gives. */
  latent(content) {
    if (content.string === null) throw new StreamError("the file has no latent layer: there are no features to read");
    const [h, w] = [content.height, content.width].map((side) => padded(side) / STRIDE);
    const layer = this.frequency && content.segments.find(({ type }) => type === RESIDUAL);
    const finer = layer && readSettings(layer.data, h, w);
    this.#checkLength(content, h / 4, w / 4);
    const quality = Math.min(content.quality + (finer ? finer.higher : 0), this.config.rows - 1);
    return { content, m: this.config.m, h, w, quality, ...this.#symbols(content, h, w, finer) };
  }

  /**
   * What `open` gave -> {rows, columns, count, labels, classes, values, step}, see `Semantic.read`; latent: what `latent` gave, or
   * null. Throws StreamError; a reader without tables of the semantic layers answers null.
   */
  regions(content, latent = null) {
    if (!this.semantic) return null;
    return this.semantic.read(content, () => latent ?? this.latent({ ...content, segments: [] }));
  }

  /** What `read` gave -> y_hat, Float32Array [m][h][w]: what all float networks start from. */
  dequantize({ content, m, h, w, yHatQ }) {
    const level = content.quality / QUALITY_STEPS;
    const k = Math.min(Math.floor(level), this.config.levels - 2);
    const table = this.tables.log_inverse.data;
    const yHat = new Float32Array(yHatQ.length);
    for (let c = 0; c < m; c++) {
      const inverse = Math.exp((1 - (level - k)) * table[k * m + c] + (level - k) * table[(k + 1) * m + c]);
      for (let i = c * h * w; i < (c + 1) * h * w; i++) yHat[i] = yHatQ[i] * inverse;
    }
    return yHat;
  }

  /** Refuses a string that cannot hold an image of this size, before anything is allocated for it. */
  #checkLength({ string, quality }, height, width) {
    const { mH } = this.config;
    let bits = 0;
    for (let c = 0; c < mH; c++) bits += this.zCoder.leastBits[this.tables.z_index.data[quality * mH + c]];
    bits *= height * width;
    if (8 * string.length + 64 < 0.99 * bits) {
      throw new StreamError(
        `the entropy string has ${string.length} bytes, an image of this size needs ${Math.floor(bits / 8)}: ` +
          "the file is damaged or forged",
      );
    }
  }

  #symbols({ string, quality }, h, w, finer) {
    const decoder = new Decoder(string);
    const size = finer ? this.config.m * h * w : 0;
    const planes = { index: new Uint8Array(size), symbols: new Int16Array(size), h, w };
    const found = this.walk(quality, h, w, (index, coder, symbols, mean, place) => {
      decoder.take(index, coder, symbols);
      if (finer && place) keep(planes, index, symbols, place);
    });
    decoder.finish();
    const latentQ = finer ? found.yHatQ.slice() : found.yHatQ;
    if (finer) refine(found.yHatQ, planes, finer, this.frequency);
    return { ...found, latentQ };
  }

  /**
   * All passes in the order of coding, for reading and writing alike.
   * symbolsOf(index, coder, symbols, mean, place): fills in the symbols (Int16Array) of a pass; index (Uint8Array): their tables, mean
   * (Int16Array): in units of 1/256; of a pass of y they are [channel][position], and place has its first channel and `at`, row
   * and column of each position in turn; of z they are [channel][row][column], and place is null.
   * -> {yHatQ, symbolsSha256}
   */
  walk(quality, h, w, symbolsOf) {
    const { m, mH, n } = this.config;
    const digest = new Sha256();

    const zCount = (h / 4) * (w / 4);
    const zIndex = new Uint8Array(mH * zCount);
    const zMean = new Int16Array(mH * zCount);
    for (let c = 0; c < mH; c++) {
      zIndex.fill(this.tables.z_index.data[quality * mH + c], c * zCount, (c + 1) * zCount);
      zMean.fill(this.tables.z_mean.data[quality * mH + c], c * zCount, (c + 1) * zCount);
    }
    const zSymbols = new Int16Array(mH * zCount);
    symbolsOf(zIndex, this.zCoder, zSymbols, zMean, null);
    addSymbols(digest, zSymbols);

    const phi = this.hyper.run(zSymbols, quality, h / 4, w / 4);
    const values = new Grid(h, w, m);
    const yHatQ = new Float32Array(m * h * w);
    const positions = [0, 1].map((parity) => checkerboard(h, w, parity));
    for (const { start, count, passes } of this.groups) {
      passes.forEach((pass, parity) => {
        const at = positions[parity];
        const { mean, index } = pass.parameters(phi, values, at);
        const symbols = new Int16Array(mean.length);
        symbolsOf(index, this.yCoder, symbols, mean, { start, at });
        addSymbols(digest, symbols);
        for (let c = 0, i = 0; c < count; c++) {
          for (let p = 0; p < at.length; p += 2, i++) {
            const value = ONE * symbols[i] + mean[i];
            yHatQ[((start + c) * h + at[p]) * w + at[p + 1]] = value / ONE;
            values.data[values.at(at[p], at[p + 1]) + start + c] = clamped(value, -LIMIT);
          }
        }
      });
    }
    return { yHatQ, symbolsSha256: digest.hex() };
  }
}

/** Symbols of a pass of y and their tables, put where they belong. */
function keep({ index, symbols, h, w }, passIndex, passSymbols, { start, at }) {
  for (let c = start, i = 0; i < passIndex.length; c++) {
    for (let p = 0; p < at.length; p += 2, i++) {
      const place = (c * h + at[p]) * w + at[p + 1];
      index[place] = passIndex[i];
      symbols[place] = passSymbols[i];
    }
  }
}

/** Row and column, in turn, of the positions whose sum is even (parity 0) or odd, row by row. */
function checkerboard(h, w, parity) {
  const found = new Uint16Array(h * w);
  let end = 0;
  for (let y = 0; y < h; y++) {
    for (let x = (y + parity) % 2; x < w; x += 2) {
      found[end++] = y;
      found[end++] = x;
    }
  }
  return found;
}

/** Symbols as little-endian 32-bit integers, in pieces that stay small. */
function addSymbols(digest, symbols) {
  const piece = 1 << 16;
  const bytes = new Uint8Array(4 * Math.min(piece, symbols.length));
  const view = new DataView(bytes.buffer);
  for (let start = 0; start < symbols.length; start += piece) {
    const end = Math.min(start + piece, symbols.length);
    for (let i = start; i < end; i++) view.setInt32(4 * (i - start), symbols[i], true);
    digest.update(bytes.subarray(0, 4 * (end - start)));
  }
}

/** A weight file -> the encoder's id. */
async function idOf(bytes) {
  const subtle = globalThis.crypto?.subtle;
  const digest = subtle ? new Uint8Array(await subtle.digest("SHA-256", bytes)) : new Sha256().update(bytes).digest();
  return new DataView(digest.buffer).getUint32(0, true);
}
