// Writes files in one process: node write.mjs ENCODER < JSON {files: {name: base64}, features: [...]} > JSON.
//
// files: read, then written again: from their symbols, and their frame alone -> {name: [base64, base64]}
// features: [{quality, height, width, h, w, y: base64, z: base64}], float32 little endian -> [{data: base64, symbols: SHA-256}]

import { readFileSync } from "node:fs";
import { Decoder, Encoder } from "../../web/coder.js";
import { Reader, unpack } from "../../web/gic.js";
import { pack, write } from "../../web/writer.js";

const reader = await Reader.load(readFileSync(process.argv[2]));
const { files, features } = JSON.parse(readFileSync(0, "utf8"));
const base64 = (bytes) => Buffer.from(bytes).toString("base64");

const again = {};
for (const [name, text] of Object.entries(files)) {
  const content = unpack(Buffer.from(text, "base64"));
  const [h, w] = [content.height, content.width].map((side) => Math.ceil(side / 64) * 4);
  const [decoder, encoder] = [new Decoder(content.string), new Encoder()];
  reader.walk(content.quality, h, w, (index, coder, symbols) => {
    decoder.take(index, coder, symbols);
    encoder.add(index, coder, symbols);
  });
  again[name] = [base64(pack({ ...content, string: encoder.finish() })), base64(pack(content))];
}

const floats = (text) => {
  const bytes = Buffer.from(text, "base64");
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i));
};
const written = features.map(({ y, z, ...size }) => {
  const { data, symbolsSha256 } = write(reader, floats(y), floats(z), size);
  return { data: base64(data), symbols: symbolsSha256 };
});
console.log(JSON.stringify({ files: again, features: written }));
