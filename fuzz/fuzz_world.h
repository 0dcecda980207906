/* What the API target plays with: contexts, objects and their dependences, arguments drawn from the input. */
#ifndef FUZZ_WORLD_H
#define FUZZ_WORLD_H

enum kind { SESSION, SAMPLER, UPDATER, TAPE, MODEL, LAYER, TENSOR, KINDS }; /* in the order of destruction */
enum { CONTEXTS = 2, SLOTS = 4, MOST_NEEDS = 4, FLOATS = 1 << 16, MOST_DIM = 64, MOST_TOKENS = 24 };

struct object {
    void *handle;
    enum kind kind;
    int ctx, users;
    int32_t layer_kind; /* DQT_LAYER_* of a layer */
    struct object *needs[MOST_NEEDS];
    size_t num_needs;
    size_t in, out, rows, cols, batch, length; /* what buffers must hold; of a model in is hidden, out vocabulary */
    struct object *layers[MOST_NEEDS];         /* of a tape or updater: the host's own, or one model */
    size_t num_layers;
};

static struct {
    dqt_context *ctx[CONTEXTS];
    struct object objects[KINDS][SLOTS];
    const uint8_t *data;
    size_t size, at;
    bool changes;     /* the call may change weights though it fails */
    bool destroys;    /* the call has destroyed something to make room */
    bool update_open; /* an update has begun, so that backward functions change weights, even those that fail */
    bool hashing;
    char folder[40];
    float x[FLOATS], y[FLOATS];
    int32_t tokens[MOST_TOKENS], targets[MOST_TOKENS];
} world;

/* ---- Arguments ------------------------------------------------------------------------------------------------ */

static unsigned byte(void) {
    return world.at < world.size ? world.data[world.at++] : (unsigned)chance(256);
}
static bool one_in(unsigned n) {
    return byte() % n == n - 1;
}
static size_t up_to(size_t most) {
    return 1 + byte() % most;
}
/* Usually the right one; odd ones are small or far too large, for those between only cost time. */
static size_t size_or_odd(size_t right) {
    if (!one_in(24)) return right;
    const uint64_t odd = odd_number();
    return odd > 300 && odd < 1u << 27 ? SIZE_MAX / 2 : (size_t)odd;
}
static int32_t enum_or_odd(int32_t first, int32_t count) {
    return one_in(24) ? (int32_t)odd_number() : first + (int32_t)(byte() % (unsigned)count);
}
static float number(void) {
    static const float odd[] = {0, -0.0f, -1, NAN, INFINITY, -INFINITY, 1e30f, FLT_MAX, FLT_MIN, 1e-40f, 1, 100};
    return one_in(16) ? odd[byte() % (sizeof odd / sizeof *odd)] : 0.001f * (float)(1 + byte());
}
static void *null_sometimes(void *p) {
    return one_in(48) ? NULL : p;
}

/* Inputs: small numbers, seldom one that is not finite. */
static float *floats(size_t count) {
    for (size_t i = 0; i < count && i < FLOATS; i++)
        world.x[i] = (float)((int)((i * 7 + count) % 17) - 8) * 0.1f;
    if (one_in(32) && count) world.x[byte() % (count < FLOATS ? count : FLOATS)] = number();
    return null_sometimes(world.x);
}
static float *results(void) {
    return null_sometimes(world.y);
}
static int32_t *tokens(int32_t *into, size_t vocab, bool ignore) {
    for (size_t i = 0; i < MOST_TOKENS; i++)
        into[i] = (int32_t)(byte() % (unsigned)(vocab ? vocab : 1));
    if (ignore) into[byte() % MOST_TOKENS] = -1;
    if (one_in(32)) into[byte() % MOST_TOKENS] = (int32_t)odd_number();
    return null_sometimes(into);
}

/* A struct of options in memory of exactly its size, so that a read beyond it is seen: older, newer, with odd fields.
 */
typedef dqt_status (*init_fn)(void *options, size_t size);
static void *make_options(size_t full, init_fn init) {
    const unsigned kind = byte() % 32;
    size_t size = full;
    if (kind == 0) size = full + 8 * up_to(4);
    if (kind == 1) size = 4 + byte() % full;
    uint8_t *o = malloc(size);
    REQUIRE(init(o, size) == DQT_OK, "%s", dqt_last_error(NULL));
    if (kind == 0 && one_in(2)) o[full] = 1;
    for (size_t n = one_in(4) ? up_to(3) : 0; n; n--) {
        const size_t at = 4 * up_to(size / 4);
        const uint32_t value = one_in(2) ? (uint32_t)odd_number() : byte() % 4;
        if (at + 4 <= size && kind > 1) memcpy(o + at, &value, 4);
    }
    if (kind == 3) memcpy(o, &(uint32_t){(uint32_t)odd_number() | 1u << 20}, 4);
    return o;
}
/* Sets a field if the struct is large enough for it to count. */
#define SET(o, type, field, value)                                                                                     \
    do {                                                                                                               \
        uint32_t set_size;                                                                                             \
        const __typeof__(((type *)0)->field) set_value = (value);                                                      \
        memcpy(&set_size, o, 4);                                                                                       \
        if (set_size >= offsetof(type, field) + sizeof set_value && set_size < 2 * sizeof(type))                       \
            memcpy((char *)(o) + offsetof(type, field), &set_value, sizeof set_value);                                 \
    } while (0)

/* Result structs: usually of the right size. */
#define RESULT(type, name)                                                                                             \
    type name;                                                                                                         \
    memset(&name, 0xCC, sizeof name);                                                                                  \
    name.struct_size = one_in(24) ? (uint32_t)odd_number() & 0xFF000003u : (uint32_t)sizeof name

/* ---- Objects -------------------------------------------------------------------------------------------------- */

static struct object nothing;

/* One that lives, or `nothing`. */
static struct object *any(enum kind kind) {
    const unsigned first = byte();
    if (first == 255) return &nothing;
    for (unsigned i = 0; i < SLOTS; i++) {
        struct object *o = &world.objects[kind][(first + i) % SLOTS];
        if (o->handle) return o;
    }
    return &nothing;
}

static void destroy(struct object *o) {
    void *h = o->handle;
    if (!h) return;
    world.destroys = true;
    switch (o->kind) {
    case SESSION: dqt_session_destroy(h); break;
    case SAMPLER: dqt_sampler_destroy(h); break;
    case UPDATER: dqt_updater_destroy(h); break;
    case TAPE: dqt_tape_destroy(h); break;
    case MODEL: dqt_llama_destroy(h); break;
    case LAYER: dqt_layer_destroy(h); break;
    case TENSOR: dqt_tensor_destroy(h); break;
    case KINDS: break;
    }
    for (size_t i = 0; i < o->num_needs; i++)
        o->needs[i]->users--;
    *o = (struct object){0};
}

/* A free place; one that nobody uses is made free if there is none. NULL: all are in use. */
static struct object *place(enum kind kind) {
    const unsigned first = byte();
    for (int make = 0; make < 2; make++)
        for (unsigned i = 0; i < SLOTS; i++) {
            struct object *o = &world.objects[kind][(first + i) % SLOTS];
            if (make && o->users == 0) destroy(o);
            if (o->handle) continue;
            *o = (struct object){.kind = kind};
            return o;
        }
    return NULL;
}

/* What became of a creation: the handle is there exactly if it succeeded. */
static dqt_status created(struct object *o, dqt_status status, void *handle, const char *what) {
    REQUIRE((status == DQT_OK) == (handle != NULL), "%s: status %d, handle %p", what, status, handle);
    o->handle = handle;
    if (!handle) return status;
    for (size_t i = 0; i < o->num_needs; i++)
        o->needs[i]->users++;
    return status;
}

static void need(struct object *o, struct object *what) {
    if (what->handle && o->num_needs < MOST_NEEDS) o->needs[o->num_needs++] = what;
}

/* Of all models and tensors. */
struct hash {
    uint64_t value;
};
static int32_t hash_write(void *user_data, const void *buffer, size_t size) {
    struct hash *h = user_data;
    for (size_t i = 0; i < size; i++)
        h->value = (h->value ^ ((const uint8_t *)buffer)[i]) * 1099511628211u;
    return 0;
}
static uint64_t weights_hash(void) {
    struct hash h = {14695981039346656037u};
    world.hashing = true;
    for (int i = 0; i < SLOTS; i++) {
        void *data, *model = world.objects[MODEL][i].handle, *tensor = world.objects[TENSOR][i].handle;
        size_t bytes;
        if (model && dqt_llama_write(model, NULL, hash_write, &h, NULL) != DQT_OK) h.value++;
        if (tensor && dqt_tensor_data(tensor, &data, &bytes) == DQT_OK) hash_write(&h, data, bytes);
    }
    world.hashing = false;
    return h.value;
}

/* ---- The whole ------------------------------------------------------------------------------------------------ */

static void make_folder(void) {
    strcpy(world.folder, access("/dev/shm", W_OK) == 0 ? "/dev/shm/dqt-fuzz-XXXXXX" : "/tmp/dqt-fuzz-XXXXXX");
    REQUIRE(mkdtemp(world.folder), "no temporary folder");
}
static const char *file_name(void) {
    static char path[64];
    snprintf(path, sizeof path, "%s/%s", world.folder,
             one_in(24)   ? "no/file"
             : one_in(24) ? "."
             : one_in(2)  ? "a"
                          : "b");
    return null_sometimes(path);
}
static void remove_folder(void) {
    char path[64];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", world.folder, i ? "a" : "b");
        unlink(path);
    }
    rmdir(world.folder);
}

/* A host's threads, in the worst order. */
static void backwards(void *user_data, size_t count, dqt_task_fn task, void *task_data) {
    (void)user_data;
    while (count--)
        task(task_data, count);
}

static int32_t interrupt(void *user_data) {
    (void)user_data;
    return !world.hashing && one_in(64); /* the hash writes models whole */
}

static void world_begin(const uint8_t *data, size_t size) {
    world.data = data;
    world.size = size;
    world.at = 0;
    world.update_open = false;
    fuzz_state = size;
    for (size_t i = 0; i < size; i++)
        fuzz_state = (fuzz_state ^ data[i]) * 1099511628211u;
    for (int c = 0; c < CONTEXTS; c++) {
        dqt_context_options o;
        dqt_context_options_init(&o, sizeof o);
        o.alloc = fuzz_alloc;
        o.free = fuzz_free;
        o.threading = c ? DQT_THREADING_HOST : DQT_THREADING_SERIAL;
        o.parallel_for = c ? backwards : NULL;
        o.num_threads = c ? 3 : 1;
        o.interrupt = c ? interrupt : NULL;
        if (one_in(4)) o.isa = DQT_ISA_SCALAR;
        REQUIRE(dqt_context_create(&o, &world.ctx[c]) == DQT_OK, "%s", dqt_last_error(NULL));
    }
}

static void world_end(void) {
    for (int kind = 0; kind < KINDS; kind++)
        for (int pass = 0; pass < 2; pass++) /* a tied head before its embedding */
            for (int i = 0; i < SLOTS; i++)
                if (world.objects[kind][i].users == 0) destroy(&world.objects[kind][i]);
    for (int c = 0; c < CONTEXTS; c++)
        dqt_context_destroy(world.ctx[c]);
    REQUIRE(fuzz_memory.now == 0, "%zu bytes are left", fuzz_memory.now);
}

#endif
