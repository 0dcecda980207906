#include "tokens.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEADER = 256 * 4 }; /* bytes of llm.c's header: magic, version, number of tokens, zeros */

/* What llm.c's dev/data writes. */
static const struct {
    uint32_t magic, version;
    size_t width;
} headers[] = {{20240520, 1, 2}, {20240801, 7, 4}};

size_t token_args(struct token_source *s, struct arg *table) {
    const struct arg all[TOKEN_ARGS] = {
        {"--tokens", ARG_TEXT, &s->train, "file of tokens, TRAIN or TRAIN,VALID (uint16 or uint32, little-endian)",
         NULL},
        {"--valid", ARG_TEXT, &s->valid, "held-out file (default: the last tenth of the data)", NULL},
        {"--token-bytes", ARG_CHOICE, &s->bytes, "of each token of a file without llm.c's header", "2=2 4=4"},
        {"--document-token", ARG_INT, &s->document_token, "token that begins a document; attention stays inside", NULL},
    };
    memcpy(table, all, sizeof all);
    return TOKEN_ARGS;
}

static const char *read_all(int fd, struct token_file *f) {
    unsigned char *data = NULL;
    size_t room = 0;
    for (;;) {
        if (f->size == room) {
            room = room ? 2 * room : 1 << 20;
            unsigned char *more = realloc(data, room);
            if (!more) break;
            f->base = data = more;
        }
        const ssize_t n = read(fd, data + f->size, room - f->size);
        if (n == 0) return NULL;
        if (n < 0) break;
        f->size += (size_t)n;
    }
    return "the file cannot be read";
}

const char *token_file_open(struct token_file *f, const char *path) {
    struct stat s;
    *f = (struct token_file){0};
    const int fd = open(path, O_RDONLY);
    if (fd < 0) return "the file cannot be opened";
    const char *problem = fstat(fd, &s) == 0 ? NULL : "the file cannot be read";
    if (!problem && !S_ISREG(s.st_mode)) {
        problem = read_all(fd, f);
    } else if (!problem && s.st_size > 0) {
        f->size = (size_t)s.st_size;
        f->base = (uintmax_t)s.st_size == f->size ? mmap(NULL, f->size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
        f->mapped = f->base != MAP_FAILED;
        if (!f->mapped) {
            f->base = NULL;
            problem = "the file cannot be mapped into memory";
        }
    }
    close(fd);
    return problem;
}

void token_file_close(struct token_file *f) {
    if (f->mapped)
        munmap(f->base, f->size);
    else
        free(f->base);
    *f = (struct token_file){0};
}

static uint32_t read_u32(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* The numbers of an open file, `bytes` each unless a header says otherwise. */
static const char *find_tokens(const struct token_file *f, int bytes, struct token_array *a) {
    *a = (struct token_array){f->base, f->size, 1};
    if (bytes == 1) return NULL;
    a->width = (size_t)bytes;
    const uint32_t magic = f->size >= HEADER ? read_u32(a->data) : 0;
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        if (magic == headers[i].magic) {
            if (read_u32(a->data + 4) != headers[i].version) return "this version of llm.c's token files is not known";
            a->width = headers[i].width;
            a->data += HEADER;
            a->count = read_u32((const unsigned char *)f->base + 8);
            return f->size - HEADER == a->count * a->width ? NULL
                                                           : "the file does not have the tokens that its header says";
        }
    if (f->size % a->width) return "the file's size is not a whole number of tokens";
    a->count = f->size / a->width;
    return NULL;
}

/* Splits "train,valid" and opens both. */
static const char *open_parts(struct tokens *t, const struct token_source *s) {
    char first[1024];
    const char *train = s->train, *valid = s->valid, *comma = s->bytes == 1 ? NULL : strchr(s->train, ',');
    if (comma) {
        const size_t n = (size_t)(comma - s->train);
        if (n >= sizeof first) return "the file's name is too long";
        memcpy(first, s->train, n);
        first[n] = '\0';
        train = first;
        valid = comma + 1;
    }
    const char *problem = token_file_open(&t->files[0], train);
    if (!problem) problem = find_tokens(&t->files[0], s->bytes, &t->train);
    if (problem) return problem;
    if (valid) {
        problem = token_file_open(&t->files[1], valid);
        return problem ? problem : find_tokens(&t->files[1], s->bytes, &t->valid);
    }
    t->valid = t->train;
    if (s->whole) return NULL;
    t->valid.count = t->train.count / 10;
    t->train.count -= t->valid.count;
    t->valid.data += t->train.count * t->train.width;
    return NULL;
}

const char *tokens_open(struct tokens *t, const struct token_source *s, size_t length) {
    *t = (struct tokens){.document_token = s->document_token};
    if (s->bytes != 1 && s->bytes != 2 && s->bytes != 4) return "a token has 2 or 4 bytes";
    const char *problem = open_parts(t, s);
    if (!problem && (t->train.count <= length || t->valid.count <= length))
        problem = "the data are too short for one sequence in each part";
    if (problem) tokens_close(t);
    return problem;
}

void tokens_close(struct tokens *t) {
    for (int i = 0; i < 2; i++)
        token_file_close(&t->files[i]);
    *t = (struct tokens){0};
}

int32_t token_at(const struct token_array *a, size_t index) {
    const unsigned char *p = a->data + index * a->width;
    if (a->width == 1) return *p;
    /* A number above INT32_MAX becomes negative, which the library refuses as a token. */
    return a->width == 2 ? p[0] | p[1] << 8 : (int32_t)read_u32(p);
}

static uint32_t largest(const struct token_array *a) {
    uint32_t most = 0;
    for (size_t i = 0; i < a->count; i++)
        if ((uint32_t)token_at(a, i) > most) most = (uint32_t)token_at(a, i);
    return most;
}

size_t tokens_vocabulary(const struct tokens *t) {
    if (t->train.width == 1) return 256;
    const uint32_t train = largest(&t->train), valid = largest(&t->valid);
    return (size_t)(train > valid ? train : valid) + 1;
}

bool windows_create(struct windows *w, const struct tokens *t, size_t batch, size_t length) {
    const size_t bytes = batch * length * sizeof(int32_t);
    const bool documents = t->document_token >= 0;
    *w = (struct windows){malloc(bytes), malloc(bytes), documents ? malloc(bytes) : NULL, length};
    return w->tokens && w->targets && (w->segments || !documents);
}

void windows_free(struct windows *w) {
    free(w->tokens);
    free(w->targets);
    free(w->segments);
    *w = (struct windows){0};
}

void windows_set(struct windows *w, const struct tokens *t, const struct token_array *part, size_t row, size_t first) {
    int32_t *tokens = w->tokens + row * w->length, *targets = w->targets + row * w->length, document = 0;
    for (size_t i = 0; i < w->length; i++) {
        tokens[i] = token_at(part, first + i);
        targets[i] = token_at(part, first + i + 1);
        if (!w->segments) continue;
        document += tokens[i] == t->document_token;
        w->segments[row * w->length + i] = document;
    }
}

/* splitmix64 of a counter. */
static uint64_t mix(uint64_t z) {
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

void windows_draw(struct windows *w, const struct tokens *t, uint64_t seed, uint64_t step, size_t first, size_t count) {
    for (size_t b = 0; b < count; b++) {
        const uint64_t r = mix(mix(seed) ^ mix(step * 0x100000001B3u + first + b));
        windows_set(w, t, &t->train, b, (size_t)(r % (t->train.count - w->length)));
    }
}

void windows_held_out(struct windows *w, const struct tokens *t, size_t row, size_t index, size_t count) {
    const size_t last = t->valid.count - w->length - 1;
    size_t first = index * w->length;
    if (t->valid.width == 1) first = count > 1 ? (size_t)((double)last * (double)index / (double)(count - 1)) : 0;
    windows_set(w, t, &t->valid, row, first);
}

size_t windows_most(const struct tokens *t, size_t length) {
    return t->valid.width == 1 ? SIZE_MAX : (t->valid.count - 1) / length;
}
