/* safetensors files: 8 bytes of header length, a JSON header, data (huggingface/safetensors, "Format"). */
#ifndef DQT_IO_SAFETENSORS_H
#define DQT_IO_SAFETENSORS_H

#include "format/half.h"
#include "io/encoding.h"
#include "io/file.h"
#include "io/names.h"
#include "io/weights.h"

enum { HEADER_MOST = 100000000 /* the reference implementation's own limit */, MOST_DIMS = 2 };

enum element_type { TYPE_F32, TYPE_BF16, TYPE_F16, TYPE_U8, TYPE_OTHER };
/* Bytes of an element; 0 for OTHER. */
size_t element_bytes(enum element_type type);

/* Of a tensor's scales, where its codes are packed. */
static inline enum element_type scale_type(const dqt_tensor *t) {
    return tensor_has_halves(t) ? TYPE_F16 : TYPE_F32;
}

/* How such elements are read; U8 as BitNet's packed weights; NULL for OTHER. */
const struct encoding *element_encoding(enum element_type type);

/* In a file's metadata: the format of its codes by class, and by parameter where that has another ("dqt.", then the
 * parameter's name in the file). */
static const char *const format_keys[] = {"dqt.embedding", "dqt.linear", "dqt.head"};
static inline int format_key_of(int parameter_class) {
    return parameter_class == DQT_CLASS_EMBEDDING ? 0 : parameter_class == DQT_CLASS_HEAD ? 2 : 1;
}

/* One tensor of a header. */
struct listing {
    char name[FILE_NAME_BYTES]; /* cut off if it is longer, which no known name is */
    enum element_type type;
    size_t dims; /* MOST_DIMS + 1: more than this library knows */
    uint64_t shape[MOST_DIMS];
    uint64_t begin, end; /* in the data */
};

/* What a header holds, one by one; a status other than DQT_OK ends the reading. */
struct header_visitor {
    dqt_status (*tensor)(void *arg, const struct listing *listing);
    void (*metadata)(void *arg, const char *key, const char *value); /* cut off at the same length */
    void *arg;
};
/* Reads JSON text of exactly this shape: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...,
 * "__metadata__": {"key": "value", ...}}. DQT_E_FORMAT otherwise, with the byte where it went wrong. No recursion. */
dqt_status header_read(const dqt_context *ctx, const char *text, size_t length, const struct header_visitor *visitor);

/* True if every weight is scale * q, q an integer in [low, high], rounded to `type`; *scale is the coarsest such scale.
 * False for weights that are all 0: any scale would do; and for 8-bit codes in a 16-bit type, which cannot tell them
 * apart. Codes are rint(weight / scale). */
bool grid_find(const float *weights, size_t count, enum element_type type, int low, int high, float *scale);
/* Codes and scales of a tensor of codes if all weights are on grids, each of its scales' one; weights that are all 0
 * are on any. False: the tensor is as it was, but for its scales; so with scales of groups, which are not looked for.
 */
bool grid_store(dqt_tensor *t, const float *weights, enum element_type type);

/* transformers: with the names of transformers' classes (io/names.h). */
dqt_status safetensors_write(const dqt_llama *model, const dqt_safetensors_options *o, bool transformers,
                             dqt_write_fn write, void *user_data);
/* On failure the model is as it was. */
dqt_status safetensors_read(dqt_llama *model, struct input_file *file, bool stochastic, uint64_t seed);

#endif
