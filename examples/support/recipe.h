/* What a training run does where its options say nothing: the recipes of the library (dqt_preset_get), as run_options.
 */
#ifndef RECIPE_H
#define RECIPE_H

#include "args.h"
#include "dqt.h"
#include "run.h"

struct recipe {
    int purpose; /* DQT_PRESET_* */
    int none;    /* 1: run_defaults as they are */
    float bytes; /* bound of codes and state of a linear weight; 0: what learns best */
    dqt_preset preset;
};

/* The options of a recipe; returns how many were written to `table`, at most RECIPE_ARGS. */
size_t recipe_args(struct recipe *r, struct arg *table);
enum { RECIPE_ARGS = 2 };

/* Parses the command line into *o and all else that is in `table`: once for format and recipe, then, over what the
 * recipe says, once more for all. `prepare` (NULL: nothing) sets in between what the program wants otherwise. As
 * args_parse returns; 3: no recipe, dqt_last_error(NULL) says why. */
int recipe_parse(struct recipe *r, struct run_options *o, const int *format, void (*prepare)(struct run_options *o),
                 int argc, char **argv, const struct arg *table, size_t count, const char *about);

#endif
