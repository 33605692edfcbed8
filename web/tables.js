// The integer tables of an encoder, straight out of its weight file (safetensors): docs/format.md, section 3.

import { QUALITY_STEPS } from "./container.js";
import { WeightsError } from "./errors.js";

export const TABLES = 64;
export const LIMIT = 32767; // of symbols, and of values in integer networks
const PREFIX = "entropy.";
const TYPES = {
  I16: Int16Array,
  I32: Int32Array,
  I64: BigInt64Array,
  U8: Uint8Array,
  U16: Uint16Array,
  F32: Float32Array,
};

const TEXTURE = {
  "mean.weight": ["I16", 16, 33],
  "mean.bias": ["I32", 16],
  "scale.weight": ["I16", 16, 33],
  "scale.bias": ["I32", 16],
  t_cdf: ["I32", 24, -1],
  t_cdf_length: ["I32", 24],
  t_cdf_offset: ["I32", 24],
};

/**
 * A weight file (Uint8Array) -> {config, encoderId, tables}.
 * config: m, mH, n, levels, certain, groups. encoderId: of the metadata, or undefined: then it is the hash of the file.
 * tables: name without its prefix -> {shape, data}, checked; log_inverse among them.
 */
export function readTables(bytes) {
  bytes = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length); // not node's Buffer, whose slice is no copy
  try {
    const { header, start } = readHeader(bytes);
    const metadata = header.__metadata__ ?? {};
    const config = readConfig(JSON.parse(metadata.config));
    const tables = {};
    for (const [name, shape] of Object.entries(shapes(config))) {
      const stored = name === "log_inverse" ? name : PREFIX + name;
      tables[name] = readTensor(bytes, start, header, stored, shape);
    }
    check(tables, ["y", "z"]);
    need(tables.z_index.data.every((t) => t < TABLES), "z_index names a table that does not exist");
    const encoderId = metadata.encoder_id === undefined ? undefined : Number.parseInt(metadata.encoder_id, 16);
    return { config, encoderId, tables };
  } catch (error) {
    const reason = String(error.message).replace(/\s+/g, " ").slice(0, 200);
    throw new WeightsError(`not the tables of an encoder (${reason}): get them again`);
  }
}

/** The weight file of the residual layer -> {encoderId, frequency: Int32Array [64][4][3]}. Throws WeightsError. */
export function readResidual(bytes) {
  bytes = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  try {
    const { header, start } = readHeader(bytes);
    const { data } = readTensor(bytes, start, header, "frequency", ["I32", TABLES, 4, 3]);
    for (let i = 0; i < data.length; i += 3) {
      const row = data.subarray(i, i + 3);
      need(Math.min(...row) >= 1 && row[0] + row[1] + row[2] === 65536, "its frequencies do not add up");
    }
    return { encoderId: Number.parseInt(header.__metadata__.encoder_id, 16), frequency: data };
  } catch (error) {
    throw new WeightsError(`not the tables of the residual layer (${error.message}): get them again`);
  }
}

/**
 * The weight file of the semantic layers, or its tables alone -> {encoderId, tables}: name -> {shape, data}. m, levels: of the
 * encoder. Throws WeightsError.
 */
export function readSemantic(bytes, { m, levels }) {
  bytes = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  try {
    const { header, start } = readHeader(bytes);
    const read = (name, shape) => readTensor(bytes, start, header, name, shape);
    const tables = {
      start: read("structure.start", ["U16", 1056, 2]),
      weight: read("classes.weight", ["I16", -1, m]),
      inverse: read("classes.inverse", ["I32", levels, m]),
    };
    const bias = read("classes.bias", ["I64", tables.weight.shape[0]]);
    tables.bias = { shape: bias.shape, data: Float64Array.from(bias.data, Number) };
    for (const [name, shape] of Object.entries(TEXTURE)) tables[name] = read(`texture.${name}`, shape);
    check(tables, ["t"]);
    need(tables.start.data.every((count) => count > 0), "a count is 0");
    need(tables.weight.shape[0] >= 1, "there are no classes");
    return { encoderId: Number.parseInt(header.__metadata__.encoder_id, 16), tables };
  } catch (error) {
    throw new WeightsError(`not the tables of the semantic layers (${error.message}): get them again`);
  }
}

function need(condition, message) {
  if (!condition) throw new WeightsError(message);
}

function readHeader(bytes) {
  need(bytes.length >= 8, `${bytes.length} bytes`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const length = view.getUint32(0, true);
  need(view.getUint32(4, true) === 0 && length <= bytes.length - 8, "the header is longer than the file");
  const header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(8, 8 + length)));
  need(header !== null && typeof header === "object", "no header");
  return { header, start: 8 + length };
}

function readConfig(config) {
  const { m, m_h: mH, n, levels, certain, groups } = config;
  const whole = (value, low, high) => Number.isInteger(value) && value >= low && value <= high;
  need([m, mH, n].every((value) => whole(value, 1, 4096)) && whole(levels, 2, 12), "impossible sizes");
  need(whole(certain, 0, TABLES), `certain is ${certain}`);
  need(Array.isArray(groups) && groups.every((count) => whole(count, 1, m)), "impossible groups");
  need(groups.reduce((sum, count) => sum + count, 0) === m, "the groups do not add up to m");
  return { m, mH, n, levels, certain, groups, rows: QUALITY_STEPS * (levels - 1) + 1 };
}

/** Name -> [type, ...shape]; -1: any. */
function shapes({ m, mH, n, levels, groups, rows }) {
  const layers = { "h_s.0": [n, mH, 1], "h_s.1": [4 * n, n, 3], "h_s.2": [4 * n, n, 3], "h_s.3": [n, n, 1] };
  let start = 0;
  groups.forEach((count, g) => {
    for (const [name, seen] of [[`anchor.${g}`, start], [`other.${g}`, start + count]]) {
      if (seen) layers[`${name}.context`] = [n, seen, 3];
      layers[`${name}.first`] = [2 * n, seen ? 2 * n : n, 1];
      layers[`${name}.last`] = [2 * count, 2 * n, 1];
    }
    start += count;
  });
  const found = {};
  for (const [name, [o, i, k]] of Object.entries(layers)) {
    found[`${name}.weight`] = ["I16", o, i, k, k];
    found[`${name}.bias`] = ["I32", o];
  }
  found.quality_bias = ["I16", rows, n];
  found.z_mean = ["I16", rows, mH];
  found.z_index = ["U8", rows, mH];
  for (const kind of ["y", "z"]) {
    found[`${kind}_cdf`] = ["I32", TABLES, -1];
    found[`${kind}_cdf_length`] = ["I32", TABLES];
    found[`${kind}_cdf_offset`] = ["I32", TABLES];
  }
  found.log_inverse = ["F32", levels, m];
  return found;
}

function readTensor(bytes, start, header, name, [type, ...wanted]) {
  const entry = Object.hasOwn(header, name) ? header[name] : undefined;
  need(entry, `${name} is missing`);
  const { dtype, shape, data_offsets: offsets } = entry;
  need(dtype === type, `${name} is ${dtype}, wanted ${type}`);
  const fits = Array.isArray(shape) && shape.length === wanted.length &&
    shape.every((side, i) => Number.isInteger(side) && side >= 0 && (wanted[i] === -1 || side === wanted[i]));
  need(fits, `${name} is [${shape}], wanted [${wanted}]`);
  const size = shape.reduce((product, side) => product * side, TYPES[type].BYTES_PER_ELEMENT);
  const room = bytes.length - start;
  need(Array.isArray(offsets) && offsets.every(Number.isInteger), `${name} has no place`);
  const [begin, end] = offsets;
  need(begin >= 0 && end <= room && end - begin === size, `${name} does not fit its place`);
  const copy = bytes.slice(start + begin, start + end); // its own buffer: aligned
  return { shape, data: new TYPES[type](copy.buffer) };
}

/** The values that reading relies on. */
function check(tables, kinds) {
  for (const kind of kinds) {
    const { shape: [, longest], data: cdf } = tables[`${kind}_cdf`];
    const lengths = tables[`${kind}_cdf_length`].data;
    const offsets = tables[`${kind}_cdf_offset`].data;
    for (let t = 0; t < lengths.length; t++) {
      const row = cdf.subarray(t * longest, t * longest + lengths[t]);
      need(lengths[t] >= 3 && lengths[t] <= longest, `${kind}_cdf_length is out of range`);
      const rises = row.every((value, i) => i === 0 || value > row[i - 1]);
      need(rises && row[0] === 0 && row[row.length - 1] === 65536, `${kind}_cdf does not rise from 0 to 65536`);
      const last = offsets[t] + lengths[t] - 3;
      need(offsets[t] >= -LIMIT && last <= LIMIT, `${kind}_cdf_offset is out of range`);
    }
  }
  for (const [name, { data }] of Object.entries(tables)) {
    if (data instanceof Int16Array) need(!data.includes(-32768), `${name} is out of the range in which sums are exact`);
  }
}
