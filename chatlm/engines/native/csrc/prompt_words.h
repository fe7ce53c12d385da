/* Products of a quantized matrix with vectors of a prompt as sums of integers.

   Codes become words of 16 bits, without their zero and multiplied with the scale of their group
   where a format has two levels of scales; all that is exact. Floats of 16 bits are rounded to 13 bits
   and a scale per 32 columns: products of these numbers themselves would take as long with vectors
   in bfloat16, whose rounding costs much more, and twice as long without it.

   Where additions are cheaper than products, two products are made with one multiplication (Winograd,
   "A new algorithm for inner product", 1968): w, v times a, b is (a + v)(b + w) - ab - vw, where the
   sums of ab depend on the vector alone, and those of vw on the matrix. Sums of integers modulo 2^32
   are the same in whichever way they are made. Pairs are the first and the third of four columns, and
   the second and the fourth. */

#pragma once

#include "prompt_vectors.h"

#ifdef HAS_WORD_PRODUCTS

typedef uint32_t u32x16 __attribute__((vector_size(4 * LANES)));
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

/* Vectors of 16 factors per 64 columns of a panel: the scales, the minimums, and for each scale the
   sums of the products of paired words, which are integers. */
ALWAYS_INLINE int word_factors(const Format f) { return 2 * word_scales(f) + word_minimums(f); }

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

/* Expand whole units of 64 columns: for each two columns, both words of 16 rows. */
ALWAYS_INLINE void expand_words(const Format f, const uint8_t *panel, int64_t first,
                                int64_t columns, int16_t *out, f32x16 *factors)
{
    const int slab_groups = SLAB / f.group, group_quads = f.group / 4;
    int64_t in_block = first % block_columns(f);
    const uint8_t *block = panel + first / block_columns(f) * block_bytes(f);
    i32x16 pair_products = {0};
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
#ifdef HAS_PAIRED_WORDS
                pair_products = dot_words(pair_products, (i32x16)words[0], (i32x16)words[1]);
#endif
                memcpy(out, words, sizeof words);
                out += 4 * LANES;
            }
        }
        bool is_second = s % 2;
        if (is_second || word_scales(f) == 2) {
            int at = word_factors(f) - (is_second ? 1 : 2);
            memcpy(&factors[at], &pair_products, sizeof pair_products);
            pair_products = (i32x16){0};
        }
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

/* The largest magnitude of a float's word: sums of 32 products with activations do not overflow. */
enum { MAX_FLOAT_WORD = 4095 };

/* The same for BF16 or F16. */
static void expand_floats(int64_t format, const uint8_t *panel, int64_t first, int64_t columns,
                          int16_t *out, f32x16 *factors)
{
    panel += panel_bytes(format, first);
    for (int64_t column = 0; column < columns; column += SLAB) {
        f32x16 values[SLAB];
        i32x16 magnitudes = {0}, pair_products = {0}, words[SLAB / 2];
        for (int i = 0; i < SLAB; i += 2, panel += 4 * LANES) {
            load_two_columns(format, panel, &values[i]);
            magnitudes = larger_magnitudes(magnitudes, values[i]);
            magnitudes = larger_magnitudes(magnitudes, values[i + 1]);
        }
        f32x16 largest = (f32x16)magnitudes, inverse = MAX_FLOAT_WORD / largest;
        inverse = (f32x16)((i32x16)inverse & (largest > 1e-30f));
        for (int i = 0; i < SLAB / 2; i++) {
            i32x16 even = round_to_codes(values[2 * i] * inverse);
            words[i] = (even & 0xffff) | round_to_codes(values[2 * i + 1] * inverse) << 16;
        }
#ifdef HAS_PAIRED_WORDS
        for (int i = 0; i < SLAB / 2; i += 2)
            pair_products = dot_words(pair_products, words[i], words[i + 1]);
#endif
        memcpy(out, words, sizeof words);
        out += SLAB * LANES;
        bool is_second = column % 64;
        factors[is_second] = largest / MAX_FLOAT_WORD;
        memcpy(&factors[2 + is_second], &pair_products, sizeof pair_products);
        factors += is_second ? 4 : 0;
    }
}

/* Two adjacent panels that were expanded, and a block of vectors. */
typedef struct {
    const int16_t *words; /* (2, columns / 2, 16, 2) */
    const f32x16 *factors; /* (2, columns / 64, factors) */
    int64_t columns;
    const int16_t *x; /* tiles */
    const float *x_scales, *x_sums;
    const uint32_t *x_pair_products; /* NULL: words are not paired */
    int64_t scale_stride, sum_stride, pair_stride; /* from one vector to the next */
    float *results; /* (vectors, PAIR_ROWS) */
    bool is_first; /* of the columns; others are added */
} WordProduct;

/* Two words of a vector in all lanes. */
ALWAYS_INLINE i32x16 spread_words(const int16_t *from)
{
    int32_t two;
    memcpy(&two, from, sizeof two);
    return two - (i32x16){0};
}

/* Add the products with TILE_COLUMNS columns, whose words are `first` and `second`. */
ALWAYS_INLINE void add_products(const int16_t *first, const int16_t *second, const int16_t *x,
                                i32x16 dots[WORD_VECTORS][2], const int vectors)
{
    for (int i = 0; i < TILE_COLUMNS; i += 2, first += 2 * LANES, second += 2 * LANES) {
        i32x16 a = load_i32x16(first), b = load_i32x16(second);
        for (int v = 0; v < vectors; v++) {
            i32x16 values = spread_words(x + v * TILE_COLUMNS + i);
            dots[v][0] = dot_words(dots[v][0], a, values);
            dots[v][1] = dot_words(dots[v][1], b, values);
        }
    }
}

/* The same for WORD_VECTORS vectors with those of paired words: (a + v)(b + w). */
ALWAYS_INLINE void add_paired_products(const int16_t *first, const int16_t *second,
                                       const int16_t *x, i32x16 dots[WORD_VECTORS][2])
{
    for (int i = 0; i < TILE_COLUMNS; i += 4, first += 4 * LANES, second += 4 * LANES) {
        i16x32 w0 = (i16x32)load_i32x16(first), v0 = (i16x32)load_i32x16(first + 2 * LANES);
        i16x32 w1 = (i16x32)load_i32x16(second), v1 = (i16x32)load_i32x16(second + 2 * LANES);
        for (int v = 0; v < WORD_VECTORS; v++) {
            i16x32 a = (i16x32)spread_words(x + v * TILE_COLUMNS + i);
            i16x32 b = (i16x32)spread_words(x + v * TILE_COLUMNS + i + 2);
            dots[v][0] = dot_words(dots[v][0], (i32x16)(a + v0), (i32x16)(b + w0));
            dots[v][1] = dot_words(dots[v][1], (i32x16)(a + v1), (i32x16)(b + w1));
        }
    }
}

ALWAYS_INLINE void multiply_words(WordProduct p, const int scales, const int minimums,
                                  const int vectors, const bool is_paired)
{
    f32x16 sums[WORD_VECTORS][2] = {0};
    size_t result_bytes = (size_t)vectors * sizeof *sums;
    const int16_t *first = p.words, *second = p.words + LANES * p.columns, *x = p.x;
    const int factors = 2 * scales + minimums, tiles = 64 / TILE_COLUMNS / scales;
    int64_t second_factors = p.columns / 64 * factors;
    if (!p.is_first)
        memcpy(sums, p.results, result_bytes);
    for (int64_t column = 0; column < p.columns; column += 64) {
        for (int s = 0; s < scales; s++) {
            i32x16 dots[WORD_VECTORS][2] = {0};
            for (int v = 0; is_paired && v < vectors; v++) {
                const uint32_t *products = p.x_pair_products + v * p.pair_stride + s * tiles;
                uint32_t of_vector = tiles == 2 ? products[0] + products[1] : products[0];
                for (int k = 0; k < 2; k++) {
                    u32x16 of_words;
                    memcpy(&of_words, p.factors + k * second_factors + scales + minimums + s,
                           sizeof of_words);
                    dots[v][k] = (i32x16)(0 - of_words - of_vector);
                }
            }
            for (int i = 0; i < tiles; i++, x += TILE_SIZE) {
                if (is_paired)
                    add_paired_products(first, second, x, dots);
                else
                    add_products(first, second, x, dots, vectors);
                first += TILE_COLUMNS * LANES, second += TILE_COLUMNS * LANES;
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
        p.x_scales++, p.x_sums += minimums, p.x_pair_products += is_paired ? 2 : 0;
        p.factors += factors;
    }
    memcpy(p.results, sums, result_bytes);
}

/* The same for up to WORD_VECTORS vectors: fewer, as experts have them, take less time. */
ALWAYS_INLINE void multiply_some_words(WordProduct p, const int scales, const int minimums,
                                       int64_t vectors)
{
    if (vectors == 1)
        multiply_words(p, scales, minimums, 1, false);
    else if (vectors == 2)
        multiply_words(p, scales, minimums, 2, false);
#ifdef __AVX512BW__
    else if (vectors <= 4)
        multiply_words(p, scales, minimums, 4, false);
#endif
#ifdef HAS_PAIRED_WORDS
    else if (p.x_pair_products)
        multiply_words(p, scales, minimums, WORD_VECTORS, true);
#endif
    else
        multiply_words(p, scales, minimums, WORD_VECTORS, false);
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
        if (p.x_pair_products)
            p.x_pair_products += WORD_VECTORS * p.pair_stride;
    }
}

#endif
