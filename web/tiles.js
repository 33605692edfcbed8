// Large images in parts. Planes are Float32Array [channels][height][width].

/** A part of planes -> planes [channels][rows][columns]; positions outside repeat the border. */
export function cut(planes, channels, height, width, top, left, rows, columns) {
  const out = new Float32Array(channels * rows * columns);
  for (let c = 0, to = 0; c < channels; c++) {
    for (let y = top; y < top + rows; y++) {
      const from = (c * height + Math.min(y, height - 1)) * width;
      for (let x = left; x < left + columns; x++) out[to++] = planes[from + Math.min(x, width - 1)];
    }
  }
  return out;
}

/**
 * A network that looks `halo` cells far -> the same values as in one piece. run(top, left, rows, columns), in cells, answers
 * [channels][rows * stride][columns * stride]; side: cells of a part without its halo.
 */
export async function inParts(height, width, stride, halo, side, channels, run) {
  const out = new Float32Array(channels * height * width * stride ** 2);
  for (let top = 0; top < height; top += side) {
    for (let left = 0; left < width; left += side) {
      const [y0, x0] = [Math.max(0, top - halo), Math.max(0, left - halo)];
      const [y1, x1] = [Math.min(height, top + side + halo), Math.min(width, left + side + halo)];
      const part = await run(y0, x0, y1 - y0, x1 - x0);
      const [rows, columns] = [Math.min(side, height - top) * stride, Math.min(side, width - left) * stride];
      const wide = (x1 - x0) * stride;
      for (let c = 0; c < channels; c++) {
        for (let y = 0; y < rows; y++) {
          const from = (c * (y1 - y0) * stride + (top - y0) * stride + y) * wide + (left - x0) * stride;
          const to = (c * height * stride + top * stride + y) * width * stride + left * stride;
          out.set(part.subarray(from, from + columns), to);
        }
      }
    }
  }
  return out;
}

/**
 * Tiles along one side, the same as Python's `core.tiling.plan`: [{start, stop, low, high}] in pixels. start to stop, at most
 * `side`, is a tile's own; it reads low to high, `margin` more where it has a neighbor. Lengths are multiples of `grid`.
 */
export function spans(length, side, margin, grid) {
  const count = Math.ceil(length / side);
  const border = (i) => Math.floor((i * (length / grid)) / count) * grid;
  const own = Array.from({ length: count }, (_, i) => [border(i), border(i + 1)]);
  const reach = Math.min(Math.ceil(margin / grid) * grid, ...own.map(([start, stop]) => stop - start));
  return own.map(([start, stop]) => ({
    start, stop, low: Math.max(0, start - reach), high: Math.min(length, stop + reach),
  }));
}

/**
 * Overlapping tiles, faded into each other -> [3][height][width]. run(row, column), two of `spans`, answers what they read:
 * planes [3] of rows of at least that width, `wide` values apart and `high` rows each.
 */
export async function blended(height, width, side, margin, grid, run) {
  const out = new Float32Array(3 * height * width);
  for (const row of spans(height, side, margin, grid)) {
    const down = ramp(row);
    for (const column of spans(width, side, margin, grid)) {
      const along = ramp(column);
      const { planes, high, wide } = await run(row, column);
      for (let c = 0; c < 3; c++) {
        for (let y = 0; y < down.length; y++) {
          const to = (c * height + row.low + y) * width + column.low;
          const from = (c * high + y) * wide;
          for (let x = 0; x < along.length; x++) out[to + x] += down[y] * along[x] * planes[from + x];
        }
      }
    }
  }
  return out;
}

/** Weights of what a tile reads: 1, with a ramp as wide as what it reads beyond its own, centered on the border to a neighbor. */
function ramp({ start, stop, low, high }) {
  return Float32Array.from({ length: high - low }, (_, i) => {
    const at = low + i + 0.5;
    const before = start > low ? 0.5 + (at - start) / (start - low) : 1;
    const behind = high > stop ? 0.5 - (at - stop) / (high - stop) : 1;
    return Math.max(0, Math.min(1, before)) * Math.max(0, Math.min(1, behind));
  });
}

/** Which of `size` rows or columns each one of the padded image repeats: mirrored at its end, again and again. */
export function mirrored(size, target) {
  const period = Math.max(2 * size - 2, 1);
  return Uint32Array.from({ length: target }, (_, i) => (size > 1 ? Math.min(i % period, period - (i % period)) : 0));
}
