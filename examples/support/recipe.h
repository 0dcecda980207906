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

/* The recipe for a format and its bound, with r->preset; formats that have none take that of the format most like
 * them, INT4's, or BF16 for a new model F32's. config and updater as dqt_preset_get has them. */
dqt_status recipe_find(struct recipe *r, int format, dqt_llama_config *config, dqt_updater_options *updater);

/* What an updater's options say of the update. */
void recipe_take_updater(const dqt_updater_options *u, struct run_options *o);

/* Parses the command line into *o and all else that is in `table`: once for format and recipe, then, over what the
 * recipe says, once more for all. The rate of a recipe for trained weights depends on the model's width: o->lr is then
 * 0, unless it is given, until recipe_find has been asked with the model's config. `prepare` (NULL: nothing) sets in
 * between what the program wants otherwise. As args_parse returns; 3: no recipe, dqt_last_error(NULL) says why. */
int recipe_parse(struct recipe *r, struct run_options *o, const int *format, void (*prepare)(struct run_options *o),
                 int argc, char **argv, const struct arg *table, size_t count, const char *about);

#endif
