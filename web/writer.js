// Writes .gic files from docs/format.md alone: the same bytes as Python for the same features.

import { Encoder } from "./coder.js";
import { LATENT, SEGMENTS, VERSION, crc32 } from "./container.js";
import { LIMIT } from "./tables.js";

/**
 * Features in quantization steps -> {data, symbolsSha256}; data: the file (Uint8Array).
 * reader: a `Reader`; yQ: Float32Array [m][h][w] of the padded image, z: Float32Array [m_h][h/4][w/4], as hyper.onnx gives them;
 * quality: the file's byte; height, width: of the image.
 */
export function write(reader, yQ, z, { quality, height, width, h, w }) {
  const encoder = new Encoder();
  const { symbolsSha256 } = reader.walk(quality, h, w, (index, coder, symbols, mean, place) => {
    if (place === null) {
      for (let i = 0; i < symbols.length; i++) symbols[i] = symbol(z[i], mean[i]);
    } else {
      const { start, at } = place;
      for (let i = 0, c = start; i < symbols.length; c++) {
        for (let p = 0; p < at.length; p += 2, i++) {
          if (index[i] >= coder.certain) symbols[i] = symbol(yQ[(c * h + at[p]) * w + at[p + 1]], mean[i]);
        }
      }
    }
    encoder.add(index, coder, symbols);
  });
  const content = { encoderId: reader.encoderId, quality, height, width, string: encoder.finish() };
  return { data: pack(content), symbolsSha256 };
}

/** The nearest integer, of two the even one, within the range that can be coded. */
function symbol(value, mean) {
  const exact = value - mean / 256;
  const nearest = Math.round(exact); // halves up
  const even = nearest - exact === 0.5 && nearest % 2 !== 0 ? nearest - 1 : nearest;
  return Math.max(-LIMIT, Math.min(LIMIT, even));
}

/** Content as of `unpack` -> a file (Uint8Array). */
export function pack({ encoderId, quality, height, width, string, segments = [] }) {
  const bytes = [0x47, 0x49, 0x43, VERSION | (segments.length ? SEGMENTS : 0), encoderId & 0xff, quality];
  const put = (more) => {
    for (const byte of more) bytes.push(byte);
  };
  const check = () => {
    const value = crc32(Uint8Array.from(bytes)) ^ encoderId;
    put([0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff));
  };
  put(varint(height));
  put(varint(width));
  if (!segments.length) {
    put(string);
    check();
    return Uint8Array.from(bytes);
  }
  const parts = string === null ? segments : [...segments, { type: LATENT, data: string }];
  for (const { type, data } of [...parts].sort((a, b) => a.type - b.type)) {
    bytes.push(type);
    put(varint(data.length));
    put(data);
    check();
  }
  return Uint8Array.from(bytes);
}

function varint(value) {
  const found = [];
  for (; value >= 0x80; value = Math.floor(value / 0x80)) found.push((value % 0x80) | 0x80);
  return [...found, value];
}
