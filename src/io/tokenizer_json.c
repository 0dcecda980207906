#include "io/tokenizer_json.h"

#include <stdio.h>

#include "core/status.h"
#include "io/file.h"
#include "io/json.h"

enum { FILE_MOST = 1 << 28, WORD_ROOM = 64, REGEX_ROOM = 512 };

#define CASELESS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define REST "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* Expressions that are split by before bytes are, and llama.cpp's names of what they do (llama-vocab.cpp). */
static const struct {
    const char *regex, *name;
} splits[] = {{CASELESS "\\p{N}{1,3}" REST, "llama-bpe"}, {CASELESS "\\p{N}" REST, "qwen2"}};

static dqt_status refuse(const struct tokenizer *t, const char *what, const char *value) {
    return fail(t->ctx, DQT_E_UNSUPPORTED, "tokenizer.json: %s is %s, which is not supported", what, value);
}

/* The host can do better than guess. */
static dqt_status no_name(const struct tokenizer *t, const char *what, const char *value) {
    return fail(t->ctx, DQT_E_UNSUPPORTED,
                "tokenizer.json: %s is %s, for which no name of llama.cpp's is known; pre_tokenizer can say one", what,
                value);
}

static struct json json_at(const struct tokenizer *t, size_t at) {
    struct json j = json_of(t->ctx, "tokenizer.json", t->text, t->length);
    j.at = at;
    return j;
}

/* ---- Values ---------------------------------------------------------------------------------------------------- */

/* null is false. */
static dqt_status read_flag(struct json *j, bool *out) {
    enum json_kind word;
    TRY(json_word(j, &word));
    *out = word == JSON_TRUE;
    return DQT_OK;
}

/* null is "". */
static dqt_status read_word(struct json *j, char *out, size_t room) {
    enum json_kind word;
    out[0] = '\0';
    return json_peek(j) == JSON_NULL ? json_word(j, &word) : json_string(j, out, room);
}

/* Past a string that is read later: its place. */
static dqt_status pass_string(struct json *j, size_t *place) {
    json_peek(j);
    *place = j->at;
    return json_string(j, NULL, 0);
}

/* ---- Tokens ---------------------------------------------------------------------------------------------------- */

/* Added tokens may be in the vocabulary too; what the list of added ones says holds. */
static dqt_status add_token(struct tokenizer *t, uint64_t id, size_t place, unsigned char type) {
    if (id >= t->vocab)
        return fail(t->ctx, DQT_E_FORMAT, "tokenizer.json: a token has number %llu; the model's vocabulary has %zu",
                    (unsigned long long)id, t->vocab);
    const unsigned char before = t->types[id];
    if (before && (before == TOKEN_NORMAL) == (type == TOKEN_NORMAL))
        return fail(t->ctx, DQT_E_FORMAT, "tokenizer.json: two tokens have number %llu", (unsigned long long)id);
    if (type == TOKEN_NORMAL && before) return DQT_OK;
    t->types[id] = type;
    t->places[id] = place;
    return DQT_OK;
}

static dqt_status on_token(void *arg, struct json *j, const char *key) {
    const size_t place = j->key;
    uint64_t id;
    (void)key;
    TRY(json_whole(j, &id));
    return add_token(arg, id, place, TOKEN_NORMAL);
}

struct added {
    size_t place; /* 0: none */
    uint64_t id;  /* UINT64_MAX: none */
    bool special, single_word, lstrip, rstrip;
};

static dqt_status added_member(void *arg, struct json *j, const char *key) {
    struct added *a = arg;
    const struct {
        const char *key;
        bool *flag;
    } flags[] = {
        {"special", &a->special}, {"single_word", &a->single_word}, {"lstrip", &a->lstrip}, {"rstrip", &a->rstrip}};
    if (strcmp(key, "id") == 0) return json_whole(j, &a->id);
    if (strcmp(key, "content") == 0) return pass_string(j, &a->place);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (strcmp(key, flags[i].key) == 0) return read_flag(j, flags[i].flag);
    return json_skip(j);
}

static dqt_status read_added(void *arg, struct json *j) {
    struct tokenizer *t = arg;
    struct added a = {.id = UINT64_MAX};
    TRY(json_members(j, added_member, &a));
    if (!a.place || a.id == UINT64_MAX) return json_broken(j, "an id and a content before the end of an added token");
    if (a.single_word) return refuse(t, "single_word of an added token", "true");
    if (a.lstrip || a.rstrip) return refuse(t, "lstrip or rstrip of an added token", "true");
    return add_token(t, a.id, a.place, a.special ? TOKEN_CONTROL : TOKEN_USER);
}

/* ---- Merges ---------------------------------------------------------------------------------------------------- */

/* "left right", or in newer files ["left", "right"]. */
static dqt_status read_merge(struct json *j, char out[TOKEN_ROOM]) {
    if (json_peek(j) == JSON_ARRAY) {
        TRY(json_expect(j, '['));
        TRY(json_string(j, out, TOKEN_ROOM));
        const size_t n = strlen(out);
        if (n + 2 >= TOKEN_ROOM) return json_broken(j, "a shorter text before this");
        out[n] = ' ';
        TRY(json_expect(j, ','));
        TRY(json_string(j, out + n + 1, TOKEN_ROOM - n - 1));
        TRY(json_expect(j, ']'));
    } else {
        TRY(json_string(j, out, TOKEN_ROOM));
    }
    const char *space = strchr(out, ' ');
    if (strlen(out) == TOKEN_ROOM - 1 || !space || space == out || !space[1] || strchr(space + 1, ' '))
        return json_broken(j, "two short texts without spaces before this");
    return DQT_OK;
}

struct merging {
    struct sink *sink;
    size_t count;
};

static dqt_status on_merge(void *arg, struct json *j) {
    struct merging *m = arg;
    char text[TOKEN_ROOM];
    TRY(read_merge(j, text));
    m->count++;
    if (!m->sink) return DQT_OK;
    TRY(sink_number(m->sink, strlen(text), 8));
    return sink_bytes(m->sink, text, strlen(text));
}

dqt_status tokenizer_each_merge(struct tokenizer *t, struct sink *sink) {
    struct json j = json_at(t, t->merges);
    struct merging m = {.sink = sink};
    TRY(json_elements(&j, on_merge, &m));
    t->num_merges = m.count;
    return DQT_OK;
}

/* ---- Pre-tokenizer --------------------------------------------------------------------------------------------- */

/* One pre-tokenizer of a list. */
struct step {
    char type[WORD_ROOM], behavior[WORD_ROOM], regex[REGEX_ROOM];
    bool digits, prefix_space, no_regex, invert;
    size_t list; /* place of those of a Sequence; 0: none */
};

static dqt_status pattern_member(void *arg, struct json *j, const char *key) {
    struct step *s = arg;
    return strcmp(key, "Regex") == 0 ? json_string(j, s->regex, sizeof s->regex) : json_skip(j);
}

static dqt_status step_member(void *arg, struct json *j, const char *key) {
    struct step *s = arg;
    if (strcmp(key, "type") == 0) return read_word(j, s->type, sizeof s->type);
    if (strcmp(key, "behavior") == 0) return read_word(j, s->behavior, sizeof s->behavior);
    if (strcmp(key, "pattern") == 0 && json_peek(j) == JSON_OBJECT) return json_members(j, pattern_member, s);
    if (strcmp(key, "individual_digits") == 0) return read_flag(j, &s->digits);
    if (strcmp(key, "add_prefix_space") == 0) return read_flag(j, &s->prefix_space);
    if (strcmp(key, "invert") == 0) return read_flag(j, &s->invert);
    if (strcmp(key, "use_regex") == 0) {
        bool use = true;
        TRY(read_flag(j, &use));
        s->no_regex = !use;
        return DQT_OK;
    }
    if (strcmp(key, "pretokenizers") == 0 && json_peek(j) == JSON_ARRAY) s->list = j->at;
    return json_skip(j);
}

/* What the steps so far do together. */
struct cut {
    struct tokenizer *t;
    bool digits;      /* every digit by itself */
    const char *name; /* of a known expression */
    bool bytes;       /* the end: to bytes */
};

static dqt_status take_bytes(struct cut *c, const struct step *s) {
    if (s->prefix_space) return no_name(c->t, "add_prefix_space of the pre-tokenizer", "true");
    if (s->no_regex ? c->digits || !c->name : c->name != NULL)
        return no_name(c->t, "the order of pre-tokenizers", "another");
    if (!c->name) c->name = c->digits ? "smollm" : "gpt-2";
    c->bytes = true;
    return DQT_OK;
}

static dqt_status take_split(struct cut *c, const struct step *s) {
    for (size_t i = 0; i < sizeof splits / sizeof *splits; i++)
        if (strcmp(s->regex, splits[i].regex) == 0) c->name = splits[i].name;
    if (c->name && !s->invert && strcmp(s->behavior, "Isolated") == 0) return DQT_OK;
    return no_name(c->t, "the expression of the pre-tokenizer", *s->regex ? s->regex : "no regular one");
}

static dqt_status take_step(struct cut *c, const struct step *s) {
    if (strcmp(s->type, "ByteLevel") == 0 && !c->bytes) return take_bytes(c, s);
    if (strcmp(s->type, "Split") == 0 && !c->bytes && !c->name && !c->digits) return take_split(c, s);
    if (strcmp(s->type, "Digits") == 0 && s->digits && !c->bytes && !c->name) {
        c->digits = true;
        return DQT_OK;
    }
    return no_name(c->t, "pre_tokenizer", *s->type ? s->type : "no known one");
}

static dqt_status read_step(void *arg, struct json *j) {
    struct step s = {.list = 0};
    TRY(json_members(j, step_member, &s));
    return take_step(arg, &s);
}

static dqt_status read_pretokenizer(struct cut *c, size_t place) {
    struct json j = json_at(c->t, place);
    struct step s = {.list = 0};
    if (json_peek(&j) != JSON_OBJECT) return no_name(c->t, "pre_tokenizer", "none");
    TRY(json_members(&j, step_member, &s));
    if (!s.list || strcmp(s.type, "Sequence") != 0) {
        TRY(take_step(c, &s));
    } else {
        j = json_at(c->t, s.list);
        TRY(json_elements(&j, read_step, c));
    }
    return c->bytes ? DQT_OK : no_name(c->t, "pre_tokenizer", "one without ByteLevel");
}

/* ---- Whole ----------------------------------------------------------------------------------------------------- */

struct whole {
    struct tokenizer *t;
    char type[WORD_ROOM], normalizer[WORD_ROOM], prefix[WORD_ROOM], suffix[WORD_ROOM];
    bool whole_words, byte_fallback;
    size_t pretokenizer; /* places; 0: not there */
};

static dqt_status model_member(void *arg, struct json *j, const char *key) {
    struct whole *w = arg;
    if (strcmp(key, "type") == 0) return read_word(j, w->type, sizeof w->type);
    if (strcmp(key, "continuing_subword_prefix") == 0) return read_word(j, w->prefix, sizeof w->prefix);
    if (strcmp(key, "end_of_word_suffix") == 0) return read_word(j, w->suffix, sizeof w->suffix);
    if (strcmp(key, "ignore_merges") == 0) return read_flag(j, &w->whole_words);
    if (strcmp(key, "byte_fallback") == 0) return read_flag(j, &w->byte_fallback);
    if (strcmp(key, "vocab") == 0)
        return json_peek(j) == JSON_ARRAY ? refuse(w->t, "model.vocab", "no object") : json_members(j, on_token, w->t);
    if (strcmp(key, "merges") == 0 && json_peek(j) == JSON_ARRAY) w->t->merges = j->at;
    return json_skip(j);
}

static dqt_status normalizer_member(void *arg, struct json *j, const char *key) {
    struct whole *w = arg;
    return strcmp(key, "type") == 0 ? read_word(j, w->normalizer, sizeof w->normalizer) : json_skip(j);
}

static dqt_status member(void *arg, struct json *j, const char *key) {
    struct whole *w = arg;
    const enum json_kind kind = json_peek(j);
    if (strcmp(key, "model") == 0) return json_members(j, model_member, w);
    if (strcmp(key, "added_tokens") == 0 && kind == JSON_ARRAY) return json_elements(j, read_added, w->t);
    if (strcmp(key, "normalizer") == 0 && kind == JSON_OBJECT) return json_members(j, normalizer_member, w);
    if (strcmp(key, "pre_tokenizer") == 0) w->pretokenizer = j->at;
    return json_skip(j);
}

static dqt_status check_model(const struct whole *w) {
    if (*w->type && strcmp(w->type, "BPE") != 0) return refuse(w->t, "model.type", w->type);
    if (*w->prefix) return refuse(w->t, "continuing_subword_prefix", w->prefix);
    if (*w->suffix) return refuse(w->t, "end_of_word_suffix", w->suffix);
    if (w->byte_fallback) return refuse(w->t, "byte_fallback", "true");
    if (!w->t->merges) return refuse(w->t, "model.merges", "no list");
    return DQT_OK;
}

/* llama.cpp knows by the name alone how to cut, whether to compose characters and whether whole words go first. */
static dqt_status find_name(const struct whole *w) {
    struct cut c = {.t = w->t};
    TRY(read_pretokenizer(&c, w->pretokenizer));
    const bool llama = strcmp(c.name, "llama-bpe") == 0, qwen = strcmp(c.name, "qwen2") == 0;
    if (*w->normalizer && !(qwen && strcmp(w->normalizer, "NFC") == 0))
        return no_name(w->t, "normalizer", w->normalizer);
    if (w->whole_words != llama) return no_name(w->t, "ignore_merges", w->whole_words ? "true" : "false");
    w->t->pre = c.name;
    return DQT_OK;
}

static dqt_status read_all(struct tokenizer *t, const char *pre) {
    struct whole w = {.t = t};
    struct json j = json_at(t, 0);
    TRY(json_members(&j, member, &w));
    TRY(json_end(&j));
    TRY(check_model(&w));
    t->pre = pre;
    if (!pre) TRY(find_name(&w));
    for (size_t i = 0; i < t->vocab; i++)
        if (t->types[i]) return tokenizer_each_merge(t, NULL);
    return refuse(t, "model.vocab", "empty");
}

dqt_status tokenizer_open(dqt_context *ctx, const char *path, const char *text, size_t length, size_t vocab,
                          const char *pre, struct tokenizer *out) {
    *out = (struct tokenizer){.ctx = ctx, .text = text, .length = length, .vocab = vocab};
    if (path) {
        TRY(file_read_text(ctx, path, FILE_MOST, &out->read, &out->length));
        out->text = out->read;
    }
    struct arena a = {0};
    for (int pass = 0; pass < 2; pass++) {
        out->places = arena_take(&a, vocab, sizeof *out->places);
        out->types = arena_take(&a, vocab, sizeof *out->types);
        out->bytes = a.used;
        if (pass == 0 && !arena_alloc(ctx, &a)) {
            out->places = NULL;
            return fail(ctx, DQT_E_MEMORY, "no memory for %zu tokens", vocab);
        }
    }
    return read_all(out, pre);
}

void tokenizer_close(struct tokenizer *t) {
    if (t->places) memory_free(t->ctx, t->places, t->bytes);
    if (t->read) file_free_text(t->ctx, t->read, t->length);
    *t = (struct tokenizer){0};
}

dqt_status tokenizer_token(const struct tokenizer *t, size_t i, char out[TOKEN_ROOM]) {
    DQT_ASSERT(i < t->vocab);
    if (!t->types[i]) {
        snprintf(out, TOKEN_ROOM, "[PAD%zu]", i);
        return DQT_OK;
    }
    struct json j = json_at(t, t->places[i]);
    TRY(json_string(&j, out, TOKEN_ROOM));
    return strlen(out) < TOKEN_ROOM - 1 ? DQT_OK : json_broken(&j, "a shorter token before this");
}

int tokenizer_type(const struct tokenizer *t, size_t i) {
    DQT_ASSERT(i < t->vocab);
    return t->types[i] ? t->types[i] : TOKEN_UNUSED;
}
