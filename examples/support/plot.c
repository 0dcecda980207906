#include "plot.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    AXES_END = 620,
    HEIGHT = 460,
    LEFT = 70,
    TOP = 44,
    BOTTOM = 56,
    LEGEND_LINE = 17,
    LEGEND_SAMPLE = 46,
    LETTER = 7
};

/* Seven of Okabe and Ito's colours (2008), which colour-blind people can tell apart, then those of Kelly's of maximum
 * contrast (1965) that are dark enough on white. Lines beyond the last start again with dashes. */
static const char *const colours[] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222",
                                      "#875692", "#BE0032", "#848482", "#8DB600", "#654522", "#F99379", "#604E97",
                                      "#008856", "#B3446C", "#C2B280", "#882D17", "#2B3D26", "#DCD300", "#0A3A6B"};
static const char *const dashes[] = {"none", "7 3", "2 3"};
enum { COLOURS = sizeof colours / sizeof *colours, DASHES = sizeof dashes / sizeof *dashes };

struct style {
    const char *colour, *dash;
};

static struct style style_of(size_t index) {
    return (struct style){colours[index % COLOURS], dashes[index / COLOURS % DASHES]};
}

struct frame {
    double x0, x1, y0, y1;
    bool log_x;
    int width, height; /* of the whole picture */
};

static double value_x(const struct frame *f, double x) {
    return f->log_x ? log10(x) : x;
}

static double pixel_x(const struct frame *f, double x) {
    return LEFT + (value_x(f, x) - f->x0) / (f->x1 - f->x0) * (AXES_END - LEFT);
}

static double pixel_y(const struct frame *f, double y) {
    return f->height - BOTTOM - (y - f->y0) / (f->y1 - f->y0) * (f->height - TOP - BOTTOM);
}

static bool usable(const struct frame *f, double x, double y) {
    return isfinite(x) && isfinite(y) && (!f->log_x || x > 0);
}

static struct frame fit(const struct chart *chart, const struct series *s, size_t count) {
    struct frame f = {HUGE_VAL, -HUGE_VAL, HUGE_VAL, -HUGE_VAL, chart->log_x, 0, HEIGHT};
    int names = 0;
    size_t letters = 0;
    for (size_t i = 0; i < count; i++) {
        if (!s[i].name) continue;
        names++;
        if (strlen(s[i].name) > letters) letters = strlen(s[i].name);
    }
    f.width = AXES_END + LEGEND_SAMPLE + (int)letters * LETTER;
    if (f.height < TOP + names * LEGEND_LINE + 8) f.height = TOP + names * LEGEND_LINE + 8;
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
    if (chart->y_max > f.y0 && chart->y_max < f.y1) f.y1 = chart->y_max;
    return f;
}

/* Steps of 1, 2 or 5 times a power of ten, about `wanted` of them. */
static double tick_step(double range, int wanted) {
    const double raw = range / wanted, base = pow(10, floor(log10(raw)));
    return raw / base < 1.5 ? base : raw / base < 3.5 ? 2 * base : raw / base < 7.5 ? 5 * base : 10 * base;
}

static void tick(FILE *f, const struct frame *r, double value) {
    const double at = pixel_x(r, value);
    if (value_x(r, value) < r->x0 || value_x(r, value) > r->x1) return;
    fprintf(f,
            "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"#999\"/><text x=\"%.1f\" y=\"%d\" "
            "text-anchor=\"middle\">%g</text>\n",
            at, at, r->height - BOTTOM, r->height - BOTTOM + 5, at, r->height - BOTTOM + 19, value);
}

static void axes(FILE *f, const struct chart *c, const struct frame *r) {
    fprintf(f, "<text x=\"%d\" y=\"24\" font-size=\"16\">%s</text>\n", LEFT, c->title);
    const double sy = tick_step(r->y1 - r->y0, 6), sx = tick_step(r->x1 - r->x0, 7);
    for (double y = ceil(r->y0 / sy) * sy; y <= r->y1; y += sy)
        fprintf(f,
                "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" "
                "text-anchor=\"end\">%g</text>\n",
                LEFT, AXES_END, pixel_y(r, y), pixel_y(r, y), LEFT - 8, pixel_y(r, y) + 4, fabs(y) < sy / 1e6 ? 0 : y);
    if (r->log_x) {
        for (double power = floor(r->x0); power <= r->x1; power++)
            for (int i = 0; i < 3; i++)
                tick(f, r, pow(10, power) * (i == 0 ? 1 : i == 1 ? 2 : 5));
    } else {
        for (double x = ceil(r->x0 / sx) * sx; x <= r->x1; x += sx)
            tick(f, r, fabs(x) < sx / 1e6 ? 0 : x);
    }
    fprintf(f, "<path d=\"M%d %dV%dH%d\" fill=\"none\" stroke=\"#555\"/>\n", LEFT, TOP, r->height - BOTTOM, AXES_END);
    fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", (LEFT + AXES_END) / 2, r->height - 14,
            c->x_label);
    fprintf(f, "<text transform=\"translate(18 %d) rotate(-90)\" text-anchor=\"middle\">%s</text>\n",
            (TOP + r->height - BOTTOM) / 2, c->y_label);
}

static void draw(FILE *f, const struct frame *r, const struct series *s, struct style style) {
    if (s->points) {
        for (size_t k = 0; k < s->count; k++)
            if (usable(r, s->x[k], s->y[k]))
                fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill=\"%s\" stroke=\"white\"/>\n",
                        pixel_x(r, s->x[k]), pixel_y(r, s->y[k]), style.colour);
        return;
    }
    fprintf(f, "<polyline fill=\"none\" stroke=\"%s\" stroke-dasharray=\"%s\" stroke-width=\"1.6\" points=\"",
            style.colour, style.dash);
    for (size_t k = 0; k < s->count; k++)
        if (usable(r, s->x[k], s->y[k])) fprintf(f, "%.1f,%.1f ", pixel_x(r, s->x[k]), pixel_y(r, s->y[k]));
    fprintf(f, "\"/>\n");
}

static void legend(FILE *f, int line, const struct series *s, struct style style) {
    const int x = AXES_END + 16, y = TOP + 6 + line * LEGEND_LINE;
    if (s->points)
        fprintf(f, "<circle cx=\"%d\" cy=\"%d\" r=\"4.5\" fill=\"%s\"/>", x + 11, y, style.colour);
    else
        fprintf(f, "<path d=\"M%d %dh22\" stroke=\"%s\" stroke-dasharray=\"%s\" stroke-width=\"3\"/>", x, y,
                style.colour, style.dash);
    fprintf(f, "<text x=\"%d\" y=\"%d\">%s</text>\n", AXES_END + LEGEND_SAMPLE, y + 4, s->name);
}

bool plot_svg(const char *path, const struct chart *chart, const struct series *series, size_t count) {
    FILE *f = fopen(path, "w");
    if (!f) return false;
    const struct frame r = fit(chart, series, count);
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "
            "font-size=\"12\">\n"
            "<clipPath id=\"area\"><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/></clipPath>\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
            r.width, r.height, LEFT, TOP, AXES_END - LEFT, r.height - TOP - BOTTOM);
    axes(f, chart, &r);
    int line = -1;
    for (size_t i = 0; i < count; i++) {
        line += series[i].name || line < 0;
        const struct style style = style_of((size_t)line);
        if (series[i].name) legend(f, line, &series[i], style);
        fprintf(f, "<g clip-path=\"url(#area)\">\n");
        draw(f, &r, &series[i], style);
        fprintf(f, "</g>\n");
    }
    fprintf(f, "</svg>\n");
    const bool good = !ferror(f);
    return fclose(f) == 0 && good;
}
