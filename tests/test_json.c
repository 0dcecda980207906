/* JSON: what is read, to the bit where a double can be right, and what is refused. */
#include "io/json.h"
#include "test.h"

static struct json reader(const char *text) {
    return json_of(NULL, "text", text, strlen(text));
}

static void numbers(void) {
    static const struct {
        const char *text;
        double value;
    } good[] = {{"0", 0},
                {"-0.0", -0.0},
                {"17", 17},
                {" -3", -3},
                {"1e-05", 1e-05},
                {"1E+2", 100},
                {"0.1", 0.1},
                {"10000.0", 10000.0},
                {"500000", 500000},
                {"1.5e0", 1.5},
                {"123456789012345678901234567890", 1.2345678901234568e29},
                {"1e300", 1e300},
                {"2.5e-300", 2.5e-300},
                {"0e999999999999999999999", 0},
                {"1e-999999", 0}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct json j = reader(good[i].text);
        double x = 7;
        CHECKF(json_number(&j, &x) == DQT_OK && json_end(&j) == DQT_OK, "%s", good[i].text);
        CHECKF(fabs(x - good[i].value) <= 4.5e-16 * fabs(good[i].value), "%s is %.17g", good[i].text, x);
    }
    /* short decimals are the doubles that are nearest to them */
    struct json j = reader("0.044194173824159216");
    double x;
    CHECK(json_number(&j, &x) == DQT_OK && fabs(x - 0.044194173824159216) <= 0x1p-52);
    static const char *const bad[] = {"",    "-",   "+1",    ".5",  "1.",   "01", "1e",
                                      "1e+", "- 1", "1e999", "NaN", "1.e5", "0x1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        j = reader(bad[i]);
        CHECKF(json_number(&j, &x) != DQT_OK || json_end(&j) != DQT_OK, "\"%s\" was read as %g", bad[i], x);
    }
}

static void strings(void) {
    static const struct {
        const char *text, *value;
    } good[] = {{"\"\"", ""},
                {" \"a\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "a\"\\/\b\f\n\r\t"},
                {"\"\\u0041\\u00e4\\u20ac\"", "A\xC3\xA4\xE2\x82\xAC"},
                {"\"\\ud83d\\ude00.\"", "\xF0\x9F\x98\x80."},
                {"\"\\uDBFF\\uDFFF\"", "\xF4\x8F\xBF\xBF"},
                {"\"\\ud83dx\\ude00\\u0000\\ud83d\\u0041\"", "?x???A"},
                {"\"\xC3\xA4\"", "\xC3\xA4"}};
    char out[64];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct json j = reader(good[i].text);
        CHECKF(json_string(&j, out, sizeof out) == DQT_OK && strcmp(out, good[i].value) == 0, "%s gives \"%s\"",
               good[i].text, out);
        CHECK(json_end(&j) == DQT_OK);
    }
    static const char *const bad[] = {"",
                                      "a",
                                      "\"",
                                      "\"a",
                                      "\"\\",
                                      "\"\\u12\"",
                                      "\"\\u12g4\"",
                                      "\"\\x\"",
                                      "\"\n\"",
                                      "\"\\"
                                      "u123"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct json j = reader(bad[i]);
        CHECKF(json_string(&j, out, sizeof out) == DQT_E_FORMAT, "%s", bad[i]);
    }
    static const char escapes[] = "\"\\ud83d\\ude00\""; /* what lies behind the end is not read */
    for (size_t n = 0; n + 1 < sizeof escapes - 1; n++) {
        struct json j = reader(escapes);
        j.length = n;
        CHECKF(json_string(&j, out, sizeof out) == DQT_E_FORMAT && j.at <= n, "%zu bytes", n);
    }
    struct json j = reader("\"abcdef\" 1"); /* cut off, and read to its end */
    CHECK(json_string(&j, out, 4) == DQT_OK && strcmp(out, "abc") == 0 && json_peek(&j) == JSON_NUMBER);
}

static void skipping(void) {
    static const char *const good[] = {"1",
                                       "\"x\"",
                                       "null",
                                       "[]",
                                       "{}",
                                       "[1, [2, {}], {\"a\": [true, false]}]",
                                       "{\"a\": {\"b\": {\"c\": []}}, \"d\": -1e5}",
                                       " [ [ ] , [ ] ] "};
    static const char *const bad[] = {"",     "[",       "]",        "{",      "[1",         "[1,", "[1,]",
                                      "[,1]", "{\"a\"}", "{\"a\":}", "{1: 2}", "{\"a\":1,}", "[1}", "{\"a\":1]",
                                      "tru",  "nulL",    "[1] 2",    "1 1",    "[\"a]",      "@"};
    char deep[4 * JSON_DEPTH];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct json j = reader(good[i]);
        CHECKF(json_skip(&j) == DQT_OK && json_end(&j) == DQT_OK, "%s", good[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct json j = reader(bad[i]);
        CHECKF(json_skip(&j) != DQT_OK || json_end(&j) != DQT_OK, "%s", bad[i]);
    }
    for (size_t depth = JSON_DEPTH; depth <= JSON_DEPTH + 1; depth++) {
        memset(deep, '[', depth);
        memset(deep + depth, ']', depth);
        struct json j = json_of(NULL, "text", deep, 2 * depth);
        CHECK((json_skip(&j) == DQT_OK) == (depth == JSON_DEPTH));
    }
}

/* What json_members and json_elements call with: keys, where they begin, and sums of the numbers. */
struct seen {
    char keys[64];
    size_t places, sum;
};

static dqt_status on_number(void *arg, struct json *j) {
    struct seen *s = arg;
    uint64_t n;
    const dqt_status status = json_whole(j, &n);
    if (status == DQT_OK) s->sum += (size_t)n;
    return status;
}

static dqt_status on_list(void *arg, struct json *j, const char *key) {
    struct seen *s = arg;
    strncat(s->keys, key, sizeof s->keys - strlen(s->keys) - 1);
    s->places += j->text[j->key] == '"' ? j->key : 1000;
    return json_elements(j, on_number, s);
}

static void members(void) {
    static const struct {
        const char *text, *keys;
        size_t places, sum;
    } good[] = {
        {"{}", "", 0, 0}, {" { } ", "", 0, 0}, {"{\"a\":[],  \"b\\u0063\" : [1, 20] ,\"d\":[300]}", "abcd", 42, 321}};
    static const char *const bad[] = {
        "",          "[]",           "{",          "{\"a\"}",       "{\"a\":[1],}", "{\"a\":[1]",
        "{\"a\":1}", "{\"a\":[1,]}", "{\"a\":[1}", "{\"a\":[1 2]}", "{1:[1]}",      "{\"a\":[1]]"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct json j = reader(good[i].text);
        struct seen s = {.sum = 0};
        CHECK(json_members(&j, on_list, &s) == DQT_OK && json_end(&j) == DQT_OK);
        CHECKF(strcmp(s.keys, good[i].keys) == 0 && s.places == good[i].places && s.sum == good[i].sum,
               "%s: %s %zu %zu", good[i].text, s.keys, s.places, s.sum);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct json j = reader(bad[i]);
        struct seen s = {.sum = 0};
        CHECKF(json_members(&j, on_list, &s) == DQT_E_FORMAT, "%s", bad[i]);
    }
}

/* Every text that is cut off is refused, and nothing beyond its end is looked at. */
static void cut_off(void) {
    static const char text[] = "{\"a\": [1.5e3, \"\\ud83d\\ude00\", true], \"b\": null}";
    for (size_t n = 0; n < sizeof text - 1; n++) {
        char *exact = malloc(n + 1);
        memcpy(exact, text, n);
        struct json j = json_of(NULL, "text", exact, n);
        CHECKF(json_skip(&j) == DQT_E_FORMAT, "%zu bytes", n);
        free(exact);
    }
}

static void words(void) {
    enum json_kind kind;
    static const enum json_kind kinds[] = {JSON_TRUE, JSON_FALSE, JSON_NULL};
    static const char *const texts[] = {"true", " false", "null"};
    for (size_t i = 0; i < 3; i++) {
        struct json j = reader(texts[i]);
        CHECK(json_word(&j, &kind) == DQT_OK && kind == kinds[i]);
    }
    struct json j = reader("1");
    CHECK(json_word(&j, &kind) == DQT_E_FORMAT);
}

static const struct test tests[] = {TEST(numbers), TEST(strings), TEST(skipping),
                                    TEST(members), TEST(cut_off), TEST(words)};

TEST_MAIN(tests)
