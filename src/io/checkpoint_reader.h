/* Sections of a checkpoint, as both ways of reading need them. */
#ifndef DQT_IO_CHECKPOINT_READER_H
#define DQT_IO_CHECKPOINT_READER_H

#include "io/checkpoint.h"

struct reader {
    struct source *source;
    dqt_context *ctx;
    uint64_t version;
    uint32_t sections, seen;
    uint64_t length; /* of the whole file */
    bool size_known; /* length is the file's, not only what its header says */
    struct {
        char tag[5], label[PARAMETER_NAME_BYTES];
        uint64_t payload, end; /* end: bytes consumed once the payload is */
    } head;
    size_t before, after; /* parameters of a whole model's file that a partial model leaves out */
    struct checkpoint *out;
};

/* Before `size` bytes are allocated for what the stream claims to hold in its next `claimed` bytes. */
dqt_status reader_prove(struct reader *r, uint64_t claimed, uint64_t size);

dqt_status reader_header(struct reader *r, uint64_t file_size);
dqt_status reader_next(struct reader *r);
bool reader_at(const struct reader *r, const char *tag, const char *label);
/* The section that has begun is this one. */
dqt_status reader_check(struct reader *r, const char *tag, const char *label);
/* The next section is this one, of this length. */
dqt_status reader_expect(struct reader *r, const char *tag, const char *label, uint64_t payload);
dqt_status reader_end(struct reader *r);
/* The rest of the section that has begun; then begins the next. */
dqt_status reader_skip(struct reader *r);
/* The next section, which must have this tag, and `count` of them. */
dqt_status reader_pass(struct reader *r, const char *tag, size_t count);
/* STAT of parameters below this number, or of all that are left (SIZE_MAX); one has begun. Leaves the next begun. */
dqt_status reader_pass_states(struct reader *r, size_t number);
/* The section that has begun holds entries, and nothing else. */
dqt_status reader_entries(struct reader *r, const struct entry_table *table, void *object);
/* The file ends here. */
dqt_status reader_finish(struct reader *r);

/* The section PARM that has begun, into a tensor with memory: its shape and formats are checked, then its numbers. */
dqt_status reader_parameter(struct reader *r, dqt_tensor *t);
/* A section STAT: the array, to data. of: NULL; or the updater of one part whose rows are taken out of a file of all.
 */
dqt_status reader_state(struct reader *r, const struct state_array *a, const dqt_updater *of, void *data);
/* TAPE (version 2) and HOST; the first of them has begun. */
dqt_status reader_tail(struct reader *r, bool host);

/* Payloads of version 1. */
enum { V1_CONFIG_BYTES = 168, V1_OPTIONS_BYTES = 64, V1_RULE_BYTES = 20 };
dqt_status v1_config(struct reader *r, dqt_llama_config *c);
dqt_status v1_options(struct reader *r, dqt_updater_options *o);
dqt_status v1_rule(struct reader *r, struct file_rule *rule);
dqt_status v1_tensor(struct reader *r, struct file_tensor *t);

#endif
