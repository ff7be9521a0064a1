/* Huffman decoding (ITU-T T.81, annex F.2.2) with two coefficients for each look into a table.
 *
 * libjpeg finds a code, then the bits of its value, and asks for bytes in between; every step
 * waits for the one before. Here a table is looked up with the next LOOK bits and answers with
 * the values and zero runs of up to two whole coefficients; the scan is freed of its stuffing
 * first, so that eight bytes are read at once. Columns that nobody wants are only counted through.
 */
#include "huffman.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <jerror.h>

/* libjpeg's own, from a header that few systems install: the first two members of all versions. */
struct jpeg_entropy_decoder {
    void (*start_pass)(j_decompress_ptr info);
    boolean (*decode_mcu)(j_decompress_ptr info, JBLOCKROW *blocks);
};

enum {
    LOOK = 11,                     /* bits of a look; two tables of 16 KiB fit the first cache */
    CODE = 9,                      /* bits in which nearly every code is known */
    LONGEST = 16,                  /* bits of a code */
    END = DCTSIZE2,                /* advance of an end of block: beyond any place */
    BEYOND = DCTSIZE2 + END,       /* places that an end of block can reach */
    MARGIN = 4096                  /* zeros after the scan: more than an MCU can read */
};

_Static_assert(D_MAX_BLOCKS_IN_MCU * DCTSIZE2 * (LONGEST + 15) / 8 + 8 < MARGIN, "an MCU's bits");

/* Up to two coefficients: each goes `advance` places on and puts `value` there. Where there is no
 * second, the first is put again.
 */
struct pair {
    int16_t value[2];
    uint8_t advance[2];
    uint8_t bits, first_bits; /* of both, of the first; 0 if even that needs more than LOOK */
};

struct table {
    JHUFF_TBL made_of;
    int made;                    /* else made_of means nothing, not a table without codes */
    uint16_t code[1 << CODE];    /* length * 256 + symbol; 0 if longer than CODE */
    int32_t last[LONGEST + 1];   /* largest code of each length; -1 if there is none */
    int32_t offset[LONGEST + 1]; /* from a code of that length to its symbol's place */
    struct pair pair[1 << LOOK];
};

/* Where zigzag places are in a block. Ends of blocks and damaged scans reach beyond the last. */
static const uint8_t natural[BEYOND] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    [DCTSIZE2 ... BEYOND - 1] = 63};

/* Bits of the scan that are read already, the next one highest. */
struct bits {
    uint64_t next;
    int count;
    const uint8_t *from;
};

struct scan {
    struct bits bits;
    const uint8_t *end;          /* of the scan without its stuffing */
    const JOCTET *behind;        /* the marker after it, in the file */
    JDIMENSION column, columns, first, last;
    int blocks;                  /* of an MCU */
    uint8_t component[D_MAX_BLOCKS_IN_MCU];
    unsigned predicted[MAX_COMPS_IN_SCAN]; /* the DC value before; may wrap in damaged files */
    const struct table *dc[MAX_COMPS_IN_SCAN], *ac[MAX_COMPS_IN_SCAN];
};

/* Have 56 bits or more. */
static inline void refill(struct bits *bits) {
    uint64_t bytes;
    memcpy(&bytes, bits->from, sizeof bytes);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    bytes = __builtin_bswap64(bytes);
#endif
    bits->next |= bytes >> bits->count;
    bits->from += (63 - bits->count) >> 3;
    bits->count |= 56;
}

/* Up to where bits are used up. */
static inline const uint8_t *position(const struct bits *bits) {
    return bits->from - bits->count / 8;
}

static inline void drop(struct bits *bits, int count) {
    bits->next <<= count;
    bits->count -= count;
}

/* What `size` bits mean (T.81, F.2.2.1, EXTEND). */
static inline int extend(int raw, int size) {
    return size && raw < 1 << (size - 1) ? raw - (1 << size) + 1 : raw;
}

/* The next code's length * 256 + symbol; 0 if there is none. */
static inline int code(const struct table *table, uint64_t next) {
    int found = table->code[next >> (64 - CODE)];
    for (int length = CODE + 1; !found && length <= LONGEST; length++) {
        int32_t value = next >> (64 - length);
        if (value <= table->last[length])
            found = length << 8 | table->made_of.huffval[(value + table->offset[length]) & 0xFF];
    }
    return found;
}

/* Read a code and the value that follows it. Returns the code's symbol, or -1. */
static inline int symbol(const struct table *table, struct bits *bits, int *value) {
    int found = code(table, bits->next);
    *value = 0;
    if (!found) return -1;
    int size = found & 15;
    drop(bits, found >> 8);
    *value = size ? extend(bits->next >> (64 - size), size) : 0;
    drop(bits, size);
    return found & 0xFF;
}

static inline int advance_of(int symbol) {
    if (symbol & 15) return (symbol >> 4) + 1;
    return symbol == 0xF0 ? 16 : END;
}

/* Put an AC coefficient that stands at the top of `next` into place `at` of a pair. */
static int look(const struct table *table, uint64_t next, int room, struct pair *pair, int at) {
    int found = code(table, next), size = found & 15, bits = (found >> 8) + size;
    if (!found || bits > room) return 0;
    next <<= found >> 8;
    pair->value[at] = size ? extend(next >> (64 - size), size) : 0;
    pair->advance[at] = advance_of(found & 0xFF);
    return bits;
}

static void make(struct table *table, const JHUFF_TBL *from, int is_ac) {
    memset(table, 0, sizeof *table);
    table->made_of = *from;
    table->made = 1;
    int32_t next = 0, place = 0;
    for (int length = 1; length <= LONGEST; length++) {
        table->offset[length] = place - next;
        for (int i = 0; i < from->bits[length]; i++, next++, place++)
            if (length <= CODE)
                for (int rest = 0; rest < 1 << (CODE - length); rest++)
                    table->code[(next << (CODE - length) | rest) & ((1 << CODE) - 1)] =
                        length << 8 | from->huffval[place & 0xFF];
        table->last[length] = from->bits[length] ? next - 1 : -1;
        next <<= 1;
    }
    for (int index = 0; is_ac && index < 1 << LOOK; index++) {
        uint64_t bits = (uint64_t)index << (64 - LOOK);
        struct pair *pair = &table->pair[index];
        pair->bits = pair->first_bits = look(table, bits, LOOK, pair, 0);
        pair->value[1] = pair->value[0];
        if (pair->bits && pair->advance[0] != END)
            pair->bits += look(table, bits << pair->bits, LOOK - pair->bits, pair, 1);
    }
}

/* The table of a file's Huffman table. Nearly all files have the standard's: they are kept. */
static const struct table *table_of(const JHUFF_TBL *from, int is_ac, int number) {
    static _Thread_local struct table kept[2][NUM_HUFF_TBLS];
    struct table *table = &kept[is_ac][number];
    if (!table->made || memcmp(table->made_of.bits, from->bits, sizeof from->bits) ||
        memcmp(table->made_of.huffval, from->huffval, sizeof from->huffval))
        make(table, from, is_ac);
    return table;
}

/* AC coefficients into block, or nowhere if it is NULL. Returns 0 if there is an unknown code. */
static inline __attribute__((always_inline)) /* with and without block, without asking */
int read_block(const struct table *table, struct bits *outer, int16_t *block) {
    struct bits bits = *outer;
    int place = 0;
    for (;;) {
        refill(&bits);
        for (int looks = 0; looks < 56 / LOOK; looks++) {
            struct pair pair = table->pair[bits.next >> (64 - LOOK)];
            if (!pair.bits) goto longer;
            place += pair.advance[0];
            if (block) block[natural[place]] = pair.value[0];
            if (place >= DCTSIZE2 - 1) {
                drop(&bits, pair.first_bits);
                goto done;
            }
            place += pair.advance[1];
            if (block) block[natural[place]] = pair.value[1];
            drop(&bits, pair.bits);
            if (place >= DCTSIZE2 - 1) goto done;
        }
        continue;
    longer:
        refill(&bits);
        int value, found = symbol(table, &bits, &value);
        if (found < 0) return 0;
        place += advance_of(found);
        if (block) block[natural[place]] = value;
        if (place >= DCTSIZE2 - 1) goto done;
    }
done:
    *outer = bits;
    return 1;
}

static boolean decode_mcu(j_decompress_ptr info, JBLOCKROW *blocks) {
    struct scan *scan = info->client_data;
    int wanted = blocks && scan->column >= scan->first && scan->column <= scan->last;
    if (++scan->column == scan->columns) scan->column = 0;
    for (int number = 0; number < scan->blocks; number++) {
        int component = scan->component[number], difference;
        refill(&scan->bits);
        if (symbol(scan->dc[component], &scan->bits, &difference) < 0)
            ERREXIT(info, JERR_BAD_HUFF_TABLE);
        scan->predicted[component] += difference;
        int known;
        if (wanted) {
            (*blocks[number])[0] = (JCOEF)scan->predicted[component];
            known = read_block(scan->ac[component], &scan->bits, *blocks[number]);
        } else {
            known = read_block(scan->ac[component], &scan->bits, NULL);
        }
        if (!known) ERREXIT(info, JERR_BAD_HUFF_TABLE);
    }
    if (position(&scan->bits) > scan->end) ERREXIT(info, JERR_INPUT_EOF);
    return TRUE;
}

/* Whether one of eight bytes is 0xFF. */
static inline int has_ff(uint64_t bytes) {
    return ((~bytes - 0x0101010101010101) & bytes & 0x8080808080808080) != 0;
}

/* Copy a scan without the zeros that are stuffed behind each 0xFF, up to the next marker. */
static void unstuff(struct scan *scan, const JOCTET *from, const JOCTET *end, uint8_t *to) {
    scan->bits.from = to;
    for (;;) {
        uint64_t bytes[2];
        while (end - from >= (ptrdiff_t)sizeof bytes) {
            memcpy(bytes, from, sizeof bytes);
            if (has_ff(bytes[0]) | has_ff(bytes[1])) break;
            memcpy(to, bytes, sizeof bytes);
            from += sizeof bytes;
            to += sizeof bytes;
        }
        while (from < end && *from != 0xFF) *to++ = *from++;
        if (end - from < 2 || from[1] != 0) break;
        *to++ = 0xFF;
        from += 2;
    }
    scan->end = to;
    scan->behind = from;
    memset(to, 0, MARGIN);
}

const JOCTET *huffman_take_over(j_decompress_ptr info, JDIMENSION first, JDIMENSION last) {
    const JOCTET *from = info->src->next_input_byte;
    info->client_data = NULL;
    if (info->progressive_mode || info->arith_code || info->restart_interval ||
        info->data_precision != 8 || jpeg_has_multiple_scans(info))
        return from;
    /* Lossless files, which libjpeg-turbo 3 reads: predictors, and no AC table. */
    if (info->Ss != 0 || info->Se != DCTSIZE2 - 1) return from;
    if (info->comps_in_scan == 1 && info->cur_comp_info[0]->h_samp_factor != 1) return from;
    struct scan *scan = info->mem->alloc_small((j_common_ptr)info, JPOOL_IMAGE, sizeof *scan);
    memset(scan, 0, sizeof *scan);
    for (int i = 0; i < info->comps_in_scan; i++) {
        const jpeg_component_info *component = info->cur_comp_info[i];
        const JHUFF_TBL *dc = info->dc_huff_tbl_ptrs[component->dc_tbl_no];
        const JHUFF_TBL *ac = info->ac_huff_tbl_ptrs[component->ac_tbl_no];
        scan->dc[i] = table_of(dc, 0, component->dc_tbl_no);
        scan->ac[i] = table_of(ac, 1, component->ac_tbl_no);
    }
    scan->blocks = info->blocks_in_MCU;
    for (int i = 0; i < scan->blocks; i++) scan->component[i] = info->MCU_membership[i];
    scan->columns = info->MCUs_per_row;
    scan->first = first;
    scan->last = last;
    size_t size = info->src->bytes_in_buffer;
    uint8_t *room = info->mem->alloc_large((j_common_ptr)info, JPOOL_IMAGE, size + MARGIN);
    unstuff(scan, from, from + size, room);
    info->client_data = scan;
    info->entropy->decode_mcu = decode_mcu;
    return scan->behind;
}

void huffman_give_back(j_decompress_ptr info) {
    struct scan *scan = info->client_data;
    if (scan == NULL) return;
    if (position(&scan->bits) < scan->end) ERREXIT(info, JERR_INPUT_EOF);
    info->src->bytes_in_buffer -= scan->behind - info->src->next_input_byte;
    info->src->next_input_byte = scan->behind;
}
