/* Part of kernels/update_template.h: the moments and u of one chunk of 128 columns, one function for each optimiser of
 * UPDATE_METHODS (kernels/update_kernels.h), moments_<name>(plan, chunk). Its description is in optim/<name>.c. */
#ifndef DQT_KERNELS_UPDATE_MOMENTS_H
#define DQT_KERNELS_UPDATE_MOMENTS_H

struct moments {
    const float *g;      /* gradient, before the clip factor */
    const float *column; /* factored second moment: the columns' statistic */
    float row_factor;    /* and the row's */
    float *m, *v;        /* decoded states, to be moved on in place; NULL where the plan has none */
    float *denominator;  /* out, where m is kept and enters u divided by something: what; holds 1 */
    float *u;            /* out, within +-UPDATE_LIMIT */
};

/* SGD: m is a decayed sum, not an average. */
static void sgd_sum(const struct update_plan *p, const float *restrict g, float *restrict m, float *restrict u) {
    const float clip = p->clip, beta1 = p->beta1;
    for (int k = 0; k < CHUNK; k++) {
        m[k] = beta1 * m[k] + limited(g[k], clip);
        u[k] = limited(m[k], 1.0f);
    }
}

static void moments_sgd(const struct update_plan *p, const struct moments *x) {
    if (x->m) {
        sgd_sum(p, x->g, x->m, x->u);
        return;
    }
    for (int k = 0; k < CHUNK; k++)
        x->u[k] = limited(x->g[k], p->clip);
}

static void adam_both(const struct update_plan *p, const float *restrict g, float *restrict m, float *restrict v,
                      float *restrict denominator, float *restrict u) {
    const float clip = p->clip, beta1 = p->beta1, rest1 = p->one_minus_beta1, beta2 = p->beta2,
                rest2 = p->one_minus_beta2;
    const float bias1 = p->inverse_bias1, bias2 = p->inverse_bias2, eps = p->eps;
    for (int k = 0; k < CHUNK; k++) {
        const float gk = limited(g[k], clip);
        const float mk = beta1 * m[k] + rest1 * gk;
        const float vk = beta2 * v[k] + rest2 * gk * gk;
        const float d = sqrtf(vk * bias2) + eps;
        m[k] = mk;
        v[k] = vk;
        denominator[k] = d;
        u[k] = limited(mk * bias1 / d, 1.0f);
    }
}

/* Without a first moment: u = g / denominator. */
static void adam_second_only(const struct update_plan *p, const float *restrict g, float *restrict v,
                             float *restrict u) {
    const float clip = p->clip, beta2 = p->beta2, rest2 = p->one_minus_beta2, bias2 = p->inverse_bias2, eps = p->eps;
    const float factor = p->update_factor;
    for (int k = 0; k < CHUNK; k++) {
        const float gk = limited(g[k], clip);
        const float vk = beta2 * v[k] + rest2 * gk * gk;
        v[k] = vk;
        u[k] = limited(gk / (sqrtf(vk * bias2) + eps), factor);
    }
}

static void moments_adamw(const struct update_plan *p, const struct moments *x) {
    if (x->m) {
        adam_both(p, x->g, x->m, x->v, x->denominator, x->u);
    } else {
        adam_second_only(p, x->g, x->v, x->u);
    }
}

/* v = row_factor * column; m NULL: no first moment. */
static void adafactor_factored(const struct update_plan *p, const float *restrict g, const float *restrict column,
                               float row_factor, float *restrict m, float *restrict denominator, float *restrict u) {
    const float clip = p->clip, beta1 = p->beta1, rest1 = p->one_minus_beta1, bias1 = p->inverse_bias1, eps = p->eps;
    const float factor = p->update_factor;
    const float second = least_float(row_factor * p->inverse_bias2, FLT_MAX); /* a column of 0 times it is 0 */
    for (int k = 0; k < CHUNK; k++)
        denominator[k] = sqrtf(column[k] * second) + eps;
    if (m) {
        for (int k = 0; k < CHUNK; k++) {
            const float mk = beta1 * m[k] + rest1 * limited(g[k], clip);
            m[k] = mk;
            u[k] = limited(mk * bias1 / denominator[k], 1.0f);
        }
    } else {
        for (int k = 0; k < CHUNK; k++)
            u[k] = limited(limited(g[k], clip) / denominator[k], factor);
    }
}

/* Tensors of one row or column keep a second moment per weight, as AdamW does. */
static void moments_adafactor(const struct update_plan *p, const struct moments *x) {
    if (x->v) {
        moments_adamw(p, x);
    } else {
        adafactor_factored(p, x->g, x->column, x->row_factor, x->m, x->denominator, x->u);
    }
}

/* Muon: m is a sum as SGD's; u = g + beta1 m, the m that has moved on (Nesterov's). optim/muon.c makes the direction of
 * it. */
static void muon_ahead(const struct update_plan *p, const float *restrict g, float *restrict m, float *restrict u) {
    const float clip = p->clip, beta1 = p->beta1;
    for (int k = 0; k < CHUNK; k++) {
        const float gk = limited(g[k], clip);
        m[k] = beta1 * m[k] + gk;
        u[k] = limited(gk + beta1 * m[k], 1.0f);
    }
}

static void moments_muon(const struct update_plan *p, const struct moments *x) {
    DQT_ASSERT(x->m);
    muon_ahead(p, x->g, x->m, x->u);
}

static void (*const moments[])(const struct update_plan *p, const struct moments *x) = {
#define MOMENTS(NAME, name) [UPDATE_##NAME] = moments_##name,
    UPDATE_METHODS(MOMENTS)
#undef MOMENTS
};

#endif
