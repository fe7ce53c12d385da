/* AMX's tiles and products of bfloat16 in C, for processors without them: include it before the
   kernel's sources. Tiles that are used without a configuration end the program. */

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef __AMX_BF16__
#define __AMX_BF16__ 1
#endif

enum { EMULATED_ROWS = 16, EMULATED_BYTES = 64 };

static _Thread_local unsigned char emulated_tiles[8][EMULATED_ROWS][EMULATED_BYTES];
static _Thread_local int emulated_palette;

static void emulated_check(void)
{
    if (!emulated_palette)
        abort();
}

static void emulated_zero(int tile)
{
    emulated_check();
    memset(emulated_tiles[tile], 0, sizeof emulated_tiles[tile]);
}

static void emulated_load(int tile, const void *from, long stride)
{
    emulated_check();
    for (int row = 0; row < EMULATED_ROWS; row++)
        memcpy(emulated_tiles[tile][row], (const char *)from + row * stride, EMULATED_BYTES);
}

static void emulated_store(int tile, void *to, long stride)
{
    emulated_check();
    for (int row = 0; row < EMULATED_ROWS; row++)
        memcpy((char *)to + row * stride, emulated_tiles[tile][row], EMULATED_BYTES);
}

static float emulated_value(int tile, int row, int index)
{
    uint16_t half;
    memcpy(&half, &emulated_tiles[tile][row][2 * index], sizeof half);
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* sum += left * right, where a row of `right` has two values of each column. */
static void emulated_product(int sum, int left, int right)
{
    emulated_check();
    for (int row = 0; row < EMULATED_ROWS; row++)
        for (int column = 0; column < 16; column++) {
            float value;
            memcpy(&value, &emulated_tiles[sum][row][4 * column], sizeof value);
            for (int k = 0; k < 32; k++)
                value += emulated_value(left, row, k)
                         * emulated_value(right, k / 2, 2 * column + k % 2);
            memcpy(&emulated_tiles[sum][row][4 * column], &value, sizeof value);
        }
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(config) ((void)(config), emulated_palette = 1)
#define _tile_release() (emulated_palette = 0)
#define _tile_zero(tile) emulated_zero(tile)
#define _tile_loadd(tile, from, stride) emulated_load(tile, from, stride)
#define _tile_stored(tile, to, stride) emulated_store(tile, to, stride)
#define _tile_dpbf16ps(sum, left, right) emulated_product(sum, left, right)

/* The permission to use tiles, which is all that the kernel asks the system for by number. */
#define syscall(...) EMULATED_SYSCALL_RESULT
