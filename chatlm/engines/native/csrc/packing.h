/* Packs rows of stored matrices: as they are, or quantized to 8 bits (Q8_0) or 4 bits (Q4_1). */

#pragma once

#include "formats.h"

/* One row's columns of a block, not yet interleaved with other rows. */
typedef struct {
    uint8_t codes[256];
    uint16_t scales[2], minimums[2]; /* float16; only the first of two-level formats */
    int8_t group_scales[16], group_minimums[16]; /* of two-level formats */
} RowBlock;

/* --- blocks of ggml -------------------------------------------------------------------------- */

/* Columns and bytes of a block in a GGUF file; 1 and the size of a value if not quantized. */
static int64_t stored_block_columns(int64_t type)
{
    return is_quantized(type) ? quantized_format(type).two_level ? 256 : 32 : 1;
}

static int64_t stored_block_bytes(int64_t type)
{
    static const uint8_t BYTES[] = {
        [F32] = 4, [F16] = 2, [BF16] = 2, [Q4_0] = 18, [Q4_1] = 20, [Q5_0] = 22, [Q5_1] = 24,
        [Q8_0] = 34, [Q2_K] = 84, [Q3_K] = 110, [Q4_K] = 144, [Q5_K] = 176, [Q6_K] = 210,
        [IQ4_NL] = 18, [IQ4_XS] = 136, [MXFP4] = 17, [Q4_Z] = 20,
        [Q8_Z] = 36,
    };
    return BYTES[type];
}

static uint16_t read_u16(const uint8_t *from)
{
    uint16_t out;
    memcpy(&out, from, sizeof out);
    return out;
}

/* 16 bytes, whose low nibbles are the first 16 codes and whose high nibbles are the next. */
static void read_nibbles(const uint8_t *from, int count, uint8_t *codes)
{
    for (int i = 0; i < count; i++)
        codes[i] = from[i] & 15, codes[count + i] = from[i] >> 4;
}

/* Bits 4 of 32 codes. */
static void read_fifth_bits(const uint8_t *from, uint8_t *codes)
{
    uint32_t bits;
    memcpy(&bits, from, sizeof bits);
    for (int i = 0; i < 32; i++)
        codes[i] |= (uint8_t)((bits >> i & 1) << 4);
}

/* Scales and minimums of 6 bits (Q4_K, Q5_K). */
static void read_six_bit_scales(const uint8_t *from, RowBlock *out)
{
    for (int i = 0; i < 4; i++) {
        out->group_scales[i] = from[i] & 63;
        out->group_minimums[i] = from[i + 4] & 63;
        out->group_scales[i + 4] = (int8_t)((from[i + 8] & 15) | from[i] >> 6 << 4);
        out->group_minimums[i + 4] = (int8_t)(from[i + 8] >> 4 | from[i + 4] >> 6 << 4);
    }
}

/* A power of two, 2^(exponent - 128), as float16; NaN where that is impossible. */
static uint16_t power_to_f16(int exponent)
{
    if (exponent < 104 || exponent > 143)
        return 0x7e00;
    return (uint16_t)(exponent < 114 ? 1 << (exponent - 104) : (exponent - 113) << 10);
}

/* Read a block of one row; `part` is 0 or 1 where two blocks of 32 columns become one of 64. */
static void read_stored_block(int64_t type, const uint8_t *from, int part, RowBlock *out)
{
    uint8_t *codes = out->codes + 32 * part;
    uint16_t *scale = &out->scales[part], *minimum = &out->minimums[part];
    switch (type) {
    case Q4_0:
    case IQ4_NL:
        *scale = read_u16(from);
        read_nibbles(from + 2, 16, codes);
        break;
    case Q4_1:
    case Q4_Z:
        *scale = read_u16(from), *minimum = read_u16(from + 2);
        read_nibbles(from + 4, 16, codes);
        break;
    case Q5_0:
        *scale = read_u16(from);
        read_nibbles(from + 6, 16, codes);
        read_fifth_bits(from + 2, codes);
        break;
    case Q5_1:
        *scale = read_u16(from), *minimum = read_u16(from + 2);
        read_nibbles(from + 8, 16, codes);
        read_fifth_bits(from + 4, codes);
        break;
    case Q8_Z:
        *scale = read_u16(from), *minimum = read_u16(from + 2);
        memcpy(codes, from + 4, 32);
        break;
    case Q8_0:
        *scale = read_u16(from);
        for (int i = 0; i < 32; i++)
            codes[i] = from[2 + i] ^ 0x80; /* from -128…127 to 0…255 */
        break;
    case MXFP4: {
        read_nibbles(from + 1, 16, codes);
        bool all_zero = true;
        for (int i = 0; i < 32; i++)
            all_zero &= codes[i] % 8 == 0;
        *scale = all_zero ? 0 : power_to_f16(from[0]);
        break;
    }
    case Q2_K:
        for (int part = 0; part < 8; part++)
            for (int i = 0; i < 32; i++)
                codes[32 * part + i] = from[16 + part / 4 * 32 + i] >> part % 4 * 2 & 3;
        for (int i = 0; i < 16; i++)
            out->group_scales[i] = from[i] & 15, out->group_minimums[i] = (int8_t)(from[i] >> 4);
        *scale = read_u16(from + 80), *minimum = read_u16(from + 82) ^ 0x8000;
        break;
    case Q3_K:
        for (int part = 0; part < 8; part++)
            for (int i = 0; i < 32; i++)
                codes[32 * part + i] =
                    (uint8_t)((from[32 + part / 4 * 32 + i] >> part % 4 * 2 & 3)
                              | (from[i] >> part & 1) << 2);
        for (int i = 0; i < 16; i++) {
            int low = i < 8 ? from[96 + i] & 15 : from[96 + i - 8] >> 4;
            int high = from[104 + i % 4] >> i / 4 * 2 & 3;
            out->group_scales[i] = (int8_t)((low | high << 4) - 32);
        }
        *scale = read_u16(from + 108);
        break;
    case Q4_K:
        *scale = read_u16(from), *minimum = read_u16(from + 2) ^ 0x8000;
        read_six_bit_scales(from + 4, out);
        for (int i = 0; i < 4; i++)
            read_nibbles(from + 16 + 32 * i, 32, codes + 64 * i);
        break;
    case Q5_K:
        *scale = read_u16(from), *minimum = read_u16(from + 2) ^ 0x8000;
        read_six_bit_scales(from + 4, out);
        for (int i = 0; i < 4; i++)
            read_nibbles(from + 48 + 32 * i, 32, codes + 64 * i);
        for (int j = 0; j < 8; j++)
            for (int i = 0; i < 32; i++)
                codes[32 * j + i] |= (uint8_t)((from[16 + i] >> j & 1) << 4);
        break;
    case Q6_K:
        for (int half = 0; half < 2; half++)
            for (int j = 0; j < 4; j++)
                for (int i = 0; i < 32; i++)
                    codes[128 * half + 32 * j + i] =
                        (uint8_t)((from[64 * half + 32 * (j % 2) + i] >> j / 2 * 4 & 15)
                                  | (from[128 + 32 * half + i] >> 2 * j & 3) << 4);
        memcpy(out->group_scales, from + 192, 16);
        *scale = read_u16(from + 208);
        break;
    case IQ4_XS:
        *scale = read_u16(from);
        for (int i = 0; i < 8; i++) {
            int low = from[4 + i / 2] >> i % 2 * 4 & 15, high = read_u16(from + 2) >> 2 * i & 3;
            out->group_scales[i] = (int8_t)((low | high << 4) - 32);
            read_nibbles(from + 8 + 16 * i, 16, codes + 32 * i);
        }
        break;
    }
}

/* The values of a block that was read. */
static void block_values(const Format f, const RowBlock *block, int64_t columns, float *out)
{
    for (int64_t i = 0; i < columns; i++) {
        int64_t group = i / f.group;
        float scale = f16_to_float(block->scales[f.two_level ? 0 : group]);
        float minimum = 0.0f, code = block->codes[i];
        if (f.has_minimums)
            minimum = f16_to_float(block->minimums[f.two_level ? 0 : group]);
        if (f.zero_points)
            minimum *= -scale;
        if (f.two_level)
            scale *= block->group_scales[group], minimum *= block->group_minimums[group];
        if (f.codebook)
            code = CODEBOOKS[f.codebook][block->codes[i]];
        out[i] = scale * (code - (float)f.zero) + minimum;
    }
}

/* The values of a stored row. */
static void read_stored_row(int64_t type, const uint8_t *row, int64_t columns, float *out)
{
    RowBlock block = {0};
    for (int64_t i = 0; i < columns && !is_quantized(type); i++)
        if (type == F32)
            memcpy(out + i, row + 4 * i, sizeof *out);
        else
            out[i] = type == BF16 ? bf16_to_float(read_u16(row + 2 * i))
                                  : f16_to_float(read_u16(row + 2 * i));
    if (!is_quantized(type))
        return;
    Format f = quantized_format(type);
    int64_t step = stored_block_columns(type);
    for (int64_t i = 0; i < columns; i += step, row += stored_block_bytes(type)) {
        read_stored_block(type, row, 0, &block);
        block_values(f, &block, step, out + i);
    }
}

/* Read the rows `indices` of a stored matrix as floats: (count, columns). */
void read_rows(const uint8_t *data, int64_t type, int64_t row_bytes, int64_t columns,
               const int64_t *indices, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++)
        read_stored_row(type, data + indices[i] * row_bytes, columns, out + i * columns);
}

/* --- quantization ---------------------------------------------------------------------------- */

/* Whether a scale that was rounded to float16 still has its precision. */
static bool is_exact_enough(float scale, uint16_t rounded)
{
    return scale == 0.0f || (scale >= 0x1p-14f && (rounded & 0x7fff) < 0x7c00);
}

static bool quantize_q8_0(const float *row, int part, RowBlock *out)
{
    float max_abs = 0.0f;
    for (int i = 0; i < 32; i++)
        max_abs = fabsf(row[i]) > max_abs ? fabsf(row[i]) : max_abs;
    out->scales[part] = float_to_f16(max_abs / 127.0f);
    float step = f16_to_float(out->scales[part]);
    for (int i = 0; i < 32; i++) {
        float code = step > 0.0f ? rintf(row[i] / step) : 0.0f;
        code = code < -127.0f ? -127.0f : code > 127.0f ? 127.0f : code;
        out->codes[32 * part + i] = (uint8_t)(128 + (int)code);
    }
    return is_exact_enough(max_abs / 127.0f, out->scales[part]);
}

/* Quantize a group with a scale of `span / divisions`; returns the squared error. */
static float quantize_group(const float *row, float span, int divisions, float minimum,
                            uint8_t *codes, uint16_t *scale)
{
    *scale = float_to_f16(span / (float)divisions);
    float step = f16_to_float(*scale), error = 0.0f;
    for (int i = 0; i < 32; i++) {
        float code = step > 0.0f ? rintf((row[i] - minimum) / step) : 0.0f;
        code = code < 0.0f ? 0.0f : code > 15.0f ? 15.0f : code;
        codes[i] = (uint8_t)code;
        error += (row[i] - minimum - step * code) * (row[i] - minimum - step * code);
    }
    return error;
}

/* The scale is a fifteenth of the group's span, except for values that were quantized to 4 bits
   before and use fewer than 16 levels: the scale that reproduces them is searched for. */
static bool quantize_q4_1(const float *row, int part, RowBlock *out)
{
    float minimum = row[0], maximum = row[0];
    for (int i = 1; i < 32; i++) {
        minimum = row[i] < minimum ? row[i] : minimum;
        maximum = row[i] > maximum ? row[i] : maximum;
    }
    uint8_t *codes = out->codes + 32 * part;
    uint16_t *scale = &out->scales[part];
    out->minimums[part] = float_to_f16(minimum);
    bool exact_minimum = is_exact_enough(fabsf(minimum), out->minimums[part] & 0x7fff);
    minimum = f16_to_float(out->minimums[part]);
    float span = maximum - minimum;
    float tolerance = 1e-4f * span * span; /* error that rounding to bfloat16 alone may cause */
    float error = quantize_group(row, span, 15, minimum, codes, scale);
    for (int divisions = 14; divisions >= 8 && error > tolerance; divisions--) {
        uint8_t other_codes[32];
        uint16_t other_scale;
        float other_error = quantize_group(row, span, divisions, minimum, other_codes, &other_scale);
        if (8 * other_error < error)
            error = other_error, *scale = other_scale,
            memcpy(codes, other_codes, sizeof other_codes);
    }
    return is_exact_enough(span / 15.0f, *scale)
           && (exact_minimum || fabsf(minimum) < 0x1p-10f * span);
}

/* --- panels ---------------------------------------------------------------------------------- */

/* Interleave the blocks of 16 rows. */
static void write_block(const Format f, const RowBlock blocks[LANES], uint8_t *out)
{
    int columns = block_columns(f), groups = columns / f.group;
    for (int lane = 0; lane < LANES; lane++) {
        const RowBlock *block = &blocks[lane];
        uint16_t *halves = (uint16_t *)out + lane;
        for (int i = 0; i < (f.two_level ? 1 : groups); i++) {
            halves[i * LANES] = block->scales[i];
            if (f.has_minimums)
                halves[((f.two_level ? 1 : groups) + i) * LANES] = block->minimums[i];
        }
        for (int i = 0; f.two_level && i < groups; i++) {
            uint8_t *bytes = out + 64 + i * group_bytes(f) + lane;
            bytes[0] = (uint8_t)block->group_scales[i];
            if (f.has_minimums)
                bytes[LANES] = (uint8_t)block->group_minimums[i];
        }
    }
    uint8_t *slab = out + codes_offset(f);
    for (int column = 0; column < columns; column += 2 * SLAB, slab += 2 * slab_bytes(f)) {
        i32x16 quads[2 * SLAB_QUADS];
        for (int lane = 0; lane < LANES; lane++)
            quads[lane] = load_i32x16(blocks[lane].codes + column);
        transpose_words(quads);
        pack_slab(f.bits, quads, slab);
        pack_slab(f.bits, quads + SLAB_QUADS, slab + slab_bytes(f));
    }
}

/* One panel of an unquantized format, of rows that are floats, `width` apart. */
static void write_values(int64_t format, const float *rows, int64_t width, uint8_t *out)
{
    for (int64_t lane = 0; lane < LANES; lane++)
        for (int64_t i = 0; i < width; i++) {
            float value = rows[lane * width + i];
            if (format == F32)
                memcpy(out + 4 * (i * LANES + lane), &value, sizeof value);
            else if (format == F16)
                ((uint16_t *)out)[i * LANES + lane] = float_to_f16(value);
            else
                ((uint16_t *)out)[(i / 2 * LANES + lane) * 2 + i % 2] = float_to_bf16(value);
        }
}

/* The same of rows in that format, NULL for those of padding. What follows a row's `columns` is left
   as it is: zeros. */
static void copy_values(int64_t format, const uint8_t *const rows[LANES], int64_t columns,
                        uint8_t *out)
{
    int64_t unit = format == F16 ? 2 : 4; /* bytes that stay together: two columns of BF16 */
    int64_t bytes = columns * (format == F32 ? 4 : 2), done = 0;
    for (; unit == 4 && done + 64 <= bytes; done += 64) {
        i32x16 words[LANES] = {0};
        for (int lane = 0; lane < LANES; lane++)
            if (rows[lane])
                words[lane] = load_i32x16(rows[lane] + done);
        transpose_words(words);
        memcpy(out + LANES * done, words, sizeof words);
    }
    for (int64_t i = done; i < bytes; i += unit)
        for (int lane = 0; lane < LANES; lane++)
            if (rows[lane])
                memcpy(out + LANES * i + unit * lane, rows[lane] + i,
                       (size_t)min_i64(unit, bytes - i));
}

typedef struct {
    const uint8_t *data;
    int64_t type, row_bytes, rows, columns;
    const int64_t *row_order; /* or NULL */
} StoredMatrix;

enum { PACKED, OUT_OF_MEMORY, OUT_OF_RANGE };

/* Pack the panels [first, last) of a matrix; a format other than its type must be Q8_0, Q4_1 or not
   quantized. OUT_OF_RANGE: it has scales that float16 cannot hold. */
int pack_panels(const StoredMatrix *m, int64_t format, int64_t width, int64_t first, int64_t last,
                uint8_t *panels)
{
    bool is_copied = format == m->type, in_range = true;
    Format f = quantized_format(format);
    RowBlock *blocks = calloc(LANES, sizeof *blocks);
    float *rows = is_copied ? NULL : calloc((size_t)(LANES * width), sizeof *rows);
    if (!blocks || !(is_copied || rows))
        return free(blocks), free(rows), OUT_OF_MEMORY;
    for (int64_t panel = first; panel < last; panel++) {
        uint8_t *out = panels + panel * panel_bytes(format, width);
        const uint8_t *sources[LANES];
        for (int64_t lane = 0; lane < LANES; lane++) {
            int64_t row = panel * LANES + lane;
            row = row < m->rows && m->row_order ? m->row_order[row] : row;
            sources[lane] =
                panel * LANES + lane < m->rows ? m->data + row * m->row_bytes : NULL;
            if (rows && sources[lane])
                read_stored_row(m->type, sources[lane], m->columns, rows + lane * width);
            else if (rows)
                memset(rows + lane * width, 0, (size_t)width * sizeof *rows);
        }
        if (!is_quantized(format)) {
            if (is_copied)
                copy_values(format, sources, m->columns, out);
            else
                write_values(format, rows, width, out);
            continue;
        }
        int step = is_copied && f.two_level ? 256 : 32;
        for (int64_t column = 0; column < width; column += block_columns(f)) {
            for (int lane = 0; lane < LANES; lane++) {
                RowBlock *block = &blocks[lane];
                for (int part = 0; part < block_columns(f) / step; part++) {
                    int64_t at = column + part * step;
                    const float *values = rows + lane * width + at;
                    if (!sources[lane] || at >= m->columns) {
                        memset(block->codes + 32 * part, 0, 32);
                        block->scales[part] = block->minimums[part] = 0;
                    } else if (is_copied) {
                        read_stored_block(format,
                                          sources[lane] + at / step * stored_block_bytes(format),
                                          part, block);
                        in_range &= (block->scales[part] & 0x7fff) < 0x7c00
                                    && (block->minimums[part] & 0x7fff) < 0x7c00;
                    } else {
                        in_range &= format == Q8_0 ? quantize_q8_0(values, part, block)
                                                   : quantize_q4_1(values, part, block);
                    }
                }
            }
            write_block(f, blocks, out);
            out += block_bytes(f);
        }
    }
    free(blocks), free(rows);
    return in_range ? PACKED : OUT_OF_RANGE;
}
