/* Checkpoints: docs/checkpoint.md has the layout.
 *
 *   header | CONF OVER ... or LIST | PARM ... | OPTS | RULE ... | STAT ... | TAPE | HOST | END
 *
 * Every section carries a checksum of its head and one of all of it; the header has one too, and tells the length of
 * the whole file, so that no byte can change, go or come unnoticed. A model's file begins with its config, that of a
 * list of layers with LIST; a file of an updater alone has OPTS, RULE and STAT. Version 1 (read only) has fixed structs
 * in CONF, OPTS and RULE, and neither OVER, LIST nor TAPE. */
#ifndef DQT_IO_CHECKPOINT_H
#define DQT_IO_CHECKPOINT_H

#include "io/entries.h"
#include "io/weights.h"
#include "model/llama.h"

enum {
    CHECKPOINT_VERSION = 2,
    HEADER_BYTES = 28,        /* magic 8, version 4, sections 4, length 8, checksum 4 */
    SECTION_FIXED_BYTES = 24, /* tag 4, label length 4, payload length 8, two checksums 8; label and payload on top */
    PARAMETER_BYTES = 40,     /* of version 1, before scales and data; version 2 has more */
};

extern const unsigned char checkpoint_magic[8];

/* What the head of PARM says of a tensor; formats and rules as dqt.h numbers them. */
struct file_tensor {
    size_t rows, cols, num_scales;
    int32_t storage, compute, scale_rule, scale_axis, group_size;
};
struct file_rule {
    int32_t optimizer, rounding, frozen;
    float lr_factor, weight_decay, beta1, rounding_noise;
};

extern const struct entry_table config_table, override_table, tensor_table, options_table, rule_table, list_table,
    tape_table;

struct file_tensor file_tensor_of(const dqt_tensor *t);
struct file_rule file_rule_of(const dqt_updater *u, size_t index);
/* False, and nothing changed, for a rule that the parameter cannot have. */
bool file_rule_set(dqt_updater *u, size_t index, const struct file_rule *rule);

/* What updater_visit_state shows under this label: a count of steps, or numbers of which only first moments may be
 * negative. Codes (size 1) are all valid. */
bool state_valid(const char *label, const void *data, size_t count, size_t size);

/* What is written: a model or a list of layers with an updater of exactly these (or none), or an updater alone. */
struct checkpoint_source {
    const dqt_llama *model;
    dqt_layer *const *layers;
    size_t num_layers;
    const dqt_updater *updater;
    const void *host;
    size_t host_size;
    uint64_t pass;
    dqt_read_part_fn read_part; /* of the other parts, where the updater is of one: the file is that of all rows; of the
                                   other partial models, where the model is: the first, and the file is of the whole */
    void *part_user_data;
};
dqt_status checkpoint_write(dqt_context *ctx, const struct checkpoint_source *from, dqt_write_fn write,
                            void *user_data);
/* What a writer with read_part reads of this updater of one part; see io/checkpoint_part.h. */
dqt_status checkpoint_write_part(const dqt_updater *updater, dqt_write_fn write, void *user_data);

/* What a writer with read_part reads of this partial model; see io/checkpoint_stage.h. */
dqt_status checkpoint_write_stage(const dqt_llama *model, const dqt_updater *updater, dqt_write_fn write,
                                  void *user_data);

struct checkpoint_wanted {
    bool updater, host;
    uint64_t part, num_parts;       /* of an updater whose file is of all rows; 0 and 0: as the file has it */
    size_t first_block, num_blocks; /* of a whole model's file; 0 and 0: as the file has it */
};
struct checkpoint {
    dqt_llama *model;
    dqt_updater *updater;
    void *host;
    size_t host_size;
    uint64_t pass;
};
/* Creates a model. file_size: UINT64_MAX if it is not known. On failure `out` is all NULL. */
dqt_status checkpoint_read(dqt_context *ctx, dqt_read_fn read, void *user_data, uint64_t file_size,
                           struct checkpoint_wanted wanted, struct checkpoint *out);

/* Reads a file of a list of layers or of a model into existing layers, and its updater's rules and state into `updater`
 * (NULL: skipped); layers NULL: a file of an updater alone. Nothing is changed on failure. Of `out` only host bytes and
 * pass are set. */
dqt_status checkpoint_read_into(dqt_context *ctx, dqt_read_fn read, void *user_data, uint64_t file_size,
                                dqt_layer *const *layers, size_t num_layers, dqt_updater *updater, bool host,
                                struct checkpoint *out);

#endif
