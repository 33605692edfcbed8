// Tiles put together again give the whole; prints "ok" or throws.

import assert from "node:assert/strict";
import { blended, cut, inParts, starts } from "../../web/tiles.js";

const random = (count) => Float32Array.from({ length: count }, (_, i) => ((i * 7919) % 1000) / 1000);

assert.deepEqual(cut(Float32Array.of(1, 2, 3, 4), 1, 2, 2, 1, 0, 2, 3), Float32Array.of(3, 4, 4, 3, 4, 4));

for (const [height, width, side, halo] of [[5, 7, 3, 2], [4, 4, 9, 1], [6, 1, 2, 4]]) {
  const [stride, x] = [2, random(3 * height * width)];
  const doubled = (planes, rows, columns) =>
    Float32Array.from({ length: 3 * rows * columns * 4 }, (_, i) => {
      const [c, y, at] = [Math.floor(i / (rows * columns * 4)), Math.floor(i / (2 * columns)) % (2 * rows), i % (2 * columns)];
      return planes[(c * rows + (y >> 1)) * columns + (at >> 1)];
    });
  const parts = await inParts(height, width, stride, halo, side, (top, left, rows, columns) =>
    doubled(cut(x, 3, height, width, top, left, rows, columns), rows, columns));
  assert.deepEqual(parts, doubled(x, height, width));
}

for (const [length, side, overlap] of [[100, 32, 16], [33, 32, 16], [32, 32, 16], [5, 32, 16], [2064, 1024, 128]]) {
  const found = starts(length, side, overlap, 1);
  assert.equal(found[0], 0);
  assert.ok(found.at(-1) + side >= length);
  for (let i = 1; i < found.length; i++) assert.ok(found[i] - found[i - 1] <= side - overlap && found[i] > found[i - 1]);
}

for (const [height, width, rows, columns] of [[50, 70, 32, 32], [20, 70, 20, 32], [10, 10, 32, 32]]) {
  const x = random(3 * height * width);
  const whole = await blended(height, width, rows, columns, 8, 2, (top, left) =>
    cut(x, 3, height, width, top, left, rows, columns));
  whole.forEach((value, i) => assert.ok(Math.abs(value - x[i]) < 1e-5));
}

console.log("ok");
