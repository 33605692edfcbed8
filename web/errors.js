// What a reader refuses: always one clear line.

/** The bytes are not a .gic file that can be read. */
export class StreamError extends Error {
  name = "StreamError";
}

/** The bytes are not the tables of an encoder. */
export class WeightsError extends Error {
  name = "WeightsError";
}
