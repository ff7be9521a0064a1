/* Mutated JPEGs through region.c, huffman.c and resize.c, against plain libjpeg-turbo.
 *
 *     fuzz SECONDS SEED FILE...
 *
 * Build with -fsanitize=address,undefined: reads and writes beyond a buffer end the program. So does
 * each broken promise:
 *   1. What decode_region accepts has the pixels of libjpeg's own Huffman decoder.
 *   2. decode_region accepts every file that was not changed.
 *   3. decode_view refuses what decode_region refuses, and nothing else; where nothing is resized,
 *      it has the same pixels. (test_view.py compares resized ones with torch.)
 * Of changed files it may refuse some that libjpeg reads without a warning: libjpeg-turbo's fast path
 * takes a code that no table has for a zero.
 *
 * Prints how many files were tried, how many of them were changed, and how many of these were read.
 */
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jpeglib.h>

int decode_region(const uint8_t *data, size_t size, int channels, unsigned left, unsigned top,
                  unsigned width, unsigned height, uint8_t *out);

int decode_view(const uint8_t *data, size_t size, int channels, unsigned left, unsigned top,
                unsigned width, unsigned height, unsigned to_width, unsigned to_height, unsigned x,
                unsigned y, unsigned out_width, unsigned out_height, int mirrored, uint8_t *out);

enum { MOST_SIDE = 300, MOST_FILES = 256, MOST_BYTES = 1 << 16, MOST_PIXELS = 1 << 18 };

static uint64_t state;

static uint64_t bits(void) { /* SplitMix64 */
    uint64_t z = state += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

static size_t below(size_t n) { return n ? bits() % n : 0; }

struct errors {
    struct jpeg_error_mgr manager; /* first, because libjpeg knows only this */
    jmp_buf leave;
};

static void on_error(j_common_ptr info) { longjmp(((struct errors *)info->err)->leave, 1); }

static void on_message(j_common_ptr info, int level) {
    (void)info, (void)level;
}

/* The image that plain libjpeg-turbo makes, read by whole rows, warnings or not. */
struct plain {
    unsigned width, height;
    unsigned rows;   /* that were read before an error */
    uint8_t *pixels; /* [height][width][channels] */
};

/* Returns 0 if there is no header, or the image is too large for this program. */
static int read_plain(const uint8_t *data, size_t size, int channels, struct plain *plain) {
    struct jpeg_decompress_struct info;
    struct errors errors;
    memset(plain, 0, sizeof *plain);
    info.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = on_error;
    errors.manager.emit_message = on_message;
    if (setjmp(errors.leave)) {
        jpeg_destroy_decompress(&info);
        return plain->pixels != NULL;
    }
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, (unsigned char *)data, size);
    jpeg_read_header(&info, TRUE);
    if ((uint64_t)info.image_width * info.image_height > MOST_PIXELS) longjmp(errors.leave, 1);
    info.out_color_space = channels == 3 ? JCS_RGB : JCS_GRAYSCALE;
    plain->width = info.image_width;
    plain->height = info.image_height;
    plain->pixels = calloc((size_t)plain->width * plain->height, channels);
    jpeg_start_decompress(&info);
    while (info.output_scanline < info.output_height) {
        JSAMPROW row = plain->pixels + (size_t)info.output_scanline * plain->width * channels;
        plain->rows += jpeg_read_scanlines(&info, &row, 1);
    }
    jpeg_finish_decompress(&info);
    jpeg_destroy_decompress(&info);
    return 1;
}

/* Where the scan begins, so that most mutations hit it; 0 if there is none. */
static size_t scan_of(const uint8_t *data, size_t size) {
    for (size_t at = 0; at + 4 < size; at++)
        if (data[at] == 0xFF && data[at + 1] == 0xDA) return at + 2 + (data[at + 2] << 8 | data[at + 3]);
    return 0;
}

/* Change `data` of `size` bytes, which has room for MOST_BYTES, and return the new size. */
static size_t mutate(uint8_t *data, size_t size, const uint8_t *other, size_t other_size) {
    static const uint8_t telling[] = {0, 1, 0x7F, 0x80, 0xFE, 0xFF, 0xD0, 0xD9, 0xDA, 0xC4};
    size_t scan = scan_of(data, size);
    for (size_t count = below(5); count > 0 && size > 4; count--) {
        size_t first = scan && scan < size && below(4) ? scan : 0;
        size_t at = first + below(size - first), length = 1 + below(16);
        switch (below(7)) {
        case 0: data[at] ^= 1 << below(8); break;
        case 1: data[at] = telling[below(sizeof telling)]; break;
        case 2: data[at] = bits(); break;
        case 3: /* cut out */
            if (length > size - at) length = size - at;
            memmove(data + at, data + at + length, size - at - length);
            size -= length;
            break;
        case 4: /* put in */
            if (size + length > MOST_BYTES) break;
            memmove(data + at + length, data + at, size - at);
            for (size_t i = 0; i < length; i++) data[at + i] = below(2) ? 0xFF : bits();
            size += length;
            break;
        case 5: /* a piece of another file */
            length = below(64);
            if (length > size - at) length = size - at;
            if (length > other_size) length = other_size;
            memcpy(data + at, other + below(other_size - length + 1), length);
            break;
        default: size = at; /* cut off */
        }
    }
    return size;
}

static void fail(const char *promise, const uint8_t *data, size_t size, int channels,
                 const unsigned region[4]) {
    FILE *file = fopen("failing.jpg", "wb");
    if (file) fwrite(data, 1, size, file), fclose(file);
    fprintf(stderr, "%s: failing.jpg, %d channels, left %u top %u width %u height %u\n", promise,
            channels, region[0], region[1], region[2], region[3]);
    _Exit(1); /* without a report of what is not freed */
}

/* Look at a region in a random way. Returns whether a promise is broken. */
static int breaks_view(const uint8_t *data, size_t size, int channels, const unsigned region[4],
                       int refused, const uint8_t *pixels) {
    int same = below(2), mirrored = below(2);
    unsigned width = same ? region[2] : 1 + below(MOST_SIDE);
    unsigned height = same ? region[3] : 1 + below(MOST_SIDE);
    unsigned x = below(width), out_width = 1 + below(width - x);
    unsigned y = below(height), out_height = 1 + below(height - y);
    uint8_t *out = malloc((size_t)out_width * out_height * channels);
    int broken = refused != decode_view(data, size, channels, region[0], region[1], region[2],
                                        region[3], width, height, x, y, out_width, out_height,
                                        mirrored, out);
    for (size_t i = 0; !broken && !refused && same && i < (size_t)out_width * out_height; i++) {
        size_t column = i % out_width, row = i / out_width;
        size_t from = x + (mirrored ? out_width - 1 - column : column);
        broken = memcmp(out + i * channels, pixels + ((y + row) * width + from) * channels,
                        channels);
    }
    free(out);
    return broken;
}

int main(int count, char **arguments) {
    static uint8_t *files[MOST_FILES];
    static size_t sizes[MOST_FILES];
    int num_files = 0;
    if (count < 4) return 2;
    double seconds = atof(arguments[1]);
    state = strtoull(arguments[2], NULL, 10);
    for (int i = 3; i < count && num_files < MOST_FILES; i++) {
        FILE *file = fopen(arguments[i], "rb");
        if (!file) return 2;
        files[num_files] = malloc(MOST_BYTES);
        sizes[num_files] = fread(files[num_files], 1, MOST_BYTES, file);
        fclose(file);
        num_files++;
    }
    long tried = 0, changed = 0, accepted = 0;
    for (time_t end = time(NULL) + (time_t)seconds; time(NULL) <= end;) {
        int chosen = below(num_files), other = below(num_files), channels = below(3) ? 3 : 1;
        uint8_t *work = malloc(MOST_BYTES);
        memcpy(work, files[chosen], sizes[chosen]);
        size_t size = mutate(work, sizes[chosen], files[other], sizes[other]);
        uint8_t *data = malloc(size); /* of its own size, so that a read beyond it is found */
        memcpy(data, work, size);
        free(work);
        struct plain plain;
        if (read_plain(data, size, channels, &plain) && plain.width && plain.height) {
            int whole = !below(3);
            unsigned left = whole ? 0 : below(plain.width), top = whole ? 0 : below(plain.height);
            unsigned width = whole ? plain.width : 1 + below(plain.width - left);
            unsigned height = whole ? plain.height : 1 + below(plain.height - top);
            uint8_t *out = malloc((size_t)width * height * channels);
            int refused = decode_region(data, size, channels, left, top, width, height, out);
            int same = size == sizes[chosen] && !memcmp(data, files[chosen], size);
            tried++;
            changed += !same;
            accepted += !same && !refused;
            unsigned region[] = {left, top, width, height};
            if (same && refused) fail("a good file is refused", data, size, channels, region);
            for (unsigned y = 0; !refused && y < height; y++) {
                const uint8_t *row =
                    plain.pixels + ((size_t)(top + y) * plain.width + left) * channels;
                if (top + y >= plain.rows ||
                    memcmp(out + (size_t)y * width * channels, row, (size_t)width * channels))
                    fail("other pixels", data, size, channels, region);
            }
            if (breaks_view(data, size, channels, region, refused, out))
                fail("another view", data, size, channels, region);
            free(out);
        }
        free(plain.pixels);
        free(data);
    }
    for (int i = 0; i < num_files; i++) free(files[i]);
    printf("%ld %ld %ld\n", tried, changed, accepted);
    return 0;
}
