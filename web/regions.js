// Regions in floating point: what the renderer of a file without a latent is given, and the colors that show them.

import { CELL } from "./semantic.js";
import { normal } from "./random.js";

const CHANNELS = 16;
const UNIT = [24, 12, 12]; // levels to a value of 1, of the means of Y, Cb, Cr

/** Regions with values, rows and columns of the padded grid -> planes [32][h][w]: painted values, then noise. docs/format.md, section 15. */
export function painted({ rows, columns, count, labels, values }, seed, h, w) {
  const [right, down] = [
    positions(labels, count, (i) => i % columns),
    positions(labels, count, (i) => Math.floor(i / columns)),
  ];
  const cell = (c, i) => {
    const value = (channel) => values[labels[i] * CHANNELS + channel] / 256;
    return c ? value(c) : value(0) + right[i] * value(3) + down[i] * value(4);
  };
  const planes = new Float32Array(2 * CHANNELS * h * w);
  for (let c = 0, to = 0; c < CHANNELS; c++) {
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++) planes[to++] = cell(c, Math.min(y, rows - 1) * columns + Math.min(x, columns - 1));
    }
  }
  planes.set(normal(seed, CHANNELS * h * w), CHANNELS * h * w);
  return planes;
}

/** A coordinate of every cell, less its region's mean, in the region's standard deviations: 0 where that is 0. */
function positions(labels, count, at) {
  const means = (value) => {
    const [sums, sizes] = [new Float64Array(count), new Float64Array(count)];
    labels.forEach((label, i) => {
      sums[label] += value(i);
      sizes[label]++;
    });
    return sums.map((sum, label) => sum / sizes[label]);
  };
  const mean = means(at);
  const centered = Float64Array.from(labels, (label, i) => at(i) - mean[label]);
  const spread = means((i) => centered[i] ** 2).map(Math.sqrt);
  return centered.map((value, i) => (spread[labels[i]] > 0 ? value / spread[labels[i]] : 0));
}

/** Mean color of a region, [red, green, blue]. */
export function meanColor(values, region) {
  const [y, cb, cr] = UNIT.map((unit, c) => (values[region * CHANNELS + c] / 256) * unit);
  const rgb = [y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb];
  return rgb.map((value) => Math.max(0, Math.min(255, Math.round(value + 128))));
}

/** The color that stands for a region, the one of `priorcodec regions`: hues a golden angle apart, two brightnesses. */
export function palette(region) {
  const [hue, value] = [(region * 0.618034) % 1, 0.95 - 0.3 * (region % 2)];
  return [5, 3, 1].map((k) => {
    const at = (k + 6 * hue) % 6;
    return Math.round(255 * value * (1 - 0.65 * Math.max(0, Math.min(at, 4 - at, 1))));
  });
}

/** Draws regions over an image of the canvas's size: filled with their colors, and outlined. */
export function draw(context, { columns, labels }) {
  const { width, height } = context.canvas;
  context.clearRect(0, 0, width, height);
  const stroke = Math.max(1, Math.round(Math.max(width, height) / 400));
  labels.forEach((label, i) => {
    const [x, y] = [(i % columns) * CELL, Math.floor(i / columns) * CELL];
    const color = palette(label).join(" ");
    context.fillStyle = `rgb(${color} / 0.4)`;
    context.fillRect(x, y, CELL, CELL);
    context.fillStyle = "rgb(0 0 0 / 0.75)";
    if (i % columns && labels[i - 1] !== label) context.fillRect(x - stroke / 2, y, stroke, CELL);
    if (i >= columns && labels[i - columns] !== label) context.fillRect(x, y - stroke / 2, CELL, stroke);
  });
}
