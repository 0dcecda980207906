/* Line and point charts as SVG files. */
#ifndef PLOT_H
#define PLOT_H

#include <stdbool.h>
#include <stddef.h>

struct series {
    const char *name;
    const double *x, *y;
    size_t count;
    bool points; /* markers with names beside them instead of a line */
};

struct chart {
    const char *title, *x_label, *y_label;
    bool log_x;
};

/* Writes the chart; false if the file cannot be written. Points that are not finite are left out. */
bool plot_svg(const char *path, const struct chart *chart, const struct series *series, size_t count);

#endif
