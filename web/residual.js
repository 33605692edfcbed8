// The residual segment: docs/format.md, section 16.

import { Decoder, ordered } from "./coder.js";
import { StreamError } from "./errors.js";

export const RESIDUAL = 48; // segment type
const SIZES = 4; // of symbols: 0, 1, 2, 3 and more
const ENTRIES = 3;
const HEAD = 4; // bytes
const AREA = 8;
const REFINED_TABLES = 64 * SIZES;

/** Content of the segment, rows and columns of y -> {higher, lowest, thirds, areas, string}. Throws StreamError. */
export function readSettings(data, h, w) {
  const count = data.length >= HEAD ? data[HEAD - 1] : 0;
  const end = HEAD + count * AREA;
  if (data.length < end) {
    throw new StreamError(`the residual layer has ${data.length} bytes, wanted at least ${end}: the file is damaged`);
  }
  const view = new DataView(data.buffer, data.byteOffset, end);
  const areas = Array.from({ length: count }, (_, i) => {
    const [row, column, rows, columns] = [0, 2, 4, 6].map((at) => view.getUint16(HEAD + i * AREA + at, true));
    return { row, column, rows, columns };
  });
  const inside = areas.every(({ row, column, rows, columns }) =>
    rows > 0 && rows <= h - row && columns > 0 && columns <= w - column);
  if (data[1] >= 64 || data[2] > 64 || !inside) {
    throw new StreamError("the residual layer has a field out of range: the file is damaged or forged");
  }
  return { higher: data[0], lowest: data[1], thirds: data[2], areas, string: data.subarray(end) };
}

/**
 * Adds what the string says to yHatQ (Float32Array [m][h][w]).
 * index, symbols: what was decoded at every place of y, [m][h][w]; frequency: Int32Array [64][4][3].
 */
export function refine(yHatQ, { index, symbols, h, w }, { lowest, thirds, areas, string }, frequency) {
  const chosen = new Uint8Array(h * w).fill(areas.length ? 0 : 1);
  for (const { row, column, rows, columns } of areas) {
    for (let y = row; y < row + rows; y++) chosen.fill(1, y * w + column, y * w + column + columns);
  }
  const table = new Uint16Array(index.length); // 0: not refined, else one more than the table
  for (let i = 0; i < index.length; i++) {
    if (index[i] >= lowest && chosen[i % (h * w)]) table[i] = 1 + SIZES * index[i] + Math.min(Math.abs(symbols[i]), SIZES - 1);
  }
  const { order, ends } = ordered(table, 1, REFINED_TABLES + 1);
  const decoder = new Decoder(string);
  for (let t = 0; t < REFINED_TABLES; t++) {
    const [first, second] = frequency.subarray(ENTRIES * t, ENTRIES * t + 2);
    const byThirds = t >= SIZES * thirds;
    const cdf = byThirds ? [0, first, first + second, 65536] : [0, first + (second >> 1), 65536];
    for (let k = ends[t + 1]; k < ends[t + 2]; k++) {
      const i = order[k];
      const entry = decoder.entry(cdf, 1);
      const d = byThirds ? Math.fround((entry - 1) / 3) : (2 * entry - 1) / 4;
      yHatQ[i] += symbols[i] < 0 ? -d : d;
    }
  }
  decoder.finish("the residual layer does not end where its values end: the file is damaged or forged");
}
