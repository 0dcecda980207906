/* CRC-32C (Castagnoli; RFC 3720, appendix B.4): detects every error of up to three bits, and every burst of up to 32.
 */
#ifndef DQT_IO_CRC32C_H
#define DQT_IO_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Eight bytes per step ("slicing by 8", Kounavis and Berry 2005). Made by its user: the library has no global tables.
 */
struct crc32c {
    uint32_t table[8][256];
};

void crc32c_init(struct crc32c *c);

/* Continues `crc` (0 to begin) over n bytes. */
uint32_t crc32c_add(const struct crc32c *c, uint32_t crc, const void *data, size_t n);

#endif
