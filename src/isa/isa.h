/* Instruction sets: what each offers, and the choice among them.
 *
 * A set is one table, in isa_<set>.c: for each slot of struct kernels that it offers, the CPU features that the slot
 * needs, and the kernel. A context takes each slot from the last set, in the order weakest first, whose needs the
 * features meet. */
#ifndef DQT_ISA_ISA_H
#define DQT_ISA_ISA_H

#include "dqt.h"
#include "kernels/kernels.h"

/* The slots: GROUP(name, member of struct kernels) for kernels that come together, VALUE for a single pointer or
 * number. */
#define ISA_SLOTS(GROUP, VALUE)                                                                                        \
    GROUP(gemm_code, gemm.code)                                                                                        \
    GROUP(gemm_int8, gemm.int8)                                                                                        \
    GROUP(gemm_bf16, gemm.bf16)                                                                                        \
    GROUP(gemm_f32, gemm.f32)                                                                                          \
    GROUP(packed_dot, gemm.packed_dot)                                                                                 \
    VALUE(dot_groups, gemm.dot_groups)                                                                                 \
    VALUE(dot_codes, gemm.dot_codes)                                                                                   \
    GROUP(float_dot, gemm.float_dot)                                                                                   \
    VALUE(gemv_max_tokens, gemm.gemv_max_tokens)                                                                       \
    VALUE(unpack, gemm.unpack)                                                                                         \
    VALUE(quantize, gemm.quantize)                                                                                     \
    GROUP(vector, vector)                                                                                              \
    GROUP(attention_bf16, attention_bf16)                                                                              \
    GROUP(gradient, gradient)                                                                                          \
    GROUP(update, update)                                                                                              \
    VALUE(search_add, search_add)                                                                                      \
    VALUE(fast_bf16, fast_bf16)                                                                                        \
    VALUE(fast_int8_backward, fast_int8_backward)

#define ISA_ENUMERATOR(name, member) ISA_SLOT_##name,
enum isa_slot { ISA_SLOTS(ISA_ENUMERATOR, ISA_ENUMERATOR) ISA_SLOT_COUNT };

/* needs: DQT_CPU_* bits, all of them wanted. offer NULL or 0: the set does not have this slot. */
#define ISA_GROUP(name, member)                                                                                        \
    struct {                                                                                                           \
        uint64_t needs;                                                                                                \
        const __typeof__(((struct kernels *)0)->member) *offer;                                                        \
    } name;
#define ISA_VALUE(name, member)                                                                                        \
    struct {                                                                                                           \
        uint64_t needs;                                                                                                \
        __typeof__(((struct kernels *)0)->member) offer;                                                               \
    } name;

struct isa_set {
    const char *name;
    int isa; /* the DQT_ISA_* that dqt_context_isa reports where this is the strongest set in use */
    ISA_SLOTS(ISA_GROUP, ISA_VALUE)
};

extern const struct isa_set isa_scalar, isa_avx2, isa_avx_vnni, isa_avx512, isa_avx512_vnni, isa_amx, isa_neon,
    isa_neon_dotprod, isa_neon_i8mm;

/* The set that each slot came from; NULL: no set offers it. */
struct isa_choice {
    const struct isa_set *from[ISA_SLOT_COUNT];
    const struct isa_set *strongest;
};

/* Fills *k and *choice with the best that `features` (DQT_CPU_* bits) allow. */
void isa_select(struct kernels *k, struct isa_choice *choice, uint64_t features);

const char *isa_slot_name(enum isa_slot slot);

/* What a DQT_ISA_* value, as the context's option or by its name in the environment, allows. */
struct isa_cap {
    int isa;
    const char *name;
    uint64_t allows; /* DQT_CPU_* bits; 0: plain C */
};

enum { ISA_CAP_COUNT = 9 };
extern const struct isa_cap isa_caps[ISA_CAP_COUNT];

/* NULL for a number or name that is none (DQT_ISA_AUTO has no row: it allows everything). */
const struct isa_cap *isa_cap_find(int isa);
const struct isa_cap *isa_cap_find_name(const char *name);

/* All their names, with commas between them. */
enum { ISA_CAP_NAMES = 128 };
void isa_cap_names(char text[ISA_CAP_NAMES]);

#endif
