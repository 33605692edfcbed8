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
 * A network that looks `halo` cells far -> the same values as in one piece. run(top, left, rows, columns), in cells of
 * `stride` pixels, answers [3][rows * stride][columns * stride]; side: cells of a part without its halo.
 */
export async function inParts(height, width, stride, halo, side, run) {
  const out = new Float32Array(3 * height * width * stride ** 2);
  for (let top = 0; top < height; top += side) {
    for (let left = 0; left < width; left += side) {
      const [y0, x0] = [Math.max(0, top - halo), Math.max(0, left - halo)];
      const [y1, x1] = [Math.min(height, top + side + halo), Math.min(width, left + side + halo)];
      const part = await run(y0, x0, y1 - y0, x1 - x0);
      const [rows, columns] = [Math.min(side, height - top) * stride, Math.min(side, width - left) * stride];
      const wide = (x1 - x0) * stride;
      for (let c = 0; c < 3; c++) {
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

/** Where tiles of `side` begin so that they cover `length` and overlap by `overlap` at least; multiples of `grid`. */
export function starts(length, side, overlap, grid) {
  if (length <= side) return [0];
  const count = Math.ceil((length - overlap) / (side - overlap));
  return Array.from({ length: count }, (_, i) => Math.floor(((length - side) * i) / (count - 1) / grid) * grid);
}

/**
 * Overlapping tiles of `rows` x `columns` pixels, faded into each other over `margin` -> [3][height][width].
 * run(top, left) answers [3][rows][columns]; what lies outside the image is left out.
 */
export async function blended(height, width, rows, columns, margin, grid, run) {
  const out = new Float32Array(3 * height * width);
  const total = new Float32Array(height * width);
  for (const top of starts(height, rows, 2 * margin, grid)) {
    const across = ramp(top, height, rows, margin);
    for (const left of starts(width, columns, 2 * margin, grid)) {
      const along = ramp(left, width, columns, margin);
      const part = await run(top, left);
      for (let y = 0; y < Math.min(rows, height - top); y++) {
        for (let x = 0; x < Math.min(columns, width - left); x++) {
          const to = (top + y) * width + left + x;
          const weight = across[y] * along[x];
          total[to] += weight;
          for (let c = 0; c < 3; c++) out[c * height * width + to] += weight * part[(c * rows + y) * columns + x];
        }
      }
    }
  }
  return out.map((value, i) => value / total[i % (height * width)]);
}

/** Weights along one side: 1, and falling to 0 over `margin` pixels, half of it from the edge, where there is a neighbor. */
function ramp(start, length, side, margin) {
  return Float32Array.from({ length: side }, (_, i) => {
    const low = start > 0 ? (i + 0.5 - margin / 2) / margin : 1;
    const high = start + side < length ? (side - i - 0.5 - margin / 2) / margin : 1;
    return Math.max(0, Math.min(1, low, high));
  });
}
