#include "plot.h"

#include <math.h>
#include <stdio.h>

enum { WIDTH = 760, HEIGHT = 440, LEFT = 70, RIGHT = 190, TOP = 44, BOTTOM = 56 };

/* Colour-blind-safe palette (Okabe and Ito 2008), then darker repeats. */
static const char *const colours[] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
                                      "#222222", "#8C564B", "#7F7F7F", "#5B5BD6", "#B8860B", "#2F4F4F"};

struct frame {
    double x0, x1, y0, y1;
    bool log_x;
};

static double value_x(const struct frame *f, double x) {
    return f->log_x ? log10(x) : x;
}

static double place_x(const struct frame *f, double x) {
    return LEFT + (value_x(f, x) - f->x0) / (f->x1 - f->x0) * (WIDTH - LEFT - RIGHT);
}

static double place_y(const struct frame *f, double y) {
    return HEIGHT - BOTTOM - (y - f->y0) / (f->y1 - f->y0) * (HEIGHT - TOP - BOTTOM);
}

static bool usable(const struct frame *f, double x, double y) {
    return isfinite(x) && isfinite(y) && (!f->log_x || x > 0);
}

static struct frame fit(const struct chart *chart, const struct series *s, size_t count) {
    struct frame f = {HUGE_VAL, -HUGE_VAL, HUGE_VAL, -HUGE_VAL, chart->log_x};
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < s[i].count; k++) {
            if (!usable(&f, s[i].x[k], s[i].y[k])) continue;
            const double x = value_x(&f, s[i].x[k]);
            f.x0 = fmin(f.x0, x);
            f.x1 = fmax(f.x1, x);
            f.y0 = fmin(f.y0, s[i].y[k]);
            f.y1 = fmax(f.y1, s[i].y[k]);
        }
    if (!(f.x1 > f.x0)) f.x0 = isfinite(f.x0) ? f.x0 - 1 : 0, f.x1 = f.x0 + 2;
    if (!(f.y1 > f.y0)) f.y0 = isfinite(f.y0) ? f.y0 - 1 : 0, f.y1 = f.y0 + 2;
    const double dx = (f.x1 - f.x0) * 0.03, dy = (f.y1 - f.y0) * 0.05;
    f.x1 += dx;
    f.x0 -= chart->log_x ? dx : 0;
    f.y0 -= dy;
    f.y1 += dy;
    return f;
}

/* Steps of 1, 2 or 5 times a power of ten, about `wanted` of them. */
static double tick_step(double range, int wanted) {
    const double raw = range / wanted, base = pow(10, floor(log10(raw)));
    return raw / base < 1.5 ? base : raw / base < 3.5 ? 2 * base : raw / base < 7.5 ? 5 * base : 10 * base;
}

static void axes(FILE *f, const struct chart *c, const struct frame *r) {
    fprintf(f, "<text x=\"%d\" y=\"24\" font-size=\"16\">%s</text>\n", LEFT, c->title);
    const double sy = tick_step(r->y1 - r->y0, 6), sx = r->log_x ? 1 : tick_step(r->x1 - r->x0, 7);
    for (double y = ceil(r->y0 / sy) * sy; y <= r->y1; y += sy)
        fprintf(f,
                "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" "
                "text-anchor=\"end\">%g</text>\n",
                LEFT, WIDTH - RIGHT, place_y(r, y), place_y(r, y), LEFT - 8, place_y(r, y) + 4,
                fabs(y) < sy / 1e6 ? 0 : y);
    for (double x = ceil(r->x0 / sx) * sx; x <= r->x1; x += sx) {
        const double value = r->log_x ? pow(10, x) : x, at = place_x(r, value);
        fprintf(f,
                "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"#999\"/><text x=\"%.1f\" y=\"%d\" "
                "text-anchor=\"middle\">%g</text>\n",
                at, at, HEIGHT - BOTTOM, HEIGHT - BOTTOM + 5, at, HEIGHT - BOTTOM + 19,
                fabs(value) < 1e-12 ? 0 : value);
    }
    fprintf(f, "<path d=\"M%d %dV%dH%d\" fill=\"none\" stroke=\"#555\"/>\n", LEFT, TOP, HEIGHT - BOTTOM, WIDTH - RIGHT);
    fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14,
            c->x_label);
    fprintf(f, "<text transform=\"translate(18 %d) rotate(-90)\" text-anchor=\"middle\">%s</text>\n",
            (TOP + HEIGHT - BOTTOM) / 2, c->y_label);
}

static void draw(FILE *f, const struct frame *r, const struct series *s, const char *colour) {
    if (s->points) {
        for (size_t k = 0; k < s->count; k++)
            if (usable(r, s->x[k], s->y[k]))
                fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>\n", place_x(r, s->x[k]),
                        place_y(r, s->y[k]), colour);
        return;
    }
    fprintf(f, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.6\" points=\"", colour);
    for (size_t k = 0; k < s->count; k++)
        if (usable(r, s->x[k], s->y[k])) fprintf(f, "%.1f,%.1f ", place_x(r, s->x[k]), place_y(r, s->y[k]));
    fprintf(f, "\"/>\n");
}

bool plot_svg(const char *path, const struct chart *chart, const struct series *series, size_t count) {
    FILE *f = fopen(path, "w");
    if (!f) return false;
    const struct frame r = fit(chart, series, count);
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "
            "font-size=\"12\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
            WIDTH, HEIGHT);
    axes(f, chart, &r);
    for (size_t i = 0; i < count; i++) {
        const char *colour = colours[i % (sizeof colours / sizeof *colours)];
        const int y = TOP + 8 + (int)i * 17;
        draw(f, &r, &series[i], colour);
        fprintf(f,
                "<rect x=\"%d\" y=\"%d\" width=\"12\" height=\"4\" fill=\"%s\"/><text x=\"%d\" y=\"%d\" "
                "font-size=\"11\">%s</text>\n",
                WIDTH - RIGHT + 12, y - 5, colour, WIDTH - RIGHT + 30, y, series[i].name);
    }
    fprintf(f, "</svg>\n");
    const bool good = !ferror(f);
    return fclose(f) == 0 && good;
}
