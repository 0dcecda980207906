// llama.cpp, in the npm package node-llama-cpp, runs libdqt's files and says what libdqt says.
//
// usage: node gguf_client.mjs DIR NAME...   (node_modules beside DIR or above it; files NAME-*.gguf must be there)
//
// llama.cpp quantises activations in blocks, libdqt per token: logits differ by that rounding. So wherever libdqt's best
// token leads by more than MARGIN, llama.cpp must choose the same one; first with libdqt's tokens given to it, position by
// position, then writing on its own until the first position that is closer than that. Where that is depends on the text:
// of three prompts, one for each NAME must go on for WANTED tokens. Where there is NAME.strings, its strings become the
// tokens that it says.
import {existsSync, readFileSync, readdirSync} from "node:fs";
import {createRequire} from "node:module";
import path from "node:path";
import {pathToFileURL} from "node:url";

const folder = path.resolve(process.argv[2]), names = process.argv.slice(3);
const require = createRequire(path.join(folder, "x.js"));
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(require.resolve("node-llama-cpp")));
const PROMPT = 128, PASSAGE = PROMPT + 96, WANTED = 32;
const MARGIN = 0.5; // logits

let passed = 0, failed = 0;
function check(good, what) {
    if (good) passed++;
    else {
        failed++;
        console.log(`gguf_client.mjs: FAILED: ${what}`);
    }
}

function reference(name) {
    return readFileSync(path.join(folder, name + ".reference"), "utf8").trim().split("\n").map((line) => {
        const [token, best, margin] = line.split(" ").map(Number);
        return {token, best, margin};
    });
}

async function checkPassage(model, sequence, file, rows) {
    await sequence.clearHistory();
    const text = String.fromCharCode(...rows.slice(0, PROMPT).map((r) => r.token));
    if (/^[\x01-\x7f]*$/.test(text)) {
        const tokens = model.tokenize(text);
        check(tokens.length === PROMPT && tokens.every((t, i) => t === rows[i].token), `${file}: the tokens of a text are its bytes`);
    }

    // libdqt's own text, position by position.
    const given = rows.map((r) => [r.token, {generateNext: {token: true, options: {temperature: 0}}}]);
    const results = await sequence.controlledEvaluate(given);
    let clear = 0, agree = 0, all = 0, worst = 0;
    rows.forEach((r, i) => {
        const same = results[i].next.token === r.best;
        all += same ? 1 : 0;
        if (!same) worst = Math.max(worst, r.margin);
        if (r.margin <= MARGIN) return;
        clear++;
        agree += same ? 1 : 0;
    });
    check(clear >= WANTED && agree === clear, `${file}: ${agree} of ${clear} clear positions agree; the widest lost margin is ${worst}`);

    // On its own.
    await sequence.clearHistory();
    let right = 0, close = false;
    const written = [];
    for await (const token of sequence.evaluate(rows.slice(0, PROMPT).map((r) => r.token), {temperature: 0})) {
        const r = rows[PROMPT - 1 + right];
        written.push(token);
        if (token !== r.best) {
            close = r.margin <= MARGIN;
            check(close, `${file}: continuation differs at token ${right}, where libdqt's margin is ${r.margin}`);
            break;
        }
        right++;
        if (PROMPT + right >= rows.length) break;
    }
    console.log(`${file}: ${all} of ${rows.length} positions agree (${clear} clear ones); ${right} tokens continued alike`);
    console.log(`    ${JSON.stringify(model.detokenize(rows.slice(0, PROMPT).map((r) => r.token)).slice(-40))} -> ${JSON.stringify(model.detokenize(written))}`);
    if (!close) check(right >= WANTED, `${file}: only ${right} tokens continued alike`);
    return right;
}

function checkStrings(model, file) {
    const list = path.join(folder, file.split("-")[0] + ".strings");
    if (!existsSync(list)) return;
    const strings = JSON.parse(readFileSync(list, "utf8"));
    const other = strings.filter(({text, tokens}) => {
        const found = model.tokenize(text, true);
        return found.length !== tokens.length || found.some((t, i) => t !== tokens[i]);
    });
    check(strings.length >= 200 && !other.length, `${file}: other tokens for ${other.map((s) => JSON.stringify(s.text))}`);
    console.log(`${file}: the same tokens for ${strings.length - other.length} of ${strings.length} strings`);
}

async function checkFile(llama, file) {
    const rows = reference(file.split("-")[0]);
    const model = await llama.loadModel({modelPath: path.join(folder, file)});
    const context = await model.createContext({contextSize: 512, sequences: 1});
    const sequence = context.getSequence();
    let most = 0;
    checkStrings(model, file);
    for (let i = 0; i < rows.length; i += PASSAGE)
        most = Math.max(most, await checkPassage(model, sequence, file, rows.slice(i, i + PASSAGE)));
    await context.dispose();
    await model.dispose();
    return most;
}

/* An untrained model with the tokenizer of a tokenizer.json: texts become tokens and texts again. */
async function checkTokenizer(llama, file) {
    const model = await llama.loadModel({modelPath: path.join(folder, file)});
    for (const text of ["The library trains in integers.", "  two blanks, 3.14159 and\n\na line", "Größe, naïve, 数字"]) {
        const tokens = model.tokenize(text);
        check(tokens.length > 0 && model.detokenize(tokens) === text, `${file}: ${JSON.stringify(text)} came back as ${JSON.stringify(model.detokenize(tokens))}`);
    }
    await model.dispose();
}

const llama = await getLlama({gpu: false, build: "never", maxThreads: 1, logLevel: LlamaLogLevel.error});
const most = {};
for (const file of readdirSync(folder).filter((f) => f.endsWith(".gguf")).sort()) {
    const name = file.split("-")[0];
    if (name === "tokenizer") {
        await checkTokenizer(llama, file);
        continue;
    }
    most[name] = Math.max(most[name] ?? 0, await checkFile(llama, file));
}
for (const name of names) check(most[name] >= WANTED, `a file of ${name} continues ${WANTED} tokens alike: ${JSON.stringify(most)}`);
console.log(`gguf_client.mjs: ${passed} passed, ${failed} failed, 0 skipped`);
process.exit(failed || !passed ? 1 : 0);
