/* unpack.c: see unpack.h. Each library has a block of three functions; the Makefile says which libraries there are. */
#include "data/prepare/unpack.h"

#include <stdlib.h>
#include <string.h>

#if MARS_HAS_ZLIB
#include <zlib.h>
#endif
#if MARS_HAS_ZSTD
#include <zstd.h>
#endif
#if MARS_HAS_LZMA
#include <lzma.h>
#endif

/* The limit of an xz file's memory: the file itself says how much it needs, the largest preset 65 MB. */
#define XZ_MEMORY ((uint64_t)256 << 20)

typedef struct Library {
    const char *name; /* of the format */
    bool (*open)(Unpacker *u);
    void (*close)(Unpacker *u);
    /* Does what unpacker_run() says, and sets between_streams. */
    bool (*run)(Unpacker *u, const char **in, const char *in_end, bool is_end, char **out, char *out_end, Error *error);
} Library;

struct Unpacker {
    const Library *library;
    bool between_streams; /* nothing is cut off if the file ends here */
    union {
#if MARS_HAS_ZLIB
        z_stream gz;
#endif
#if MARS_HAS_ZSTD
        ZSTD_DStream *zst;
#endif
#if MARS_HAS_LZMA
        lzma_stream xz;
#endif
        int none;
    };
};

/* ---- gz ---- */

#if MARS_HAS_ZLIB
enum { GZ_WINDOW = 15 + 16 }; /* the largest window, and gzip's header */

static bool gz_open(Unpacker *u) { return inflateInit2(&u->gz, GZ_WINDOW) == Z_OK; }
static void gz_close(Unpacker *u) { inflateEnd(&u->gz); }

static bool gz_run(Unpacker *u, const char **in, const char *in_end, bool is_end, char **out, char *out_end,
                   Error *error) {
    (void)is_end;
    for (;;) {
        if (u->between_streams && *in == in_end) return true;
        if (u->between_streams) inflateReset(&u->gz);
        u->gz.next_in = (Bytef *)*in, u->gz.avail_in = (uInt)(in_end - *in);
        u->gz.next_out = (Bytef *)*out, u->gz.avail_out = (uInt)(out_end - *out);
        int status = inflate(&u->gz, Z_NO_FLUSH);
        *in = (const char *)u->gz.next_in, *out = (char *)u->gz.next_out;
        if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
            return error_set(error, "damaged, or something follows that is not gzip's: %s",
                             u->gz.msg ? u->gz.msg : zError(status));
        u->between_streams = status == Z_STREAM_END;
        if (*out == out_end || (*in == in_end && !u->between_streams)) return true;
    }
}
#endif

/* ---- zst ---- */

#if MARS_HAS_ZSTD
static bool zst_open(Unpacker *u) {
    u->zst = ZSTD_createDStream();
    return u->zst != NULL;
}
static void zst_close(Unpacker *u) { ZSTD_freeDStream(u->zst); }

/* Zstandard keeps output that does not fit, so there may be more to write with nothing left to read. */
static bool zst_run(Unpacker *u, const char **in, const char *in_end, bool is_end, char **out, char *out_end,
                    Error *error) {
    ZSTD_inBuffer input = {*in, (size_t)(in_end - *in), 0};
    ZSTD_outBuffer output = {*out, (size_t)(out_end - *out), 0};
    size_t before;
    do {
        before = input.pos + output.pos;
        size_t status = ZSTD_decompressStream(u->zst, &output, &input);
        if (ZSTD_isError(status))
            return error_set(error, "damaged, or something follows that is not Zstandard's: %s",
                             ZSTD_getErrorName(status));
        if (input.pos + output.pos > before) u->between_streams = status == 0;
    } while (output.pos < output.size && input.pos + output.pos > before && (input.pos < input.size || is_end));
    *in += input.pos, *out += output.pos;
    return true;
}
#endif

/* ---- xz ---- */

#if MARS_HAS_LZMA
static bool xz_open(Unpacker *u) {
    u->xz = (lzma_stream)LZMA_STREAM_INIT;
    return lzma_stream_decoder(&u->xz, XZ_MEMORY, LZMA_CONCATENATED) == LZMA_OK;
}
static void xz_close(Unpacker *u) { lzma_end(&u->xz); }

static const char *xz_reason(lzma_ret status) {
    switch (status) {
    case LZMA_MEMLIMIT_ERROR:
        return "it needs more memory than 256 MB to be unpacked";
    case LZMA_MEM_ERROR:
        return "out of memory";
    default:
        return "damaged, or something follows that is not xz's";
    }
}

static bool xz_run(Unpacker *u, const char **in, const char *in_end, bool is_end, char **out, char *out_end,
                   Error *error) {
    if (u->between_streams) return true; /* the end has been reached */
    u->xz.next_in = (const uint8_t *)*in, u->xz.avail_in = (size_t)(in_end - *in);
    u->xz.next_out = (uint8_t *)*out, u->xz.avail_out = (size_t)(out_end - *out);
    lzma_ret status = LZMA_OK;
    while (status == LZMA_OK && u->xz.avail_out > 0 && (u->xz.avail_in > 0 || is_end))
        status = lzma_code(&u->xz, is_end ? LZMA_FINISH : LZMA_RUN);
    *in = (const char *)u->xz.next_in, *out = (char *)u->xz.next_out;
    u->between_streams = status == LZMA_STREAM_END;
    if (status == LZMA_OK || status == LZMA_STREAM_END || status == LZMA_BUF_ERROR) return true;
    return error_set(error, "%s", xz_reason(status));
}
#endif

/* ---- any format ---- */

static const Library libraries[] = {
    [PACKED_NOT] = {"", NULL, NULL, NULL},
#if MARS_HAS_ZLIB
    [PACKED_GZ] = {"gz", gz_open, gz_close, gz_run},
#else
    [PACKED_GZ] = {"gz (zlib1g-dev)", NULL, NULL, NULL},
#endif
#if MARS_HAS_ZSTD
    [PACKED_ZST] = {"zst", zst_open, zst_close, zst_run},
#else
    [PACKED_ZST] = {"zst (libzstd-dev)", NULL, NULL, NULL},
#endif
#if MARS_HAS_LZMA
    [PACKED_XZ] = {"xz", xz_open, xz_close, xz_run},
#else
    [PACKED_XZ] = {"xz (liblzma-dev)", NULL, NULL, NULL},
#endif
};

/* The magic numbers of RFC 1952, RFC 8878 (and its skippable frames) and of the .xz format. */
Packing packing_of(const void *begin, size_t bytes) {
    const unsigned char *b = begin;
    if (bytes >= 2 && b[0] == 0x1f && b[1] == 0x8b) return PACKED_GZ;
    if (bytes >= 4 && memcmp(b, "\x28\xb5\x2f\xfd", 4) == 0) return PACKED_ZST;
    if (bytes >= 4 && (b[0] & 0xf0) == 0x50 && memcmp(b + 1, "\x2a\x4d\x18", 3) == 0) return PACKED_ZST;
    if (bytes >= 6 && memcmp(b, "\xfd\x37zXZ\0", 6) == 0) return PACKED_XZ;
    return PACKED_NOT;
}

bool unpacker_open(Unpacker **unpacker, Packing packing, Error *error) {
    const Library *library = &libraries[packing];
    if (!library->open)
        return error_set(error, "this build cannot unpack .%s; install the library and run make again", library->name);
    Unpacker *u = checked_calloc(1, sizeof *u, "unpacking");
    u->library = library;
    if (!library->open(u)) die("out of memory: unpacking .%s", library->name);
    *unpacker = u;
    return true;
}

void unpacker_close(Unpacker *unpacker) {
    if (!unpacker) return;
    unpacker->library->close(unpacker);
    free(unpacker);
}

bool unpacker_run(Unpacker *unpacker, const char **in, const char *in_end, bool is_end, char **out, char *out_end,
                  Error *error) {
    if (!unpacker->library->run(unpacker, in, in_end, is_end, out, out_end, error)) return false;
    if (is_end && *in == in_end && *out < out_end && !unpacker->between_streams) return error_set(error, "cut off");
    return true;
}
