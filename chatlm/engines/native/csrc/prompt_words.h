/* Products of a quantized matrix with vectors of a prompt as sums of integers.

   Codes become words of 16 bits, without their zero and multiplied with the scale of their group
   where a format has two levels of scales; all that is exact. */

#pragma once

#include "prompt_vectors.h"

#ifdef HAS_WORD_PRODUCTS

typedef int16_t i16x32 __attribute__((vector_size(4 * LANES)));

#ifdef __AVX512BW__
enum { WORD_VECTORS = 8 }; /* vectors at once, whose sums fill the registers */
#else
enum { WORD_VECTORS = 2 };
#endif

/* Scales per 64 columns. A sum of the products of 64 columns would overflow where words have more
   than 11 bits. */
ALWAYS_INLINE int word_scales(const Format f)
{
    return f.two_level && f.bits < 6 && !f.codebook ? 1 : 2;
}

ALWAYS_INLINE int word_minimums(const Format f) { return f.has_minimums ? 64 / f.group : 0; }

/* Vectors of 16 factors per 64 columns of a panel: the scales, then the minimums. */
ALWAYS_INLINE int word_factors(const Format f) { return word_scales(f) + word_minimums(f); }

/* Expand whole units of 64 columns: for each two columns, both words of 16 rows. */
ALWAYS_INLINE void expand_words(const Format f, const uint8_t *panel, int64_t first,
                                int64_t columns, int16_t *out, f32x16 *factors)
{
    const int slab_groups = SLAB / f.group, group_quads = f.group / 4;
    int64_t in_block = first % block_columns(f);
    const uint8_t *block = panel + first / block_columns(f) * block_bytes(f);
    for (int64_t column = 0; column < columns; column += SLAB) {
        int s = (int)(in_block / SLAB);
        i32x16 quads[SLAB_QUADS];
        unpack_slab(f, block + codes_offset(f) + s * slab_bytes(f), quads);
        for (int g = 0; g < slab_groups; g++) {
            i16x32 scale = {0};
            if (f.two_level) {
                i32x16 wide = load_i8_as_i32(block + 64 + (s * slab_groups + g) * group_bytes(f));
                scale = (i16x32)((wide & 0xffff) | wide << 16);
            }
            for (int q = g * group_quads; q < (g + 1) * group_quads; q++) {
                i16x32 words[2] = {
                    (i16x32)((quads[q] & 0xff) | (quads[q] & 0xff00) << 8),
                    (i16x32)((quads[q] >> 16 & 0xff) | (quads[q] >> 8 & 0xff0000)),
                };
                for (int k = 0; k < 2; k++) {
                    words[k] -= (int16_t)f.zero;
                    if (f.two_level)
                        words[k] *= scale;
                }
                memcpy(out, words, sizeof words);
                out += 4 * LANES;
            }
        }
        bool is_second = s % 2;
        if (!is_second || word_scales(f) == 2)
            factors[is_second] = f.two_level ? block_scale(block) : group_scale(f, block, s);
        for (int g = 0; f.has_minimums && g < slab_groups; g++) {
            f32x16 minimum = group_minimum(f, block, s * slab_groups + g);
            if (f.two_level)
                minimum *= block_minimum(block);
            factors[word_scales(f) + is_second * slab_groups + g] = minimum;
        }
        if (is_second)
            factors += word_factors(f);
        in_block += SLAB;
        if (in_block == block_columns(f))
            in_block = 0, block += block_bytes(f);
    }
}

/* sum + dot product, in each lane, of its two words with two values. */
ALWAYS_INLINE i32x16 dot_words(i32x16 sum, i32x16 words, i32x16 values)
{
#if defined __AVX512VNNI__
    /* GCC 12 copies registers around the intrinsic */
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(words), "v"(values));
    return sum;
#elif defined __AVX512BW__
    return sum + (i32x16)_mm512_madd_epi16((__m512i)words, (__m512i)values);
#else
    union {
        i32x16 whole;
        __m256i part[2];
    } w = {.whole = words}, x = {.whole = values}, products;
    for (int i = 0; i < 2; i++)
        products.part[i] = _mm256_madd_epi16(w.part[i], x.part[i]);
    return sum + products.whole;
#endif
}

/* Two adjacent panels that were expanded, and a block of vectors. */
typedef struct {
    const int16_t *words; /* (2, columns / 2, 16, 2) */
    const f32x16 *factors; /* (2, columns / 64, factors) */
    int64_t columns;
    const int16_t *x; /* tiles */
    const float *x_scales, *x_sums;
    int64_t scale_stride, sum_stride; /* from one vector to the next */
    float *results; /* (vectors, PAIR_ROWS) */
    bool is_first; /* of the columns; others are added */
} WordProduct;

ALWAYS_INLINE void multiply_words(WordProduct p, const int scales, const int minimums,
                                  const int vectors)
{
    f32x16 sums[WORD_VECTORS][2] = {0};
    size_t result_bytes = (size_t)vectors * sizeof *sums;
    const int16_t *first = p.words, *second = p.words + LANES * p.columns;
    int64_t second_factors = p.columns / 64 * (scales + minimums);
    if (!p.is_first)
        memcpy(sums, p.results, result_bytes);
    for (int64_t column = 0; column < p.columns; column += 64) {
        for (int s = 0; s < scales; s++) {
            i32x16 dots[WORD_VECTORS][2] = {0};
            for (int i = s * 64 / scales; i < (s + 1) * 64 / scales; i += 2) {
                i32x16 a = load_i32x16(first), b = load_i32x16(second);
                first += 2 * LANES, second += 2 * LANES;
                for (int v = 0; v < vectors; v++) {
                    int32_t two;
                    memcpy(&two, p.x + i / 32 * TILE_SIZE + v * TILE_COLUMNS + i % 32, sizeof two);
                    i32x16 values = two - (i32x16){0};
                    dots[v][0] = dot_words(dots[v][0], a, values);
                    dots[v][1] = dot_words(dots[v][1], b, values);
                }
            }
            for (int v = 0; v < vectors; v++) {
                float scale = p.x_scales[v * p.scale_stride];
                sums[v][0] +=
                    __builtin_convertvector(dots[v][0], f32x16) * scale * p.factors[s];
                sums[v][1] += __builtin_convertvector(dots[v][1], f32x16) * scale
                              * p.factors[second_factors + s];
            }
        }
        for (int m = 0; m < minimums; m++)
            for (int v = 0; v < vectors; v++) {
                float sum = p.x_sums[v * p.sum_stride + m];
                sums[v][0] += p.factors[scales + m] * sum;
                sums[v][1] += p.factors[second_factors + scales + m] * sum;
            }
        p.x += 2 * TILE_SIZE, p.x_scales++, p.x_sums += minimums;
        p.factors += scales + minimums;
    }
    memcpy(p.results, sums, result_bytes);
}

/* The same for up to WORD_VECTORS vectors: fewer, as experts have them, take less time. */
ALWAYS_INLINE void multiply_some_words(WordProduct p, const int scales, const int minimums,
                                       int64_t vectors)
{
    if (vectors == 1)
        multiply_words(p, scales, minimums, 1);
    else if (vectors == 2)
        multiply_words(p, scales, minimums, 2);
#ifdef __AVX512BW__
    else if (vectors <= 4)
        multiply_words(p, scales, minimums, 4);
#endif
    else
        multiply_words(p, scales, minimums, WORD_VECTORS);
}

/* The same for `vectors` vectors from one whose index is a multiple of VECTOR_BLOCK. */
static void multiply_words_block(Format f, WordProduct p, int64_t x_stride, int64_t vectors)
{
    const int16_t *x = p.x;
    for (int64_t v = 0; v < vectors; v += WORD_VECTORS) {
        int64_t left = vectors - v;
        p.x = x + v / TILE_VECTORS * x_stride + v % TILE_VECTORS * TILE_COLUMNS;
        if (word_scales(f) == 1 && word_minimums(f) == 2)
            multiply_some_words(p, 1, 2, left);
        else if (word_scales(f) == 1 && word_minimums(f) == 4)
            multiply_some_words(p, 1, 4, left);
        else if (word_scales(f) == 1)
            multiply_some_words(p, 1, 0, left);
        else if (word_minimums(f))
            multiply_some_words(p, 2, 2, left);
        else
            multiply_some_words(p, 2, 0, left);
        p.results += WORD_VECTORS * 2 * LANES;
        p.x_scales += WORD_VECTORS * p.scale_stride, p.x_sums += WORD_VECTORS * p.sum_stride;
    }
}

#endif
