/* See resize.c. */
#ifndef RESIZE_H
#define RESIZE_H

#include <stdint.h>

enum { RESIZE_ROWS = 4 }; /* that are taken at a time */

struct resize;

/* From [height][width] pixels to the part of [to_height][to_width] pixels at `left` and `top` that
 * fills out[out_height][out_width][channels], channels being 1 or 3; mirrored if it says so.
 *
 * NULL if there is no memory for it.
 */
struct resize *resize_new(int channels, unsigned width, unsigned height, unsigned to_width,
                          unsigned to_height, unsigned left, unsigned top, unsigned out_width,
                          unsigned out_height, int mirrored, uint8_t *out);

/* Take the next rows, RESIZE_ROWS of them, or those that are left, and write the rows that can be
 * made now. A pixel has one byte if there is one channel and four if there are three.
 */
void resize_take(struct resize *resize, uint8_t *const *rows, unsigned count);

void resize_free(struct resize *resize);

#endif
