// The frame of a .gic file, version 2: docs/format.md, sections 1 and 2.

import { StreamError } from "./errors.js";

export const MAX_PIXELS = 2 ** 26; // of the padded image; a larger one must be asked for
const VERSION = 2;
const SEGMENTS = 0x10; // flag: segments follow
const CRITICAL = 0x80; // segment types from here up
const MAX_QUALITY = 176;
const MAX_SIDE = 65535;
const PAD = 64;
const CHECK = 4; // bytes

const CRC = new Int32Array(256).map((_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

/** CRC-32 of zlib, PNG and gzip. */
export function crc32(bytes) {
  let crc = -1;
  for (let i = 0; i < bytes.length; i++) crc = (crc >>> 8) ^ CRC[(crc ^ bytes[i]) & 0xff];
  return ~crc >>> 0;
}

/** A side of the image -> the side that is coded. */
export function padded(side) {
  return Math.ceil(side / PAD) * PAD;
}

/**
 * Reads a file (Uint8Array) up to its entropy string; allocates nothing but small objects.
 * -> {encoderId, quality, height, width, string, segments: [{type, data}], seed}
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
  const seed = data.length < CHECK ? 0 : new DataView(data.buffer, data.byteOffset + body.length).getUint32(0, true);
  const encoderId = (seed ^ crc32(body)) >>> 0;
  if (data.length < 6 + CHECK || (encoderId & 0xff) !== data[4]) {
    throw new StreamError(
      `the file is damaged or cut short: its ${data.length} bytes do not match its checksum; get it again`,
    );
  }
  if ((data[3] & ~SEGMENTS) !== VERSION) {
    const flags = (data[3] & 0xf0).toString(16).padStart(2, "0");
    throw new StreamError(`unknown flags 0x${flags}, wanted 0x00 or 0x10: update priorcodec`);
  }
  const fields = new Fields(body, 6);
  const height = fields.varint("height");
  const width = fields.varint("width");
  checkSize(height, width, maxPixels);
  const segments = [];
  let string;
  if (data[3] & SEGMENTS) {
    string = fields.take(fields.varint("string length"), "entropy string");
    while (fields.left || !segments.length) {
      const type = fields.take(1, "segment type")[0];
      segments.push({ type, data: fields.take(fields.varint("segment length"), "segment") });
    }
  } else {
    string = fields.take(fields.left, "entropy string");
  }
  inRange("quality", data[5], 0, MAX_QUALITY);
  const types = segments.map((segment) => segment.type);
  for (const type of types) {
    if (type >= CRITICAL) {
      throw new StreamError(`segment type ${type} is critical and unknown to this version: update priorcodec`);
    }
  }
  if (new Set(types).size !== types.length) {
    throw new StreamError(`a segment type occurs twice in [${types.join(", ")}], wanted each at most once`);
  }
  return { encoderId, quality: data[5], height, width, string, segments, seed };
}

/** Refuses a side beyond the format, or a padded image of more than maxPixels pixels. */
function checkSize(height, width, maxPixels) {
  inRange("height", height, 1, MAX_SIDE);
  inRange("width", width, 1, MAX_SIDE);
  const [rows, columns] = [padded(height), padded(width)];
  if (rows * columns > maxPixels) {
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
