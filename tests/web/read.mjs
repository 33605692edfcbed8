// Reads many files in one process: node read.mjs ENCODER [RESIDUAL SEMANTIC] < JSON {maxPixels, files: {name: base64}} > JSON {name: outcome}.
// An outcome: {refused: the line}, or {symbols: SHA-256, sum: of y_hat_q} of a latent, with regions: {map_sha256, values_sha256} or
// {refused} where the file has semantic layers or no latent. Anything else ends the process.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { Reader, StreamError } from "../../web/gic.js";

const reader = await Reader.load(...process.argv.slice(2).map((path) => readFileSync(path)));
const { maxPixels, files } = JSON.parse(readFileSync(0, "utf8"));

function attempt(read) {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof StreamError)) throw error;
    return { refused: error.message };
  }
}

function digests(content) {
  const { rows, columns, labels, values } = reader.regions(content);
  const map = createHash("sha256").update(new Uint8Array(Uint16Array.of(rows, columns).buffer)).update(labels);
  const described = createHash("sha256").update(values ? new Uint8Array(values.buffer) : "");
  return { map_sha256: map.digest("hex"), values_sha256: described.digest("hex") };
}

function outcome(data) {
  const content = reader.open(data, { maxPixels });
  const found = {};
  if (content.string !== null) {
    const { symbolsSha256, yHatQ } = reader.latent(content);
    Object.assign(found, { symbols: symbolsSha256, sum: yHatQ.reduce((sum, value) => sum + value, 0) });
  }
  if (content.string === null || content.segments.some(({ type }) => type === 16 || type === 17)) {
    found.regions = attempt(() => digests(content));
  }
  return found;
}

const outcomes = {};
for (const [name, data] of Object.entries(files)) outcomes[name] = attempt(() => outcome(Buffer.from(data, "base64")));
console.log(JSON.stringify(outcomes));
