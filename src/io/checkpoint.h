/* Checkpoints: docs/checkpoint.md has the layout.
 *
 *   header | CONF | PARM ... | OPTS | RULE | STAT ... | HOST | END
 *
 * Every section carries a checksum of its head and one of all of it; the header has one too, and tells the length of
 * the whole file, so that no byte can change, go or come unnoticed. */
#ifndef DQT_IO_CHECKPOINT_H
#define DQT_IO_CHECKPOINT_H

#include "io/weights.h"
#include "model/llama.h"

enum {
    CHECKPOINT_VERSION = 1,
    HEADER_BYTES = 28, /* magic 8, version 4, sections 4, length 8, checksum 4 */
    SECTION_FIXED_BYTES =
        24, /* tag 4, label length 4, payload length 8, two checksums 8; label and payload come on top */
    CONFIG_BYTES = 168,
    PARAMETER_BYTES = 40, /* before scales and data: rows 8, cols 8, scales 8, storage, compute, rule and axis 16 */
    OPTIONS_BYTES = 64,
    RULE_BYTES = 20
};

extern const unsigned char checkpoint_magic[8];

/* A struct's members one after the other, to or from bytes, so that no padding is ever written. `bad` is set by a
 * number that this system's size_t cannot hold. */
struct fields {
    unsigned char bytes[CONFIG_BYTES];
    size_t used;
    bool reading, bad;
};
/* A scale rule as version 1 numbers it. */
uint64_t file_scale_rule(int rule);

void fields_config(struct fields *f, dqt_llama_config *c);
void fields_options(struct fields *f, dqt_updater_options *o);
void fields_rule(struct fields *f, struct update_rule *r);

/* What updater_visit_state shows under this label: a count of steps, or numbers of which only first moments may be
 * negative. Codes (size 1) are all valid. */
bool state_valid(const char *label, const void *data, size_t count, size_t size);

/* The updater, if any, is of exactly the model's layers. */
dqt_status checkpoint_write(const dqt_llama *model, const dqt_updater *updater, const void *host, size_t host_size,
                            dqt_write_fn write, void *user_data);

struct checkpoint_wanted {
    bool updater, host;
};
struct checkpoint {
    dqt_llama *model;
    dqt_updater *updater;
    void *host;
    size_t host_size;
};
/* file_size: UINT64_MAX if it is not known. On failure `out` is all NULL. */
dqt_status checkpoint_read(dqt_context *ctx, dqt_read_fn read, void *user_data, uint64_t file_size,
                           struct checkpoint_wanted wanted, struct checkpoint *out);

#endif
