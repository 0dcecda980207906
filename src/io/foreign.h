/* Models of other programs: a Hugging Face folder or a GGUF file becomes a list of tensors by name and place, and
 * facts; facts become a config; then tensor after tensor is read. */
#ifndef DQT_IO_FOREIGN_H
#define DQT_IO_FOREIGN_H

#include "io/encoding.h"
#include "io/facts.h"
#include "io/file.h"
#include "io/names.h"

enum { ROPE_PAIRS_MOST = 512 };

struct foreign_tensor {
    char name[FILE_NAME_BYTES];
    const struct encoding *encoding;
    size_t dims;            /* 1 or 2 */
    uint64_t rows, cols;    /* a vector has one row */
    uint64_t offset, bytes; /* in its file */
    size_t file;            /* of the paths */
};

/* What distinguishes the models of one name. */
struct architecture {
    const char *json, *gguf; /* NULL: not in such files */
    const char *model_type;  /* of config.json */
    bool squared_relu;       /* the MLP's, where config.json does not say */
    bool sub_norms, attention_bias, qk_norm;
    bool neighbours; /* GGUF files have rows of q and k in the order that rotates neighbours instead of halves */
    int activation;  /* DQT_ACTIVATION_* that the model was trained with; 0: NONE */
    double norm_eps, rope_theta; /* transformers' defaults where config.json leaves them out; so are the rest */
    int num_kv_heads, head_dim;  /* 0: num_heads; hidden_size / num_heads */
    int window;                  /* of attention, in tokens; 0: none */
    bool window_is_off;          /* unless use_sliding_window is true */
};

struct foreign {
    dqt_context *ctx;
    const char *what; /* "GGUF", "folder": begins sentences */
    struct facts facts;
    const struct architecture *architecture;
    bool packed;                    /* BitNet's linears have four codes in each byte */
    bool online;                    /* BitNet's linears are floats, of which each use takes the ternary codes */
    struct foreign_tensor *tensors; /* [room], of which num_tensors are known */
    size_t num_tensors, room;
    float rope_divisors[ROPE_PAIRS_MOST]; /* of the pairs' frequencies, in GGUF files of Llama 3 */
    size_t num_rope_divisors;             /* 0: none */
    char *paths;                          /* [num_paths][path_bytes] */
    size_t num_paths, paths_room, path_bytes;
};

/* What transformers loads such a model as; NULL: nothing. */
const struct architecture *architecture_of_config(const dqt_llama_config *c);

/* What the host wants of the model. */
struct foreign_options {
    dqt_tensor_options linear, embedding, head; /* a storage of 0: as the file has each tensor */
    int activation;                             /* DQT_ACTIVATION_DEFAULT: as it was trained */
    uint64_t max_length;                        /* 0: what the file says */
    bool stochastic;
    uint64_t seed;
};

/* A folder, or a GGUF file. */
dqt_status foreign_open_folder(struct foreign *f, const char *folder);
dqt_status foreign_open_gguf(struct foreign *f, const char *path, struct input_file *file);
/* Releases the lists. */
void foreign_close(struct foreign *f);

/* Room for one more tensor, zeroed, at the end of the list. */
dqt_status foreign_add(struct foreign *f, struct foreign_tensor **out);
/* folder, name and, where both are there, a slash between them as the next path. */
dqt_status foreign_add_path(struct foreign *f, const char *folder, const char *name);
const char *foreign_path(const struct foreign *f, size_t index);
/* Tensors [first, ...) lie in [begin, end) of their file, and on no byte do two; `whole`: and leave no byte out. */
dqt_status foreign_check_layout(const struct foreign *f, size_t first, uint64_t begin, uint64_t end, bool whole);

/* The config that facts and tensors say, but for the formats of weights. */
dqt_status foreign_config(struct foreign *f, const struct foreign_options *o, dqt_llama_config *c);

/* config.json of a model that architecture_of_config knows. */
dqt_status config_write(const dqt_llama *model, size_t context_length, bool bf16, dqt_write_fn write, void *user_data);

/* The model, with its weights. */
dqt_status foreign_create(struct foreign *f, const struct foreign_options *o, dqt_llama **out);

#endif
