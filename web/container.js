// The frame of a .gic file, version 2: docs/format.md, sections 1 and 2.

import { StreamError } from "./errors.js";

export const MAX_PIXELS = 2 ** 26; // of the padded image; a larger one must be asked for
export const STRIDE = 16; // pixels to a position of y
export const QUALITY_STEPS = 16; // of a file's quality byte, to a level
export const VERSION = 2;
export const SEGMENTS = 0x10; // flag: the file has segments
export const LATENT = 32; // segment type: the entropy string
const CRITICAL = 0x80; // segment types from here up
const MAX_QUALITY = 176;
const MAX_SIDE = 65535;
const PAD = 64;
const CHECK = 4; // bytes

const CRC = new Int32Array(256).map((_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

/** CRC-32 of zlib, PNG and gzip; before: that of the bytes in front of these. */
export function crc32(bytes, before = 0) {
  let crc = ~before;
  for (let i = 0; i < bytes.length; i++) crc = (crc >>> 8) ^ CRC[(crc ^ bytes[i]) & 0xff];
  return ~crc >>> 0;
}

/** A side of the image -> the side that is coded. */
export function padded(side) {
  return Math.ceil(side / PAD) * PAD;
}

/**
 * Reads a file (Uint8Array) up to its entropy string; allocates nothing but small objects.
 * -> {encoderId, quality, height, width, string, segments: [{type, data}], seed}; string is null in a file without a latent.
 */
export function unpack(data, { maxPixels = MAX_PIXELS } = {}) {
  if (data[0] !== 0x47 || data[1] !== 0x49 || data[2] !== 0x43) {
    const first = hex(data.subarray(0, 3)) || "nothing";
    throw new StreamError(`not a .gic file: it begins with ${first}, wanted 474943`);
  }
  const version = data.length > 3 ? data[3] & 0x0f : VERSION;
  if (version !== VERSION) {
    const advice = version < VERSION ? "encode the image again" : "update priorcodec";
    throw new StreamError(`file version ${version}, but this priorcodec reads version ${VERSION}: ${advice}`);
  }
  const body = data.subarray(0, Math.max(0, data.length - CHECK));
  const check = data.length < CHECK ? 0 : uint32(data.subarray(body.length));
  const encoderId = (check ^ crc32(body)) >>> 0;
  if (data.length < 6 + CHECK || (encoderId & 0xff) !== data[4]) {
    throw new StreamError(
      `the file is damaged or cut short: its ${data.length} bytes do not match its checksum; get it again`,
    );
  }
  if ((data[3] & ~SEGMENTS) !== VERSION) {
    const flags = (data[3] & 0xf0).toString(16).padStart(2, "0");
    throw new StreamError(`unknown flags 0x${flags}, wanted 0x00 or 0x10: update priorcodec`);
  }
  const fields = new Fields(data[3] & SEGMENTS ? data : body, 6);
  const height = fields.varint("height");
  const width = fields.varint("width");
  checkSize(height, width, maxPixels);
  const parts = [];
  let string = null;
  let seed = check;
  if (data[3] & SEGMENTS) {
    for (let crc = 0, done = 0, last = -1; fields.left || !done; ) {
      const type = fields.take(1, "segment type")[0];
      const part = { type, data: fields.take(fields.varint("segment length"), "segment") };
      crc = crc32(data.subarray(done, fields.at), crc);
      done = fields.at;
      const own = uint32(fields.take(CHECK, "check of a segment"));
      if (((crc ^ own) >>> 0) !== encoderId) {
        throw new StreamError(`the check of segment type ${type} does not match: the file is damaged or forged`);
      }
      if (type <= last) {
        throw new StreamError(`segment type ${type} follows ${last}, wanted rising types: the file is damaged or forged`);
      }
      last = type;
      parts.push(part);
      if (type === LATENT) [string, seed] = [part.data, own];
    }
  } else {
    string = fields.take(fields.left, "entropy string");
  }
  inRange("quality", data[5], 0, MAX_QUALITY);
  for (const { type } of parts) {
    if (type >= CRITICAL) {
      throw new StreamError(`segment type ${type} is critical and unknown to this version: update priorcodec`);
    }
  }
  const segments = parts.filter(({ type }) => type !== LATENT);
  return { encoderId, quality: data[5], height, width, string, segments, seed };
}

function uint32(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
}

/** Refuses a side beyond the format, or a padded image of more than maxPixels pixels. */
export function checkSize(height, width, maxPixels) {
  inRange("height", height, 1, MAX_SIDE);
  inRange("width", width, 1, MAX_SIDE);
  const [rows, columns] = [padded(height), padded(width)];
  if (!(rows * columns <= maxPixels)) {
    throw new StreamError(
      `the image is ${width}x${height}, with its padding ${columns}x${rows}, more than ${maxPixels} pixels: ` +
        "raise max_pixels if you trust it",
    );
  }
}

function inRange(name, value, low, high) {
  if (value < low || value > high) {
    throw new StreamError(`${name} is ${value}, wanted a whole number from ${low} to ${high}`);
  }
}

function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Reads fields one after the other, never past the end. */
class Fields {
  constructor(bytes, at) {
    this.bytes = bytes;
    this.at = at;
  }

  get left() {
    return this.bytes.length - this.at;
  }

  take(length, name) {
    if (length > this.left) {
      throw new StreamError(
        `the ${name} should have ${length} bytes, but only ${this.left} are left: the file is damaged`,
      );
    }
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  varint(name) {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.take(1, name)[0];
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) {
        if ((shift && !byte) || value >= 2 ** 32) break;
        return value;
      }
    }
    throw new StreamError(`the ${name} is not a varint below 2**32 in its shortest form: the file is damaged`);
  }
}
