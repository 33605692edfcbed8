// Reads many files in one process: node read.mjs ENCODER [RESIDUAL] < JSON {maxPixels, files: {name: base64}} > JSON {name: outcome}.
// An outcome: {symbols: SHA-256, sum: of y_hat_q} or {refused: the line}. Anything else ends the process.

import { readFileSync } from "node:fs";
import { Reader, StreamError } from "../../web/gic.js";

const [encoder, residual] = process.argv.slice(2).map((path) => readFileSync(path));
const reader = await Reader.load(encoder, residual);
const { maxPixels, files } = JSON.parse(readFileSync(0, "utf8"));
const outcomes = {};
for (const [name, data] of Object.entries(files)) {
  try {
    const { symbolsSha256, yHatQ } = reader.read(Buffer.from(data, "base64"), { maxPixels });
    outcomes[name] = { symbols: symbolsSha256, sum: yHatQ.reduce((sum, value) => sum + value, 0) };
  } catch (error) {
    if (!(error instanceof StreamError)) throw error;
    outcomes[name] = { refused: error.message };
  }
}
console.log(JSON.stringify(outcomes));
