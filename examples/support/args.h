/* Command-line options of the examples: a table of names, kinds and places. */
#ifndef ARGS_H
#define ARGS_H

#include <stddef.h>

/* Of a dqt_format. */
#define FORMAT_CHOICES "f32=1 bf16=2 int8=3 int6=9 int5=8 int4=4 int3=5 int2=6 ternary=7"

enum arg_kind { ARG_FLAG, ARG_INT, ARG_SIZE, ARG_FLOAT, ARG_FRACTION, ARG_TEXT, ARG_CHOICE };

struct arg {
    const char *name; /* "--steps" */
    enum arg_kind kind;
    void *value;         /* int *, int *, size_t *, float *, float * of 0 to 1, const char **, int * */
    const char *help;    /* one line */
    const char *choices; /* ARG_CHOICE: "ternary=7 int2=6 ..." */
};

/* Fills the table's places from argv; on --help or a mistake prints to stdout or stderr and returns 1 or 2, else 0. */
int args_parse(int argc, char **argv, const struct arg *table, size_t count, const char *about);

#endif
