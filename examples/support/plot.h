/* Line and point charts as SVG files. */
#ifndef PLOT_H
#define PLOT_H

#include <stdbool.h>
#include <stddef.h>

struct series {
    const char *name; /* in the legend; NULL: one more line of the series before it, in the same colour */
    const double *x, *y;
    size_t count;
    bool points; /* markers instead of a line */
};

struct chart {
    const char *title, *x_label, *y_label;
    bool log_x;
    double y_max; /* upper end of the axis; what lies above is cut off. 0: as the points need */
};

/* Writes the chart, as high as its legend needs; false if the file cannot be written. Points that are not finite are
 * left out. */
bool plot_svg(const char *path, const struct chart *chart, const struct series *series, size_t count);

#endif
