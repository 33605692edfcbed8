// Tiles put together again give the whole; prints "ok" or throws.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { blended, cut, inParts, mirrored, spans } from "../../web/tiles.js";

const random = (count) => Float32Array.from({ length: count }, (_, i) => ((i * 7919) % 1000) / 1000);

assert.deepEqual(cut(Float32Array.of(1, 2, 3, 4), 1, 2, 2, 1, 0, 2, 3), Float32Array.of(3, 4, 4, 3, 4, 4));

for (const [height, width, side, halo] of [[5, 7, 3, 2], [4, 4, 9, 1], [6, 1, 2, 4]]) {
  const [stride, x] = [2, random(3 * height * width)];
  const doubled = (planes, rows, columns) =>
    Float32Array.from({ length: 3 * rows * columns * 4 }, (_, i) => {
      const [c, y, at] = [Math.floor(i / (rows * columns * 4)), Math.floor(i / (2 * columns)) % (2 * rows), i % (2 * columns)];
      return planes[(c * rows + (y >> 1)) * columns + (at >> 1)];
    });
  const parts = await inParts(height, width, stride, halo, side, 3, (top, left, rows, columns) =>
    doubled(cut(x, 3, height, width, top, left, rows, columns), rows, columns));
  assert.deepEqual(parts, doubled(x, height, width));
}

for (const { length, side, margin, spans: wanted } of JSON.parse(readFileSync(0, "utf8")).plans) {
  assert.deepEqual(spans(length, side, margin, 64).map(({ start, stop, low, high }) => [start, stop, low, high]), wanted);
}

for (const [height, width, side] of [[48, 72, 32], [16, 72, 24], [8, 8, 32]]) {
  const x = random(3 * height * width);
  const whole = await blended(height, width, side, 8, 8, (row, column) => {
    const [high, wide] = [row.high - row.low + 2, column.high - column.low + 3]; // larger than what is read, as fixed tiles are
    return { planes: cut(x, 3, height, width, row.low, column.low, high, wide), high, wide };
  });
  whole.forEach((value, i) => assert.ok(Math.abs(value - x[i]) < 1e-5));
}

assert.deepEqual([...mirrored(3, 8)], [0, 1, 2, 1, 0, 1, 2, 1]);
assert.deepEqual([...mirrored(1, 3)], [0, 0, 0]);

console.log("ok");
