// The semantic layers, exactly: a map of regions, and values of each of them. docs/format.md, sections 13 and 14.

import { CoderTables, Decoder } from "./coder.js";
import { QUALITY_STEPS } from "./container.js";
import { StreamError } from "./errors.js";
import { clamped } from "./networks.js";
import { LIMIT } from "./tables.js";

export const STRUCTURE = 16; // segment types
export const TEXTURE = 17;
export const CELL = 16; // pixels to a label, both ways
const MOST_REGIONS = 32;
const PATTERNS = 256;
const CHANNELS = 16;
const INPUTS = 2 * CHANNELS + 1;
const STEPS = [32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1024];
const FULL = 65536;
const UNFINISHED = "a layer does not end where its content ends: the file is damaged or forged";

export class Semantic {
  /** tables: as of `readSemantic`. */
  constructor(tables) {
    this.tables = tables;
    this.coder = new CoderTables(tables, "t");
  }

  /**
   * The regions of a file -> {rows, columns, count, labels, classes, values, step}. Throws StreamError.
   * content: as of `unpack`; latent(): what `Reader.latent` gives, for a file without a structure segment.
   * labels: Uint8Array [row][column]; classes: the class of every region, null where the map is written in the file;
   * values: Int32Array [region][16] in 1/256, and step: its index, null without a texture segment.
   */
  read({ height, width, quality, segments }, latent) {
    const [rows, columns] = [height, width].map((side) => Math.ceil(side / CELL));
    const [written, coded] = [STRUCTURE, TEXTURE].map((type) => segments.find((segment) => segment.type === type)?.data);
    const map = written ? { labels: this.#map(written, rows, columns), classes: null } : this.#derived(latent(), quality, rows, columns);
    const count = 1 + map.labels.reduce((most, label) => Math.max(most, label), 0);
    const described = coded ? this.#values(coded, areas(map.labels, count)) : { values: null, step: null };
    return { rows, columns, count, ...map, ...described };
  }

  /** Section 13. */
  #map(data, rows, columns) {
    const decoder = new Decoder(data);
    const counts = Uint16Array.from(this.tables.start.data);
    const decision = (context) => {
      const at = 2 * context;
      const ones = Math.floor((FULL * counts[at + 1]) / (counts[at] + counts[at + 1]));
      const bit = decoder.entry([0, FULL - Math.max(32, Math.min(FULL - 32, ones)), FULL], 0);
      counts[at + bit] += 16;
      if (counts[at] + counts[at + 1] > 4080) {
        for (const i of [at, at + 1]) counts[i] = (counts[i] + 1) >> 1;
      }
      return bit;
    };
    const labels = new Uint8Array(rows * columns);
    let used = 1;
    for (let i = 1; i < labels.length; i++) {
      const [row, column] = [Math.floor(i / columns), i % columns];
      const w = column ? labels[i - 1] : labels[i - columns];
      const n = row ? labels[i - columns] : w;
      const nw = row && column ? labels[i - columns - 1] : n;
      const ne = row && column + 1 < columns ? labels[i - columns + 1] : n;
      const ww = column > 1 ? labels[i - 2] : w;
      const nn = row > 1 ? labels[i - 2 * columns] : n;
      const pattern = [n === w, nw === w, nw === n, ne === n, ne === w, ww === w, nn === n, ww === nw]
        .reduce((sum, equal, bit) => sum + (equal << bit), 0);
      const tried = [];
      const found = [w, n, nw, ne].find((neighbor, k) => {
        if (tried.includes(neighbor)) return false;
        tried.push(neighbor);
        return decision(PATTERNS * k + pattern) === 1;
      });
      if (found !== undefined) {
        labels[i] = found;
        continue;
      }
      const old = Array.from({ length: used }, (_, label) => label).filter((label) => !tried.includes(label));
      if (used < MOST_REGIONS && (!old.length || decision(4 * PATTERNS + used - 1))) {
        labels[i] = used++;
      } else {
        const edges = Array.from({ length: old.length + 1 }, (_, e) => Math.floor((FULL * e) / old.length));
        labels[i] = old[old.length > 1 ? decoder.entry(edges, 0) : 0];
      }
    }
    decoder.finish(UNFINISHED);
    return labels;
  }

  /** Section 14: a map that costs no bytes. */
  #derived({ latentQ, m, h, w }, quality, rows, columns) {
    const { weight, bias, inverse } = this.tables;
    const [k, classes] = [Math.min(Math.floor(quality / QUALITY_STEPS), inverse.shape[0] - 2), weight.shape[0]];
    const p = quality - QUALITY_STEPS * k;
    const score = Array.from({ length: classes }, (_, g) => new Float64Array(rows * columns).fill(bias.data[g]));
    for (let c = 0; c < m; c++) {
      const gain = (16 - p) * inverse.data[k * m + c] + p * inverse.data[(k + 1) * m + c];
      const x = new Float64Array(rows * columns);
      for (let i = 0; i < x.length; i++) {
        const v = 256 * latentQ[(c * h + Math.floor(i / columns)) * w + (i % columns)];
        x[i] = Math.max(-1048576, Math.min(1048576, Math.floor((v * gain) / FULL)));
      }
      const sums = boxes(x, rows, columns);
      for (let g = 0; g < classes; g++) {
        for (let i = 0; i < sums.length; i++) score[g][i] += weight.data[g * m + c] * sums[i];
      }
    }
    const labels = new Uint8Array(rows * columns);
    const found = [];
    for (let i = 0; i < labels.length; i++) {
      let best = 0;
      for (let g = 1; g < classes; g++) if (score[g][i] > score[best][i]) best = g;
      if (!found.includes(best)) found.push(best);
      labels[i] = found.indexOf(best);
    }
    return { labels, classes: found };
  }

  /** Section 14: values of regions with these areas in cells. */
  #values(data, sizes) {
    const step = data[0];
    if (!(step < STEPS.length)) {
      throw new StreamError(
        `the texture's step is ${step ?? "missing"}, wanted 0 to ${STEPS.length - 1}: the file is damaged or forged`,
      );
    }
    const decoder = new Decoder(data.subarray(1));
    const count = sizes.length;
    const known = sizes.map((size) => {
      const row = new Float64Array(INPUTS);
      row[INPUTS - 1] = 256 * (31 - Math.clz32(size));
      return row;
    });
    const sum = (name, channel, row) => {
      const [weight, bias] = [this.tables[`${name}.weight`].data, this.tables[`${name}.bias`].data];
      let total = bias[channel] + 512;
      for (let j = 0; j < INPUTS; j++) total += weight[channel * INPUTS + j] * row[j];
      return Math.floor(total / 1024);
    };
    for (let c = 0; c < CHANNELS; c++) {
      const means = known.map((row) => clamped(sum("mean", c, row), -LIMIT, LIMIT));
      const index = Uint8Array.from(known, (row) => {
        const level = sum("scale", c, row.map(Math.abs));
        return clamped(Math.floor((level + 128) / 256) - 2 * step, 0, this.coder.cdfs.length - 1);
      });
      const symbols = new Int16Array(count);
      decoder.take(index, this.coder, symbols);
      known.forEach((row, r) => (row[c] = clamped(means[r] + STEPS[step] * symbols[r], -LIMIT, LIMIT)));
      const average = Math.floor(known.reduce((total, row) => total + row[c], 0) / count);
      for (const row of known) row[CHANNELS + c] = average;
    }
    decoder.finish();
    return { step, values: Int32Array.from(known.flatMap((row) => [...row.subarray(0, CHANNELS)])) };
  }
}

/** Cells of each region. */
export function areas(labels, count) {
  const found = new Array(count).fill(0);
  for (const label of labels) found[label]++;
  return found;
}

/** Sums over 3x3 cells; the border repeats. */
function boxes(x, rows, columns) {
  const across = x.map((value, i) => x[i % columns ? i - 1 : i] + value + x[(i + 1) % columns ? i + 1 : i]);
  return across.map((value, i) => across[i < columns ? i : i - columns] + value + across[i + columns < x.length ? i + columns : i]);
}
