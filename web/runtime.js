// The float networks by onnxruntime-web: WebGPU where there is one, WebAssembly elsewhere, and after a failure of the former.

import { Sha256 } from "./sha256.js";

const DIST = "./node_modules/onnxruntime-web/dist/";
const MODELS = "models/";

export class Runtime {
  #sessions = new Map();
  #ort;

  /** manifest: lists the graphs. */
  static async load(manifest) {
    const runtime = new Runtime();
    runtime.manifest = manifest;
    let adapter = null;
    try {
      adapter = await globalThis.navigator?.gpu?.requestAdapter();
    } catch {
      // a browser that has the interface and no device
    }
    runtime.gpu = Boolean(adapter) && !adapter.info?.isFallbackAdapter; // one in software is slower than WebAssembly
    runtime.#ort = await import(DIST + (runtime.gpu ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs"));
    runtime.#ort.env.logLevel = "error";
    runtime.#ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
    return runtime;
  }

  /** "WebGPU" or "WebAssembly". */
  get device() {
    return this.gpu ? "WebGPU" : "WebAssembly";
  }

  /** name: of a graph, without its suffix; inputs: name -> [Float32Array, ...shape]. -> name -> Float32Array. */
  async run(name, inputs) {
    if (this.gpu) {
      try {
        const found = await this.#run(name, inputs);
        if (Object.values(found).every((values) => values.every(Number.isFinite))) return found;
      } catch (error) {
        if (error instanceof MissingModel) throw error;
      }
      this.gpu = false; // too little memory, or wrong values: from here on without it
      await this.release();
    }
    return this.#run(name, inputs);
  }

  /** Frees a graph, or all. */
  async release(name) {
    for (const one of name === undefined ? [...this.#sessions.keys()] : [name]) {
      await this.#sessions.get(one)?.release();
      this.#sessions.delete(one);
    }
  }

  async #run(name, inputs) {
    if (!this.#sessions.has(name)) {
      const options = { executionProviders: this.gpu ? ["webgpu", "wasm"] : ["wasm"] };
      this.#sessions.set(name, await this.#ort.InferenceSession.create(await model(`${name}.onnx`, this.manifest), options));
    }
    const feeds = {};
    for (const [input, [data, ...shape]] of Object.entries(inputs)) {
      feeds[input] = new this.#ort.Tensor("float32", data, shape);
    }
    const answers = await this.#sessions.get(name).run(feeds);
    const found = {};
    for (const [output, tensor] of Object.entries(answers)) found[output] = await tensor.getData();
    return found;
  }
}

class MissingModel extends Error {}

/** A file of the folder that `priorcodec export` wrote, as bytes; manifest: what lists it, and its hash. */
export async function model(name, manifest = null) {
  const answer = await fetch(MODELS + name);
  if (!answer.ok) throw new MissingModel(`${MODELS}${name} is missing: run \`make web\``);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  if (manifest && new Sha256().update(bytes).hex() !== manifest.files[name]?.sha256) {
    throw new MissingModel(`${MODELS}${name} is not the file that manifest.json lists: reload the page, or run \`make web\``);
  }
  return bytes;
}
