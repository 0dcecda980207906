/* Files by path with nothing but C: the same on every system, Windows among them. */
#include <errno.h>

#include "counting_alloc.h"
#include "memory_file.h"

#if defined(_WIN32)
#include <direct.h>
#define make_folder(path) _mkdir(path)
#define remove_folder(path) _rmdir(path)
#else
#include <sys/stat.h>
#include <unistd.h>
#define make_folder(path) mkdir(path, 0777)
#define remove_folder(path) rmdir(path)
#endif

static struct counting memory;
static dqt_context *ctx;
static dqt_llama *model;

static void begin(void) {
    ctx = counting_context(&memory);
    dqt_llama_config c;
    OK(ctx, dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = 32;
    c.hidden_size = 16;
    c.intermediate_size = 24;
    c.num_layers = 1;
    c.num_heads = 2;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
}

static void end(void) {
    dqt_llama_destroy(model);
    counting_end(ctx, &memory);
}

static dqt_status save(const char *path, const char *host) {
    dqt_save_options o = DQT_INIT(dqt_save_options);
    o.host = host;
    o.host_size = strlen(host);
    return dqt_llama_save(model, NULL, path, &o);
}

/* The host's bytes in the file; "" if it cannot be loaded. */
static const char *loaded(const char *path) {
    static char text[64];
    dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
    text[0] = '\0';
    if (dqt_llama_load(ctx, path, NULL, &c) == DQT_OK)
        snprintf(text, sizeof text, "%.*s", (int)c.host_size, (const char *)c.host);
    dqt_llama_destroy(c.model);
    dqt_host_bytes_free(ctx, c.host, c.host_size);
    return text;
}

static bool exists(const char *path) {
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

/* New, replaced, with a name outside ASCII (UTF-8 everywhere), and without a folder in the path. */
static void saving_and_loading(void) {
    begin();
    static const char *const paths[] = {"dqt-paths-test", "./dqt-paths-test", "dqt-paths-\xC3\xA4\xE6\xA8\xA1"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        OK(ctx, save(paths[i], "first"));
        CHECK(strcmp(loaded(paths[i]), "first") == 0);
        OK(ctx, save(paths[i], "second"));
        CHECK(strcmp(loaded(paths[i]), "second") == 0);
        OK(ctx, dqt_llama_export_safetensors(model, paths[i], NULL));
        OK(ctx, dqt_llama_import_safetensors(model, paths[i], NULL));
        /* A save without memory leaves the old file. */
        OK(ctx, save(paths[i], "third"));
        memory.fail_at = memory.calls + 1;
        CHECK(save(paths[i], "fourth") == DQT_E_MEMORY);
        memory.fail_at = SIZE_MAX;
        CHECK(strcmp(loaded(paths[i]), "third") == 0);
        if (i < 2) CHECK(remove(paths[i]) == 0);
    }
#if defined(_WIN32)
    CHECK(_wremove(L"dqt-paths-\u00E4\u6A21") == 0);
#else
    CHECK(remove(paths[2]) == 0);
#endif
    end();
}

static void refusals(void) {
    begin();
    dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
    static const char none[] = "dqt-paths-no/such/file", folder[] = "dqt-paths-folder";
    CHECK(save(none, "x") == DQT_E_IO && strstr(dqt_last_error(ctx), none));
    CHECK(dqt_llama_load(ctx, none, NULL, &c) == DQT_E_IO && strstr(dqt_last_error(ctx), none));
    CHECKF(!strstr(dqt_last_error(ctx), "error "), "%s", dqt_last_error(ctx)); /* words, not a number */
    CHECK(make_folder(folder) == 0);
    CHECK(save(folder, "x") == DQT_E_IO);
    CHECKF(strstr(dqt_last_error(ctx), "folder"), "%s", dqt_last_error(ctx));
    CHECK(dqt_llama_load(ctx, folder, NULL, &c) == DQT_E_IO);
    CHECK(save("", "x") == DQT_E_IO);
    CHECK(remove_folder(folder) == 0);
#if defined(_WIN32)
    CHECK(save("NUL", "x") == DQT_E_IO);
    CHECKF(strstr(dqt_last_error(ctx), "device"), "%s", dqt_last_error(ctx));
#endif
    end();
}

static void stale_temporaries_are_removed(void) {
    begin();
    static const char stale[] = ".dqt-0123456789abcdef.tmp", other[] = ".dqt-0123456789abcdeX.tmp",
                      path[] = "dqt-paths-x";
    for (int i = 0; i < 2; i++) {
        FILE *f = fopen(i ? stale : other, "wb");
        CHECK(f && fclose(f) == 0);
    }
    OK(ctx, save(path, "x"));
    CHECK(!exists(stale) && exists(other) && strcmp(loaded(path), "x") == 0);
    CHECK(remove(path) == 0 && remove(other) == 0);
    end();
}

static const struct test tests[] = {TEST(saving_and_loading), TEST(refusals), TEST(stale_temporaries_are_removed)};
TEST_MAIN(tests)
