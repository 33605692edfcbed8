// The integer layers against sums of BigInt, with values small and as large as the format allows; prints "ok" or throws.

import assert from "node:assert/strict";
import { Layer } from "../../web/networks.js";
import { LIMIT } from "../../web/tables.js";

let state = 1;
const random = () => (state = (Math.imul(state, 1664525) + 1013904223) | 0) / 2 ** 31; // in [-1, 1)
const integers = (count, size) => Array.from({ length: count }, () => Math.round(random() * size));

for (const [outputs, inputs, k, weightSize, valueSize] of [
  [16, 20, 1, 100, 300], [5, 7, 3, 50, 1000], [40, 300, 1, LIMIT, LIMIT], [3, 128, 3, LIMIT, LIMIT], [8, 64, 1, 3000, 2000],
]) {
  const depth = inputs * k * k;
  const weight = integers(outputs * depth, weightSize);
  const bias = integers(outputs, 2 ** 20);
  for (const relu of [false, true]) {
    const layer = new Layer({ shape: [outputs, inputs, k, k], data: weight }, { data: bias }, relu);
    const positions = Array.from({ length: 9 }, (_, p) =>
      integers(depth, p % 3 ? valueSize : 3).map((value, i) => ((i + p) % 4 ? value : 0)));
    layer.begin();
    for (const values of positions) {
      layer.next();
      for (let tap = 0; tap < k * k; tap++) layer.gather(values, tap * inputs, inputs, tap * inputs);
    }
    const out = layer.run();
    positions.forEach((values, p) => {
      for (let o = 0; o < outputs; o++) {
        let sum = BigInt(bias[o]) + 512n;
        for (let i = 0; i < inputs; i++) {
          for (let tap = 0; tap < k * k; tap++) {
            sum += BigInt(weight[(o * inputs + i) * k * k + tap]) * BigInt(values[tap * inputs + i]);
          }
        }
        const wanted = Math.max(relu ? 0 : -LIMIT, Math.min(LIMIT, Number(sum >> 10n)));
        assert.equal(out[p * layer.stride + o] + 0, wanted);
      }
    });
  }
}

console.log("ok");
