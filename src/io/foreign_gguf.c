/* The head of a GGUF file (ggml/docs/gguf.md, versions 2 and 3): keys, then what it says of each tensor. */

#include "core/status.h"
#include "io/foreign.h"
#include "io/gguf_keys.h"
#include "io/stream.h"

enum {
    HEAD_MOST = 1 << 28, /* bytes before the data: 256 k tokens with merges and scores have 20 MB */
    NESTED_MOST = 4,     /* arrays in each other */
    DIMS_MOST = 4,
    ALIGNMENT_MOST = 1 << 20
};

enum { STRING = 8, ARRAY = 9, NUM_TYPES = 13 };

/* By the type's number: bytes of a value, 0 where they vary; whether it is a float, or has a sign. */
static const struct {
    unsigned char bytes;
    bool is_float, is_signed;
} value_types[NUM_TYPES] = {{1, false, false},
                            {1, false, true},
                            {2, false, false},
                            {2, false, true},
                            {4, false, false},
                            {4, false, true},
                            {4, true, true},
                            {1, false, false},
                            {0},
                            {0},
                            {8, false, false},
                            {8, false, true},
                            {8, true, true}};
enum { BOOL = 7 };

struct reader {
    struct foreign *f;
    struct source *s;
    struct sink *copy; /* what is read of a value goes there too; NULL: nowhere */
    uint64_t num_keys, num_tensors;
    uint64_t elements; /* of the outermost array that was read last */
};

static dqt_status take(struct reader *r, void *out, size_t n) {
    TRY(source_bytes(r->s, out, n));
    return r->copy ? sink_bytes(r->copy, out, n) : DQT_OK;
}

static dqt_status take_number(struct reader *r, size_t bytes, uint64_t *value) {
    unsigned char le[8];
    TRY(take(r, le, bytes));
    *value = get_le(le, bytes);
    return DQT_OK;
}

static dqt_status pass_over(struct reader *r, uint64_t n) {
    unsigned char part[1024];
    for (; n; n -= size_min((size_t)(n < sizeof part ? n : sizeof part), sizeof part))
        TRY(take(r, part, (size_t)(n < sizeof part ? n : sizeof part)));
    return DQT_OK;
}

static dqt_status refuse(const struct reader *r, const char *what) {
    return fail(r->f->ctx, DQT_E_FORMAT, "GGUF: byte %llu: %s", (unsigned long long)r->s->consumed, what);
}

/* Elements of at least so many bytes each cannot be more than what is left has. */
static dqt_status check_count(const struct reader *r, uint64_t count, uint64_t bytes) {
    if (count <= (r->s->limit - r->s->consumed) / bytes) return DQT_OK;
    return fail(r->f->ctx, DQT_E_FORMAT, "GGUF: byte %llu: %llu elements, which is more than %llu bytes hold",
                (unsigned long long)r->s->consumed, (unsigned long long)count, (unsigned long long)r->s->limit);
}

/* Into out[room], cut off; out NULL: only past it. */
static dqt_status read_string(struct reader *r, char *out, size_t room) {
    uint64_t length;
    TRY(take_number(r, 8, &length));
    TRY(check_count(r, length, 1));
    const size_t n = !out ? 0 : length < room ? (size_t)length : room - 1;
    if (out) {
        TRY(take(r, out, n));
        out[n] = '\0';
        if (memchr(out, 0, n)) return refuse(r, "a name or text with a NUL before this");
    }
    return pass_over(r, length - n);
}

static dqt_status read_type(struct reader *r, uint32_t *type) {
    uint64_t number;
    TRY(take_number(r, 4, &number));
    if (number >= NUM_TYPES)
        return fail(r->f->ctx, DQT_E_FORMAT, "GGUF: byte %llu: a value of type %llu, which there is not",
                    (unsigned long long)r->s->consumed, (unsigned long long)number);
    *type = (uint32_t)number;
    return DQT_OK;
}

/* Past the elements of an array, and of those in it. */
static dqt_status skip_array(struct reader *r) {
    uint64_t left[NESTED_MOST]; /* arrays that are still to come, by depth */
    size_t depth = 1;
    left[0] = 1;
    while (depth) {
        uint32_t type = 0;
        uint64_t count;
        if (left[depth - 1]-- == 0) {
            depth--;
            continue;
        }
        TRY(read_type(r, &type));
        TRY(take_number(r, 8, &count));
        if (depth == 1) r->elements = count;
        if (type == ARRAY) {
            if (depth == NESTED_MOST) return refuse(r, "arrays that are nested too deeply");
            TRY(check_count(r, count, 12));
            left[depth++] = count;
        } else if (type == STRING) {
            TRY(check_count(r, count, 8));
            for (uint64_t i = 0; i < count; i++)
                TRY(read_string(r, NULL, 0));
        } else {
            TRY(check_count(r, count, value_types[type].bytes));
            TRY(pass_over(r, count * value_types[type].bytes));
        }
    }
    return DQT_OK;
}

static double double_from_bits(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static double number_of(uint32_t type, uint64_t bits) {
    const int bytes = value_types[type].bytes;
    if (value_types[type].is_float) return bytes == 4 ? (double)f32_from_bits((uint32_t)bits) : double_from_bits(bits);
    const uint64_t sign = (uint64_t)1 << (8 * bytes - 1);
    if (!value_types[type].is_signed || !(bits & sign)) return (double)bits;
    return -(double)((~bits & (sign - 1)) + 1);
}

/* fact NULL: the value is passed over. */
static dqt_status read_value(struct reader *r, struct fact *f) {
    struct fact unused;
    uint32_t type = 0;
    uint64_t bits;
    if (!f) f = &unused;
    TRY(read_type(r, &type));
    if (type == ARRAY) {
        f->kind = FACT_OTHER;
        return skip_array(r);
    }
    if (type == STRING) {
        f->kind = FACT_TEXT;
        return read_string(r, f == &unused ? NULL : f->text, sizeof f->text);
    }
    TRY(take_number(r, value_types[type].bytes, &bits));
    f->kind = type == BOOL ? FACT_BOOL : FACT_NUMBER;
    f->number = number_of(type, bits);
    return DQT_OK;
}

/* Keys of another architecture's name are not this model's. */
static bool is_ours(const struct foreign *f, const char *key) {
    const struct fact *a = &f->facts.list[ARCHITECTURE];
    const size_t n = strlen(a->text);
    return strncmp(key, "general.", 8) == 0 || (a->kind == FACT_TEXT && strncmp(key, a->text, n) == 0 && key[n] == '.');
}

static dqt_status read_key(struct reader *r) {
    char key[GGUF_KEY_ROOM];
    TRY(read_string(r, key, sizeof key));
    struct fact *f = is_ours(r->f, key) ? fact_of_key(&r->f->facts, key) : NULL;
    if (f && f->kind != FACT_ABSENT) return fail(r->f->ctx, DQT_E_FORMAT, "GGUF: %s is there twice", key);
    return read_value(r, f);
}

/* Rows, columns and bytes of what has so many dims. */
static dqt_status read_shape(struct reader *r, struct foreign_tensor *t) {
    uint64_t dims, size[DIMS_MOST] = {1, 1, 1, 1};
    TRY(source_number(r->s, 4, &dims));
    if (dims < 1 || dims > DIMS_MOST)
        return fail(r->f->ctx, DQT_E_FORMAT, "GGUF: %s has %llu dimensions", t->name, (unsigned long long)dims);
    for (uint64_t i = 0; i < dims; i++)
        TRY(source_number(r->s, 8, &size[i]));
    if (size[2] != 1 || size[3] != 1 || size[0] == 0 || size[1] == 0)
        return fail(r->f->ctx, DQT_E_UNSUPPORTED, "GGUF: %s is neither a vector nor a matrix", t->name);
    t->dims = dims > 1 ? 2 : 1;
    t->cols = size[0];
    t->rows = size[1];
    return DQT_OK;
}

static dqt_status read_encoding(struct reader *r, struct foreign_tensor *t) {
    const dqt_context *ctx = r->f->ctx;
    uint64_t type;
    TRY(source_number(r->s, 4, &type));
    t->encoding = encoding_of_gguf((uint32_t)type);
    if (!t->encoding)
        return fail(ctx, DQT_E_UNSUPPORTED, "GGUF: %s is of type %llu, which is not known", t->name,
                    (unsigned long long)type);
    if (!t->encoding->decode)
        return fail(ctx, DQT_E_UNSUPPORTED, "GGUF: %s is of type %s, which cannot be read", t->name, t->encoding->name);
    const uint64_t blocks = t->cols / t->encoding->block;
    if (t->cols % t->encoding->block)
        return fail(ctx, DQT_E_FORMAT, "GGUF: %s has rows of %llu weights, which are not whole blocks of %s", t->name,
                    (unsigned long long)t->cols, t->encoding->name);
    if (blocks > UINT64_MAX / 512 || t->rows > UINT64_MAX / 512 / (blocks * t->encoding->bytes))
        return fail(ctx, DQT_E_FORMAT, "GGUF: %s is too large: %llu x %llu", t->name, (unsigned long long)t->rows,
                    (unsigned long long)t->cols);
    t->bytes = t->rows * blocks * t->encoding->bytes;
    return DQT_OK;
}

static dqt_status read_tensor(struct reader *r) {
    struct foreign_tensor *t;
    TRY(foreign_add(r->f, &t));
    TRY(read_string(r, t->name, sizeof t->name));
    if (!*t->name) return refuse(r, "a tensor without a name before this");
    TRY(read_shape(r, t));
    TRY(read_encoding(r, t));
    return source_number(r->s, 8, &t->offset);
}

/* Offsets count from the end of the head, which is filled up. */
static dqt_status place_data(struct reader *r, uint64_t file_size) {
    struct foreign *f = r->f;
    const struct fact *a = &f->facts.list[FILE_ALIGNMENT];
    const double given = a->kind == FACT_ABSENT ? 32 : a->kind == FACT_NUMBER ? a->number : 0;
    const uint64_t alignment = given >= 1 && given <= ALIGNMENT_MOST ? (uint64_t)given : 0;
    if (alignment == 0 || (alignment & (alignment - 1)))
        return fail(f->ctx, DQT_E_FORMAT, "GGUF: general.alignment must be a power of two up to %d", ALIGNMENT_MOST);
    const uint64_t begin = (r->s->consumed + alignment - 1) / alignment * alignment;
    for (size_t i = 0; i < f->num_tensors; i++) {
        struct foreign_tensor *t = &f->tensors[i];
        if (t->offset % alignment)
            return fail(f->ctx, DQT_E_FORMAT, "GGUF: %s lies at offset %llu, which is no multiple of %llu", t->name,
                        (unsigned long long)t->offset, (unsigned long long)alignment);
        if (t->offset > file_size) t->offset = file_size; /* so that nothing overflows: beyond the end either way */
        t->offset += begin;
    }
    return foreign_check_layout(f, 0, begin, file_size, false);
}

static dqt_status read_counts(struct reader *r) {
    unsigned char magic[4];
    uint64_t version;
    TRY(source_bytes(r->s, magic, sizeof magic));
    if (memcmp(magic, "GGUF", 4) != 0)
        return fail(r->f->ctx, DQT_E_FORMAT, "this is neither a folder with a model nor a GGUF file");
    TRY(source_number(r->s, 4, &version));
    if (version != 2 && version != 3)
        return fail(r->f->ctx, DQT_E_UNSUPPORTED, "GGUF: version %llu; 2 and 3 can be read",
                    (unsigned long long)version);
    TRY(source_number(r->s, 8, &r->num_tensors));
    TRY(source_number(r->s, 8, &r->num_keys));
    TRY(check_count(r, r->num_keys, 13));
    return check_count(r, r->num_tensors, 32);
}

static dqt_status read_head(struct reader *r, uint64_t file_size) {
    TRY(read_counts(r));
    for (uint64_t i = 0; i < r->num_keys; i++)
        TRY(read_key(r));
    for (uint64_t i = 0; i < r->num_tensors; i++)
        TRY(read_tensor(r));
    return place_data(r, file_size);
}

/* The tensor that is no weight. */
static dqt_status read_rope_divisors(struct foreign *f, struct input_file *file) {
    unsigned char raw[4 * ROPE_PAIRS_MOST];
    for (size_t i = 0; i < f->num_tensors; i++) {
        const struct foreign_tensor *t = &f->tensors[i];
        if (strcmp(t->name, "rope_freqs.weight") != 0) continue;
        if (strcmp(t->encoding->name, "F32") != 0 || t->rows != 1 || t->cols > ROPE_PAIRS_MOST)
            return fail(f->ctx, DQT_E_UNSUPPORTED, "GGUF: %s is no vector of up to %d F32 numbers", t->name,
                        ROPE_PAIRS_MOST);
        f->num_rope_divisors = (size_t)t->cols;
        TRY(file_read_at(f->ctx, file, t->offset, raw, (size_t)t->bytes));
        for (size_t k = 0; k < f->num_rope_divisors; k++) {
            f->rope_divisors[k] = f32_from_bits((uint32_t)get_le(raw + 4 * k, 4));
            if (!(f->rope_divisors[k] > 0)) return fail(f->ctx, DQT_E_FORMAT, "GGUF: %s has a number below 0", t->name);
        }
    }
    return DQT_OK;
}

dqt_status foreign_open_gguf(struct foreign *f, const char *path, struct input_file *file) {
    struct reader r = {.f = f};
    f->what = "GGUF";
    f->facts.gguf = true;
    TRY(foreign_add_path(f, path, ""));
    TRY(source_create(f->ctx, "GGUF", file_read, file, &r.s));
    r.s->limit = file->size < HEAD_MOST ? file->size : HEAD_MOST;
    dqt_status status = read_head(&r, file->size);
    source_destroy(r.s);
    if (status == DQT_OK) status = read_rope_divisors(f, file);
    return status;
}

/* ---- Keys of a source ------------------------------------------------------------------------------------------ */

static dqt_status copy_value(struct reader *r, const char *key, struct gguf_keys *keys, struct sink *sink) {
    struct fact unused = {.kind = FACT_ABSENT};
    const bool wanted = keys->wanted(keys->arg, key);
    if (wanted && sink) {
        TRY(sink_number(sink, strlen(key), 8));
        TRY(sink_bytes(sink, key, strlen(key)));
        r->copy = sink;
    }
    r->elements = 0;
    const dqt_status status = read_value(r, &unused);
    r->copy = NULL;
    keys->count += wanted;
    if (strcmp(key, "tokenizer.ggml.tokens") == 0) keys->tokens = r->elements;
    return status;
}

static dqt_status copy_keys(struct reader *r, struct gguf_keys *keys, struct sink *sink) {
    char key[GGUF_KEY_ROOM];
    TRY(read_counts(r));
    for (uint64_t i = 0; i < r->num_keys; i++) {
        TRY(read_string(r, key, sizeof key));
        if (strlen(key) == sizeof key - 1) return refuse(r, "a key that is too long before this");
        TRY(copy_value(r, key, keys, sink));
    }
    return DQT_OK;
}

dqt_status gguf_copy_keys(dqt_context *ctx, struct gguf_keys *keys, struct sink *sink) {
    struct foreign f = {.ctx = ctx};
    struct reader r = {.f = &f};
    struct input_file file;
    keys->count = keys->tokens = 0;
    TRY(file_open(ctx, keys->path, &file));
    dqt_status status = source_create(ctx, "GGUF", file_read, &file, &r.s);
    if (status == DQT_OK) {
        r.s->limit = file.size < HEAD_MOST ? file.size : HEAD_MOST;
        status = copy_keys(&r, keys, sink);
        source_destroy(r.s);
    }
    return file_close(ctx, keys->path, &file, status);
}
