/* tokenizer.json as the `tokenizers` library writes it. */
#include <stdlib.h>
#include <string.h>

#include "die.h"
#include "json.h"
#include "vocabulary.h"

static bool is_true(const struct json_node *n) {
    return n && n->type == JSON_TRUE;
}

static const char *text_of(const struct json_node *n) {
    return n && n->type == JSON_STRING ? n->text : "nothing";
}

static uint32_t number_of(const struct json_node *n) {
    const double value = n && n->type == JSON_NUMBER ? strtod(n->text, NULL) : -1;
    return value >= 0 && value < NO_TOKEN ? (uint32_t)value : NO_TOKEN;
}

/* What the pre-tokenizers of a list do together. */
struct cut {
    bool digits, bytes; /* Digits and ByteLevel have come */
    const struct split_name *regex;
};

static void read_pretokenizer(struct cut *cut, struct vocabulary *v, const struct json_node *n) {
    const char *type = text_of(json_get(n, "type"));
    const struct json_node *list = json_get(n, "pretokenizers"), *use = json_get(n, "use_regex");
    const char *regex = text_of(json_get(json_get(n, "pattern"), "Regex"));
    if (cut->bytes) die("the pre-tokenizer %s after ByteLevel is not supported", type);
    if (strcmp(type, "Sequence") == 0 && list && list->type == JSON_ARRAY) {
        const struct json_node *item = list + 1;
        for (size_t i = 0; i < list->size; i++, item += item->next)
            read_pretokenizer(cut, v, item);
    } else if (strcmp(type, "Digits") == 0 && is_true(json_get(n, "individual_digits")) && !cut->regex) {
        cut->digits = true;
    } else if (strcmp(type, "Split") == 0 && json_is(json_get(n, "behavior"), "Isolated") &&
               !is_true(json_get(n, "invert")) && !cut->regex && !cut->digits) {
        for (size_t i = 0; i < num_split_names; i++)
            if (split_names[i].regex && strcmp(split_names[i].regex, regex) == 0) cut->regex = &split_names[i];
        if (!cut->regex) die("the pre-tokenizer's regular expression is not supported: %s", regex);
    } else if (strcmp(type, "ByteLevel") == 0 && !is_true(json_get(n, "add_prefix_space"))) {
        const bool gpt2 = !use || use->type == JSON_TRUE; /* true where nothing is said */
        if (gpt2 ? cut->regex != NULL : cut->digits) die("this order of pre-tokenizers is not supported");
        v->split = cut->regex ? cut->regex->split : cut->digits ? SPLIT_DIGIT_GPT2 : gpt2 ? SPLIT_GPT2 : SPLIT_NONE;
        cut->bytes = true;
    } else {
        die("the pre-tokenizer %s, or an option of it, is not supported", type);
    }
}

static void read_added(struct vocabulary *v, const struct json_node *list) {
    const struct json_node *n = list + 1;
    for (size_t i = 0; list && list->type == JSON_ARRAY && i < list->size; i++, n += n->next) {
        const struct json_node *content = json_get(n, "content");
        const uint32_t number = number_of(json_get(n, "id"));
        if (!content || content->type != JSON_STRING || !content->size || number == NO_TOKEN)
            die("an added token has no content or no id");
        if (is_true(json_get(n, "single_word")) || is_true(json_get(n, "lstrip")) || is_true(json_get(n, "rstrip")))
            die("the added token %s has single_word, lstrip or rstrip, which are not supported", content->text);
        vocabulary_add(v, number, content->text, content->size, true);
        vocabulary_add_special(v, number);
    }
}

static void read_merges(struct vocabulary *v, const struct json_node *list) {
    if (!list || list->type != JSON_ARRAY) die("the tokenizer has no merges");
    const struct json_node *n = list + 1;
    for (size_t i = 0; i < list->size; i++, n += n->next) {
        const char *space = n->type == JSON_STRING ? strchr(n->text, ' ') : NULL;
        if (space) { /* "left right"; newer files have ["left", "right"] */
            const size_t left = (size_t)(space - n->text);
            vocabulary_merge(v, n->text, left, space + 1, n->size - left - 1);
        } else if (n->type == JSON_ARRAY && n->size == 2 && n[1].type == JSON_STRING && n[2].type == JSON_STRING) {
            vocabulary_merge(v, n[1].text, n[1].size, n[2].text, n[2].size);
        } else {
            die("merge %zu is not two strings", i);
        }
    }
}

/* Options of the model that would change tokens and that no byte-level model has. */
static void refuse(const struct json_node *model) {
    static const char *const strings[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        const struct json_node *n = json_get(model, strings[i]);
        if (n && n->type == JSON_STRING && n->size) die("the tokenizer's %s is not supported", strings[i]);
    }
    if (is_true(json_get(model, "byte_fallback"))) die("byte_fallback is not supported: this is no byte-level BPE");
}

static void read_normalizer(struct vocabulary *v, const struct json_node *n) {
    if (!n || n->type == JSON_NULL) return;
    v->compose = json_is(json_get(n, "type"), "NFC");
    if (!v->compose) die("the normalizer %s is not supported", text_of(json_get(n, "type")));
}

void vocabulary_from_json(struct vocabulary *v, const char *path, char *text, size_t size) {
    struct json j;
    struct cut cut = {0};
    const char *problem = json_read(&j, text, size);
    if (problem) die("%s is no JSON: %s", path, problem);
    const struct json_node *model = json_get(j.nodes, "model"), *list = json_get(model, "vocab");
    if (!list || list->type != JSON_OBJECT) die("%s has no model with a vocabulary", path);
    const struct json_node *type = json_get(model, "type");
    if (type && !json_is(type, "BPE")) die("a tokenizer of type %s is not supported, only BPE", text_of(type));
    refuse(model);
    read_normalizer(v, json_get(j.nodes, "normalizer"));
    const struct json_node *pre = json_get(j.nodes, "pre_tokenizer");
    if (pre && pre->type == JSON_OBJECT) read_pretokenizer(&cut, v, pre);
    if (!cut.bytes) die("%s is no byte-level BPE", path);
    v->whole_words = is_true(json_get(model, "ignore_merges"));
    read_added(v, json_get(j.nodes, "added_tokens")); /* first, for they may be in the vocabulary too */
    const struct json_node *key = list + 1;
    for (size_t i = 0; i < list->size; i++, key += 1 + key[1].next)
        vocabulary_add(v, number_of(key + 1), key->text, key->size, false);
    vocabulary_index(v);
    read_merges(v, json_get(model, "merges"));
    json_free(&j);
}
