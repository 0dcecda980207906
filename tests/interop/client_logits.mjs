// llama.cpp's logits, in the npm package node-llama-cpp, as raw floats: after each token of the first WINDOWS windows of
// LENGTH tokens of TOKENS (uint16). Keys and values are cached as F32, and attention is not the fused one, so that with
// weights of F32 nothing is rounded to less.
//
// usage: node client_logits.mjs PACKAGES MODEL.gguf TOKENS LENGTH WINDOWS OUT   (node_modules in the folder PACKAGES)
import {closeSync, openSync, readFileSync, writeSync} from "node:fs";
import {createRequire} from "node:module";
import path from "node:path";
import {pathToFileURL} from "node:url";

const [packages, file, text, length, windows, out] = process.argv.slice(2);
const require = createRequire(path.join(path.resolve(packages), "x.js"));
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(require.resolve("node-llama-cpp")));
const PIECE = 32; // positions at a time: a map of all tokens is made for each

const raw = readFileSync(text);
const tokens = Array.from({length: Number(length) * Number(windows)}, (_, i) => raw.readUInt16LE(2 * i));
const llama = await getLlama({gpu: false, build: "never", maxThreads: 2, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: file});
const context = await model.createContext({
    contextSize: Number(length) + 64, sequences: 1, // in one that is full, the client drops what is oldest
    flashAttention: false,
    experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"
});
const sequence = context.getSequence();
const f = openSync(out, "w");
for (let i = 0; i < tokens.length; i += PIECE) {
    if (i % Number(length) === 0) await sequence.clearHistory();
    const end = Math.min(i + PIECE, i - i % Number(length) + Number(length));
    const results = await sequence.controlledEvaluate(tokens.slice(i, end).map((t) => [t, {generateNext: {logits: true}}]));
    for (const {next} of results) {
        const row = new Float32Array(next.logits.size);
        for (const [token, logit] of next.logits) row[token] = logit;
        writeSync(f, row);
    }
    i = end - PIECE;
}
closeSync(f);
process.exit(0);
