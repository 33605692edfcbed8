// The integer networks: docs/format.md, sections 4 and 5. Every sum is a whole number below 2^53, which a float64 holds exactly.
//
// Grids are position-major, grid[(y * width + x) * channels + c], with a border of zeros where a 3x3 kernel reads them.

import { LIMIT } from "./tables.js";

const BLOCK = 8; // pairs of outputs summed side by side
const PAIR = 2 ** 26;
const STRIP = 64; // positions whose inputs are kept at hand

/**
 * One layer. Two things make it quick:
 * - Inputs that are zero, more than half of those behind a ReLU, are left out.
 * - Two weights share a number, PAIR * (that of an even output) + (that of the next), so that one product serves two sums. This is
 *   exact where both sums stay below PAIR / 2, which `gather` makes sure of; other positions are summed one by one.
 */
export class Layer {
  /** weight: {shape: [outputs, inputs, k, k], data}, bias: {data}, relu: negative sums become zero. */
  constructor(weight, bias, relu) {
    const [outputs, inputs, k] = weight.shape;
    this.outputs = outputs;
    this.inputs = inputs;
    this.kernel = k;
    this.low = relu ? 0 : -LIMIT;
    this.blocks = Math.ceil(outputs / (2 * BLOCK));
    this.stride = 2 * BLOCK * this.blocks; // from a position's outputs to those of the next
    this.depth = inputs * k * k; // of a sum
    this.weights = new Float64Array(this.blocks * this.depth * BLOCK); // [block][tap][input][pair of outputs]
    this.largest = new Float64Array(this.depth); // of an input's weights
    this.bias = new Float64Array(this.stride);
    this.bias.set(bias.data);
    for (let o = 0; o < outputs; o++) {
      const block = Math.floor(o / (2 * BLOCK)) * this.depth * BLOCK + ((o >> 1) % BLOCK);
      for (let i = 0; i < inputs; i++) {
        for (let tap = 0; tap < k * k; tap++) {
          const value = weight.data[(o * inputs + i) * k * k + tap];
          const place = tap * inputs + i;
          this.weights[block + place * BLOCK] += o % 2 ? value : value * PAIR;
          this.largest[place] = Math.max(this.largest[place], Math.abs(value));
        }
      }
    }
    this.values = new Float64Array(STRIP * this.depth); // of a strip: inputs that are not zero ...
    this.places = new Int32Array(STRIP * this.depth); // ... where their weights begin in a block ...
    this.ends = new Int32Array(STRIP + 1); // ... and where those of each position end, behind a 0
    this.bounds = new Float64Array(STRIP); // of each position's sums
    this.out = new Float64Array(STRIP * this.stride);
  }

  /** Starts a strip. */
  begin() {
    this.count = 0;
  }

  /** Starts the strip's next position. */
  next() {
    this.ends[this.count + 1] = this.ends[this.count];
    this.bounds[this.count++] = 0;
  }

  /** Adds values source[at .. at + length - 1] of the position as inputs `input` and following. */
  gather(source, at, length, input) {
    const { values, places, ends, largest, count } = this;
    let end = ends[count];
    let bound = 0;
    for (let i = 0; i < length; i++) {
      const value = source[at + i];
      if (value !== 0) {
        values[end] = value;
        places[end++] = (input + i) * BLOCK;
        bound += Math.abs(value) * largest[input + i];
      }
    }
    ends[count] = end;
    this.bounds[count - 1] += bound;
  }

  /** -> the strip's outputs, [position][output]. */
  run() {
    const { values, places, ends, bounds, weights, count, depth, blocks, stride } = this;
    for (let block = 0; block < blocks; block++) {
      const base = block * depth * BLOCK;
      for (let p = 0; p < count; p++) {
        const b = 2 * BLOCK * block;
        const o = p * stride + b;
        if (bounds[p] >= PAIR / 2) {
          this.#oneByOne(p, block);
          continue;
        }
        let s0 = 0;
        let s1 = 0;
        let s2 = 0;
        let s3 = 0;
        let s4 = 0;
        let s5 = 0;
        let s6 = 0;
        let s7 = 0;
        const end = ends[p + 1];
        for (let k = ends[p]; k < end; k++) {
          const a = values[k];
          const w = base + places[k];
          s0 += a * weights[w];
          s1 += a * weights[w + 1];
          s2 += a * weights[w + 2];
          s3 += a * weights[w + 3];
          s4 += a * weights[w + 4];
          s5 += a * weights[w + 5];
          s6 += a * weights[w + 6];
          s7 += a * weights[w + 7];
        }
        this.#put(o, b, s0);
        this.#put(o + 2, b + 2, s1);
        this.#put(o + 4, b + 4, s2);
        this.#put(o + 6, b + 6, s3);
        this.#put(o + 8, b + 8, s4);
        this.#put(o + 10, b + 10, s5);
        this.#put(o + 12, b + 12, s6);
        this.#put(o + 14, b + 14, s7);
      }
    }
    return this.out;
  }

  /** Outputs b and b + 1, at places o and o + 1, of one pair of sums. */
  #put(o, b, sum) {
    const even = Math.floor(sum / PAIR + 0.5);
    this.#rescale(o, b, even);
    this.#rescale(o + 1, b + 1, sum - even * PAIR);
  }

  #rescale(o, b, sum) {
    const value = Math.floor((sum + this.bias[b] + 512) / 1024);
    this.out[o] = value < this.low ? this.low : value > LIMIT ? LIMIT : value;
  }

  /** A block of outputs of position p, for sums of any size. */
  #oneByOne(p, block) {
    for (let pair = 0; pair < BLOCK; pair++) {
      let [even, odd] = [0, 0];
      for (let k = this.ends[p]; k < this.ends[p + 1]; k++) {
        const both = this.weights[block * this.depth * BLOCK + this.places[k] + pair];
        const first = Math.floor(both / PAIR + 0.5);
        even += this.values[k] * first;
        odd += this.values[k] * (both - first * PAIR);
      }
      const b = 2 * (BLOCK * block + pair);
      this.#rescale(p * this.stride + b, b, even);
      this.#rescale(p * this.stride + b + 1, b + 1, odd);
    }
  }
}

export function clamped(value, low, high = LIMIT) {
  return value < low ? low : value > high ? high : value;
}

/** A grid of 16-bit activations with a border of zeros. */
export class Grid {
  constructor(height, width, channels) {
    this.height = height;
    this.width = width;
    this.channels = channels;
    this.data = new Int16Array((height + 2) * (width + 2) * channels);
  }

  /** Where the channels of a position begin. */
  at(y, x) {
    return ((y + 1) * (this.width + 2) + x + 1) * this.channels;
  }
}

/** Adds the `channels` first channels of a position, or of the 3x3 positions around it, to a layer's strip. */
function gatherAround(layer, grid, y, x, channels) {
  if (layer.kernel === 1) {
    layer.gather(grid.data, grid.at(y, x), channels, 0);
    return;
  }
  for (let dy = -1, tap = 0; dy <= 1; dy++) {
    for (let dx = -1; dx <= 1; dx++, tap++) {
      layer.gather(grid.data, grid.at(y + dy, x + dx), channels, tap * layer.inputs);
    }
  }
}

/** z -> features phi. */
export class HyperSynthesis {
  constructor(tables, n) {
    this.n = n;
    this.layers = [0, 1, 2, 3].map((i) => new Layer(tables[`h_s.${i}.weight`], tables[`h_s.${i}.bias`], true));
    this.mean = tables.z_mean.data;
    this.qualityBias = tables.quality_bias.data;
  }

  /** symbols (Int16Array, [m_h][h/4][w/4]), quality byte, size of the grid of z -> phi, a Grid of n channels, [h][w]. */
  run(symbols, quality, height, width) {
    const { n, layers: [first, second, third, last] } = this;
    const z = new Grid(height, width, first.inputs);
    for (let c = 0, s = 0; c < z.channels; c++) {
      const mean = this.mean[quality * z.channels + c];
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++, s++) z.data[z.at(y, x) + c] = clamped(256 * symbols[s] + mean, -LIMIT);
      }
    }
    const a = apply(first, z, (out, from, to, y, x) => {
      const at = to.at(y, x);
      for (let c = 0; c < n; c++) to.data[at + c] = clamped(out[from + c] + this.qualityBias[quality * n + c], 0);
    });
    return apply(last, apply(third, apply(second, a, shuffle, 2), shuffle, 2));
  }
}

/** A layer over a whole grid; put(out, from, grid, y, x) writes the outputs of a position, `scale` times as many. */
function apply(layer, grid, put = copy, scale = 1) {
  const { height, width } = grid;
  const found = new Grid(scale * height, scale * width, layer.outputs / scale ** 2);
  const total = height * width;
  for (let start = 0; start < total; start += STRIP) {
    const end = Math.min(start + STRIP, total);
    layer.begin();
    for (let p = start; p < end; p++) {
      layer.next();
      gatherAround(layer, grid, Math.floor(p / width), p % width, grid.channels);
    }
    const out = layer.run();
    for (let p = start; p < end; p++) put(out, (p - start) * layer.stride, found, Math.floor(p / width), p % width);
  }
  return found;
}

function copy(out, from, grid, y, x) {
  const at = grid.at(y, x);
  for (let c = 0; c < grid.channels; c++) grid.data[at + c] = out[from + c];
}

function shuffle(out, from, grid, y, x) {
  for (let u = 0; u < 2; u++) {
    for (let v = 0; v < 2; v++) {
      const at = grid.at(2 * y + u, 2 * x + v);
      for (let j = 0; j < grid.channels; j++) grid.data[at + j] = out[from + 4 * j + 2 * u + v];
    }
  }
}

/** The networks of one pass of y, which decodes `count` channels. */
export class Pass {
  /** name: anchor.g or other.g; seen: channels that its context reads, 0: it has none. */
  constructor(tables, name, seen) {
    const layer = (end, relu) => new Layer(tables[`${name}.${end}.weight`], tables[`${name}.${end}.bias`], relu);
    this.context = seen ? layer("context", false) : null;
    this.first = layer("first", true);
    this.last = layer("last", false);
    this.seen = seen;
    this.count = this.last.outputs / 2;
  }

  /**
   * phi and values (Grids), positions (row and column of each, in turn) -> mean (Int16Array) and table index (Uint8Array),
   * both [channel][position].
   */
  parameters(phi, values, positions) {
    const { context, first, last, count } = this;
    const total = positions.length / 2;
    const mean = new Int16Array(count * total);
    const index = new Uint8Array(count * total);
    for (let start = 0; start < total; start += STRIP) {
      const end = Math.min(start + STRIP, total);
      if (context) {
        context.begin();
        for (let p = start; p < end; p++) {
          context.next();
          gatherAround(context, values, positions[2 * p], positions[2 * p + 1], this.seen);
        }
        context.run();
      }
      first.begin();
      for (let p = start; p < end; p++) {
        first.next();
        first.gather(phi.data, phi.at(positions[2 * p], positions[2 * p + 1]), phi.channels, 0);
        if (context) {
          first.gather(context.out, (p - start) * context.stride, context.outputs, phi.channels);
        }
      }
      first.run();
      last.begin();
      for (let p = start; p < end; p++) {
        last.next();
        last.gather(first.out, (p - start) * first.stride, first.outputs, 0);
      }
      const out = last.run();
      for (let p = start; p < end; p++) {
        const from = (p - start) * last.stride;
        for (let c = 0; c < count; c++) {
          mean[c * total + p] = out[from + c];
          const scaled = Math.floor((8 * out[from + count + c] + 128) / 256) + 16;
          index[c * total + p] = scaled < 0 ? 0 : scaled > 63 ? 63 : scaled;
        }
      }
    }
    return { mean, index };
  }
}
