/* Example 12, tokenize: a text as the tokens of a model, for 03_train --tokens, 10_finetune and 11_evaluate; and back.
 *
 * Introduces: nothing of the library: the host owns the data. Byte-level BPE by the tokenizer.json of a Hugging Face
 * folder, or by a GGUF file: pre-tokenizers of GPT-2, Llama 3, SmolLM and Qwen 2 and 3 (support/pretokenize.c); and of
 * a GGUF file also SentencePiece's BPE: Llama 2, TinyLlama, Mistral (support/pieces.c).
 *
 *   12_tokenize --tokenizer model.gguf --text train.txt --out train.bin
 *   12_tokenize --tokenizer model.gguf --decode train.bin --out again.txt
 *
 * Special tokens that the text spells out become those tokens. The files have llm.c's header, so that their readers
 * know whether tokens have 2 bytes or 4; nanoGPT's have none: --raw. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "bpe.h"
#include "die.h"
#include "tokens.h"

struct output {
    const char *path;
    FILE *file;
    int bytes; /* of a token; 0: numbers as text */
    uint64_t count;
};

static void put_number(FILE *f, uint32_t value, int bytes) {
    for (int i = 0; i < bytes; i++)
        putc((int)(value >> 8 * i & 0xFF), f);
}

static void put_header(const struct output *o) {
    put_number(o->file, o->bytes == 2 ? 20240520 : 20240801, 4);
    put_number(o->file, o->bytes == 2 ? 1 : 7, 4);
    put_number(o->file, (uint32_t)o->count, 4);
    for (int i = 3; i < 256; i++)
        put_number(o->file, 0, 4);
}

static void put_tokens(void *user_data, const uint32_t *tokens, size_t count) {
    struct output *o = user_data;
    for (size_t i = 0; i < count; i++)
        if (o->bytes)
            put_number(o->file, tokens[i], o->bytes);
        else
            fprintf(o->file, "%lu\n", (unsigned long)tokens[i]);
    o->count += count;
}

static void open_output(struct output *o) {
    o->file = o->path ? fopen(o->path, "wb") : stdout;
    if (!o->file) die("%s cannot be written", o->path);
}

static void close_output(struct output *o) {
    const int bad = ferror(o->file);
    if ((o->path ? fclose(o->file) : fflush(o->file)) != 0 || bad)
        die("%s cannot be written", o->path ? o->path : "it");
}

/* Encodes the files of "a,b,c"; `document`, unless negative, goes before each. */
static void encode(const struct vocabulary *v, const char *texts, int document, struct output *o) {
    struct bpe *b = bpe_create(v);
    char path[1024];
    size_t bytes = 0, left_out = 0;
    for (const char *next = texts; *next;) {
        struct token_file f;
        const size_t n = strcspn(next, ",");
        if (snprintf(path, sizeof path, "%.*s", (int)n, next) >= (int)sizeof path) die("a file's name is too long");
        next += n + (next[n] == ',');
        const char *problem = token_file_open(&f, path);
        if (problem) die("%s: %s", path, problem);
        const uint32_t first = (uint32_t)document;
        if (document >= 0) put_tokens(o, &first, 1);
        left_out += bpe_encode(b, f.base, f.size, put_tokens, o);
        bytes += f.size;
        token_file_close(&f);
    }
    bpe_destroy(b);
    fprintf(stderr, "%zu bytes, %llu tokens\n", bytes, (unsigned long long)o->count);
    if (left_out) fprintf(stderr, "%zu bytes were left out: the vocabulary has no token for them\n", left_out);
}

static void decode(const struct vocabulary *v, const struct token_source *source, const struct output *o) {
    struct tokens t;
    bool beginning = v->space_first; /* where encoding puts a space */
    const char *problem = tokens_open(&t, source, 0);
    if (problem) die("%s: %s", source->train, problem);
    for (size_t i = 0; i < t.train.count; i++) {
        const uint32_t token = (uint32_t)token_at(&t.train, i);
        if (token >= v->count || !v->tokens[token].bytes)
            die("token %zu is %lu, which the vocabulary does not have", i, (unsigned long)token);
        const struct token_text *text = &v->tokens[token];
        const size_t skip = beginning && !text->special && text->size && text->bytes[0] == ' ';
        fwrite(text->bytes + skip, 1, text->size - skip, o->file);
        beginning = v->space_first && text->special;
    }
    tokens_close(&t);
}

int main(int argc, char **argv) {
    const char *tokenizer = NULL, *text = NULL;
    struct token_source source = {.document_token = -1, .whole = true};
    struct output out = {0};
    struct vocabulary v;
    int raw = 0, numbers = 0, document = -1;
    const struct arg table[] = {
        {"--tokenizer", ARG_TEXT, &tokenizer, "tokenizer.json, a folder that has it, or a GGUF file", NULL},
        {"--text", ARG_TEXT, &text, "text to encode; or several files, A,B,C, one after another", NULL},
        {"--decode", ARG_TEXT, &source.train, "file of tokens to turn into text", NULL},
        {"--out", ARG_TEXT, &out.path, "file to write", NULL},
        {"--token-bytes", ARG_INT, &source.bytes, "of a token: 2 or 4 (default: as the vocabulary needs)", NULL},
        {"--raw", ARG_FLAG, &raw, "no header, as nanoGPT's files", NULL},
        {"--numbers", ARG_FLAG, &numbers, "write tokens as numbers, a line each", NULL},
        {"--document-token", ARG_INT, &document, "put this token before each file", NULL},
    };
    const int stop = args_parse(argc, argv, table, sizeof table / sizeof *table, "Turns text into tokens, or back.");
    if (stop) return stop - 1;
    if (!tokenizer || !text == !source.train || (!out.path && text && !numbers)) {
        fprintf(stderr, "--tokenizer, --text or --decode, and --out are needed\n");
        return 2;
    }
    vocabulary_open(&v, tokenizer);
    const int needed = v.count > 65536 ? 4 : 2;
    if (!source.bytes) source.bytes = needed;
    if ((source.bytes != 2 && source.bytes != 4) || (text && source.bytes < needed))
        die("--token-bytes is %d; this vocabulary of %zu tokens needs %s4", source.bytes, v.count,
            needed == 2 ? "2 or " : "");
    if (document >= 0 && (size_t)document >= v.count) die("the vocabulary has no token %d", document);
    out.bytes = numbers ? 0 : source.bytes;
    const bool header = text && !raw && !numbers;
    open_output(&out);
    if (header) put_header(&out);
    if (text)
        encode(&v, text, document, &out);
    else
        decode(&v, &source, &out);
    if (header) {
        if (out.count > UINT32_MAX || fseek(out.file, 0, SEEK_SET) != 0)
            die("the header of %s cannot hold %llu tokens: use --raw", out.path, (unsigned long long)out.count);
        put_header(&out);
    }
    close_output(&out);
    vocabulary_free(&v);
    return 0;
}
