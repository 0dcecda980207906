#include "args.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int choice(const char *choices, const char *word, int *value) {
    const size_t n = strlen(word);
    for (const char *p = choices; *p; p += strcspn(p, " "), p += *p == ' ')
        if (strncmp(p, word, n) == 0 && p[n] == '=') {
            *value = atoi(p + n + 1);
            return 1;
        }
    return 0;
}

static int set(const struct arg *a, const char *text) {
    char *end = NULL;
    errno = 0;
    switch (a->kind) {
    case ARG_INT: {
        const long number = strtol(text, &end, 10);
        *(int *)a->value = (int)number;
        if (*(int *)a->value != number) return 0;
        break;
    }
    case ARG_SIZE: {
        const unsigned long long number = strtoull(text, &end, 10);
        *(size_t *)a->value = (size_t)number;
        if (strchr(text, '-') || *(size_t *)a->value != number) return 0; /* strtoull takes -1 for its largest */
        break;
    }
    case ARG_FLOAT:
    case ARG_FRACTION: {
        float *const number = a->value;
        *number = strtof(text, &end);
        if (isnan(*number) || (a->kind == ARG_FRACTION && (*number < 0 || *number > 1))) return 0;
        break;
    }
    case ARG_TEXT: *(const char **)a->value = text; return 1;
    case ARG_CHOICE: return choice(a->choices, text, a->value);
    case ARG_FLAG: return 0;
    }
    return end != text && *end == '\0' && errno == 0;
}

static void list_choices(FILE *f, const char *words, const char *choices) {
    fputs(words, f);
    for (const char *p = choices; *p; p += strcspn(p, " "), p += *p == ' ')
        fprintf(f, " %.*s", (int)strcspn(p, "="), p);
}

static void usage(const struct arg *table, size_t count, const char *about) {
    printf("%s\n\nOptions:\n", about);
    for (size_t i = 0; i < count; i++) {
        printf("  %-18s %s", table[i].name, table[i].help);
        if (table[i].kind == ARG_CHOICE) list_choices(stdout, ":", table[i].choices);
        printf("\n");
    }
}

int args_parse(int argc, char **argv, const struct arg *table, size_t count, const char *about) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            usage(table, count, about);
            return 1;
        }
        size_t k = 0;
        while (k < count && strcmp(table[k].name, argv[i]) != 0)
            k++;
        if (k == count) {
            fprintf(stderr, "unknown option %s (try --help)\n", argv[i]);
            return 2;
        }
        if (table[k].kind == ARG_FLAG) {
            *(int *)table[k].value = 1;
        } else if (i + 1 == argc) {
            fprintf(stderr, "%s needs a value\n", argv[i]);
            return 2;
        } else if (!set(&table[k], argv[++i])) {
            fprintf(stderr, "%s cannot be \"%s\"", argv[i - 1], argv[i]);
            if (table[k].kind == ARG_CHOICE) list_choices(stderr, "; it takes:", table[k].choices);
            fprintf(stderr, "\n");
            return 2;
        }
    }
    return 0;
}
