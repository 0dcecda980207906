/* Models of other programs, and checkpoints, for 10_finetune and 11_evaluate: opened by their path in the format that
 * is asked for, and given back as a folder of Hugging Face or as GGUF. */
#ifndef FOREIGN_H
#define FOREIGN_H

#include <stdbool.h>

#include "args.h"
#include "dqt.h"

struct foreign_options {
    const char *path; /* a folder, a GGUF file, or a checkpoint (.dqt), which has its formats already */
    int format;       /* DQT_FORMAT_* of the blocks' weights; SAME: what holds the file's weights exactly */
    int compute;      /* the same of what the blocks' products read; SAME: the weights */
    int embedding;    /* the same of embedding and head; SAME: of integers INT8, else as the file */
    int group;        /* columns per scale; 0: one scale per row */
    int scale_rule;   /* DQT_SCALE_*; AUTO: as dqt_llama_open has it */
    int activation;   /* DQT_ACTIVATION_* */
    size_t length;    /* of the longest sequence */
};

/* --model, --format, --compute, --embedding, --group, --scale-rule, --activation; returns how many were written to
 * `table`. */
size_t foreign_args(struct foreign_options *o, struct arg *table);
enum { FOREIGN_ARGS = 7 };

/* The caller destroys *model. On failure it is NULL, and dqt_last_error(ctx) tells why. */
dqt_status foreign_open(dqt_context *ctx, const struct foreign_options *o, dqt_llama **model);

/* Writes a folder of Hugging Face into `folder`, which exists: with the tokenizer's files, if the model came from a
 * folder that has them. False, with a sentence on stderr, where it fails. */
bool foreign_export(dqt_context *ctx, const dqt_llama *model, const char *source, const char *folder);

/* Whether the file begins as GGUF does. */
bool foreign_is_gguf(const char *path);
/* Writes a GGUF file with the tokenizer and all other keys of the GGUF file `source`. False as above. */
bool foreign_export_gguf(dqt_context *ctx, const dqt_llama *model, const char *source, const char *path);

#endif
