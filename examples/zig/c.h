/* What the programs here take from C, for `zig translate-c`. */
#include <dqt.h>
#include <math.h>
#include <stdio.h>
