// The noise of a file: what torch's generator and its randn draw for the same seed.
//
// A Mersenne twister of 32 bits (Matsumoto and Nishimura 1998), whose low 24 bits of each number are a uniform one, and Box and
// Muller's transform on blocks of 16: the first eight give the radii, the last eight the angles. Where the count is no multiple
// of 16, the last 16 values are drawn again.

const [N, M, BLOCK] = [624, 397, 16];

function twister(seed) {
  const state = new Uint32Array(N);
  state[0] = seed;
  for (let i = 1; i < N; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let at = N;
  return () => {
    if (at === N) {
      for (let i = 0; i < N; i++) {
        const both = (state[i] & 0x80000000) | (state[(i + 1) % N] & 0x7fffffff);
        state[i] = state[(i + M) % N] ^ (both >>> 1) ^ (both & 1 ? 0x9908b0df : 0);
      }
      at = 0;
    }
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

/** Standard normal numbers (Float32Array, at least 16); seed: 0 to 2^32 - 1. */
export function normal(seed, count) {
  const next = twister(seed);
  const draw = (values, from, to) => {
    for (let i = from; i < to; i++) values[i] = (next() & 0xffffff) / 2 ** 24;
  };
  const transform = (values, from) => {
    for (let i = from; i < from + BLOCK / 2; i++) {
      const radius = Math.sqrt(-2 * Math.log(1 - values[i]));
      const angle = 2 * Math.PI * values[i + BLOCK / 2];
      values[i] = radius * Math.cos(angle);
      values[i + BLOCK / 2] = radius * Math.sin(angle);
    }
  };
  const values = new Float32Array(count);
  draw(values, 0, count);
  for (let from = 0; from + BLOCK <= count; from += BLOCK) transform(values, from);
  if (count % BLOCK) {
    draw(values, count - BLOCK, count);
    transform(values, count - BLOCK);
  }
  return values;
}
