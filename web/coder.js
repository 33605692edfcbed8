// The entropy coder: docs/format.md, sections 6, 7 and 12. The 64-bit state is kept in two halves of 32 bits.

import { StreamError } from "./errors.js";
import { LIMIT, TABLES } from "./tables.js";

const LARGEST_LENGTH = 16; // of an escape
const IMPOSSIBLE = "the entropy string holds an impossible symbol: the file is damaged or forged";

/** The frequency tables of y or z in the order that reading wants. */
export class CoderTables {
  constructor(tables, kind, certain = 0) {
    const { shape: [, longest], data } = tables[`${kind}_cdf`];
    this.certain = certain;
    this.offsets = tables[`${kind}_cdf_offset`].data;
    this.cdfs = Array.from(tables[`${kind}_cdf_length`].data, (length, t) =>
      data.slice(t * longest, t * longest + length));
    this.likeliest = this.cdfs.map((cdf) => {
      let best = 0;
      for (let e = 1; e < cdf.length - 1; e++) if (cdf[e + 1] - cdf[e] > cdf[best + 1] - cdf[best]) best = e;
      return best;
    });
    this.leastBits = this.cdfs.map((cdf, t) => {
      const e = this.likeliest[t];
      return 16 - Math.log2(cdf[e + 1] - cdf[e]);
    });
  }
}

/** Places of the symbols that are coded, in the order of coding, and where those of each table begin in it. */
export function ordered(index, certain, tables = TABLES) {
  const ends = new Uint32Array(tables + 1); // counting sort: stable
  for (let i = 0; i < index.length; i++) if (index[i] >= certain) ends[index[i] + 1]++;
  for (let t = 0; t < tables; t++) ends[t + 1] += ends[t];
  const order = new Uint32Array(ends[tables]);
  const next = ends.slice();
  for (let i = 0; i < index.length; i++) if (index[i] >= certain) order[next[index[i]]++] = i;
  return { order, ends };
}

export class Decoder {
  #words;
  #left; // words not taken yet
  #high = 0;
  #low = 0;

  /** string: Uint8Array. */
  constructor(string) {
    if (string.length && string[string.length - 1] === 0) {
      throw new StreamError("the entropy string ends with a zero byte: the file is damaged or forged");
    }
    this.#left = string.length ? Math.ceil((string.length + 1) / 4) : 0;
    const bytes = new Uint8Array(4 * this.#left);
    if (this.#left) bytes.set(string, 1);
    const view = new DataView(bytes.buffer);
    this.#words = Uint32Array.from({ length: this.#left }, (_, i) => view.getUint32(4 * i, true));
    this.#refill();
    this.#refill();
  }

  /** Table index of each symbol of a pass (Uint8Array) -> the symbols, written into `symbols` (Int16Array). */
  take(index, tables, symbols) {
    const { order, ends } = ordered(index, tables.certain, tables.cdfs.length);
    const escaped = [];
    for (let t = tables.certain; t < tables.cdfs.length; t++) {
      const cdf = tables.cdfs[t];
      const escape = cdf.length - 2;
      for (let k = ends[t]; k < ends[t + 1]; k++) {
        const e = this.entry(cdf, tables.likeliest[t]);
        if (e === escape) escaped.push(order[k]);
        else symbols[order[k]] = e + tables.offsets[t];
      }
    }
    this.#escapes(escaped, index, tables, symbols);
  }

  /** Refuses a string that holds more than what was read. */
  finish(message = "the entropy string does not end where its symbols end: the file is damaged or forged") {
    if (this.#left || this.#high || this.#low) throw new StreamError(message);
  }

  #escapes(places, index, tables, symbols) {
    const lengths = places.map(() => this.#raw(5));
    if (lengths.some((length) => length > LARGEST_LENGTH)) throw new StreamError(IMPOSSIBLE);
    places.forEach((place, i) => {
      const length = lengths[i];
      const d = 2 ** length - 1 + (length ? this.#raw(length) : 0);
      const t = index[place];
      const offset = tables.offsets[t];
      const symbol = d % 2 ? offset - (d + 1) / 2 : offset + tables.cdfs[t].length - 2 + d / 2;
      if (Math.abs(symbol) > LIMIT) throw new StreamError(IMPOSSIBLE);
      symbols[place] = symbol;
    });
  }

  /** One entry of a table of cumulative frequencies, 0 to 65536; guess: the likeliest one. */
  entry(cdf, guess) {
    const quantile = (this.#low & 0xffffff) >>> 8; // the tables' 16 bits
    let e = guess;
    if (quantile < cdf[e] || quantile >= cdf[e + 1]) {
      let high;
      if (quantile < cdf[e]) [e, high] = [0, e];
      else [e, high] = [e + 1, cdf.length - 1];
      while (high - e > 1) {
        const middle = (e + high) >>> 1;
        if (cdf[middle] <= quantile) e = middle;
        else high = middle;
      }
    }
    this.#advance(256 * cdf[e], 256 * (cdf[e + 1] - cdf[e]));
    return e;
  }

  #raw(bits) {
    const frequency = 2 ** (24 - bits);
    const e = Math.floor((this.#low & 0xffffff) / frequency);
    this.#advance(e * frequency, frequency);
    return e;
  }

  /** state = (state >> 24) * frequency + (state mod 2^24) - start, then a word where it is below 2^32. */
  #advance(start, frequency) {
    const upper = this.#high >>> 12; // state >> 24 = upper * 2^20 + lower
    const lower = (this.#high & 0xfff) * 256 + (this.#low >>> 24);
    const first = upper * frequency; // below 2^44
    const second = lower * frequency + (this.#low & 0xffffff) - start; // below 2^45
    const low = (first % 4096) * 2 ** 20 + second; // state = floor(first / 2^12) * 2^32 + low
    this.#high = Math.floor(first / 4096) + Math.floor(low / 2 ** 32);
    this.#low = low >>> 0;
    if (this.#high === 0) this.#refill();
  }

  #refill() {
    if (!this.#left) return;
    this.#high = this.#low;
    this.#low = this.#words[--this.#left];
  }
}

/** Collects the passes of an image in the order of reading, then writes its string: docs/format.md, section 12. */
export class Encoder {
  #starts = []; // of entries, in the order of reading: arrays of one pass each ...
  #frequencies = []; // ... and their frequencies, both in units of 2^-24

  /** Symbols of a pass (Int16Array), zero where the table is certain, and the table index of each (Uint8Array). */
  add(index, tables, symbols) {
    const { order, ends } = ordered(index, tables.certain);
    const starts = [];
    const frequencies = [];
    const put = (start, frequency) => {
      starts.push(start);
      frequencies.push(frequency);
    };
    const distances = [];
    for (let t = tables.certain; t < TABLES; t++) {
      const cdf = tables.cdfs[t];
      const escape = cdf.length - 2;
      for (let k = ends[t]; k < ends[t + 1]; k++) {
        let e = symbols[order[k]] - tables.offsets[t];
        if (e < 0 || e >= escape) {
          distances.push(e < 0 ? -2 * e : 2 * (e - escape) + 1); // one more than the distance
          e = escape;
        }
        put(256 * cdf[e], 256 * (cdf[e + 1] - cdf[e]));
      }
    }
    const lengths = distances.map((distance) => 31 - Math.clz32(distance));
    const raw = (value, bits) => put(value * 2 ** (24 - bits), 2 ** (24 - bits));
    lengths.forEach((length) => raw(length, 5));
    lengths.forEach((length, i) => length && raw(distances[i] - 2 ** length, length));
    this.#starts.push(Uint32Array.from(starts));
    this.#frequencies.push(Uint32Array.from(frequencies));
  }

  /** -> the string (Uint8Array). */
  finish() {
    const words = [];
    let [high, low] = [0, 0];
    for (let pass = this.#starts.length - 1; pass >= 0; pass--) {
      const [starts, frequencies] = [this.#starts[pass], this.#frequencies[pass]];
      for (let i = starts.length - 1; i >= 0; i--) {
        const frequency = frequencies[i];
        if (high >>> 8 >= frequency) {
          words.push(low);
          [high, low] = [0, high];
        }
        // state = floor(state / frequency) * 2^24 + start + state mod frequency; the division, 32, 16 and 16 bits at a time
        const upper = (high % frequency) * 65536 + (low >>> 16);
        const lower = (upper % frequency) * 65536 + (low & 0xffff);
        const quotient =
          Math.floor(high / frequency) * 2 ** 32 + Math.floor(upper / frequency) * 65536 + Math.floor(lower / frequency);
        high = Math.floor(quotient / 256);
        low = (quotient % 256) * 2 ** 24 + starts[i] + (lower % frequency);
      }
    }
    for (; high || low; [high, low] = [0, high]) words.push(low);
    const bytes = new Uint8Array(4 * words.length);
    const view = new DataView(bytes.buffer);
    words.forEach((word, i) => view.setUint32(4 * i, word, true));
    let end = bytes.length;
    while (end > 1 && bytes[end - 1] === 0) end--;
    return bytes.slice(Math.min(1, end), end);
  }
}
