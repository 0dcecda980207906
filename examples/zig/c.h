/* What train.zig takes from C, for `zig translate-c`. */
#include <dqt.h>
#include <stdio.h>
