/* foreign.c: recognition of files that hold neither tokens nor text (see foreign.h).
 *
 * The table at the end has one row for each format: its signature, a further test if the signature is short or absent,
 * and what to do for each use. The tests come first.
 *
 * A row must not match tokens by accident: in a file of uint16 tokens the first 4 bytes are two arbitrary tokens. A
 * signature of 5 bytes or more never occurs by accident. Rows with a shorter one also test fields of the format, unless
 * the signature, read as two tokens, has a number that GPT-2 lacks. */
#include "data/foreign.h"

#include <string.h>

#include "util/utf8.h"

typedef struct Sample {
    const unsigned char *bytes;
    size_t count;
    int64_t file_bytes; /* -1: unknown */
} Sample;

/* ---- reading numbers ---- */

/* The little-endian number of `width` bytes at `at`; all ones if the sample ends before. */
static uint64_t number_at(const Sample *s, size_t at, size_t width) {
    uint64_t value = 0;
    if (s->count < width || at > s->count - width) return UINT64_MAX;
    for (size_t i = width; i-- > 0;) value = value << 8 | s->bytes[at + i];
    return value;
}

static bool has_at(const Sample *s, size_t at, const char *bytes, size_t count) {
    return s->count >= count && at <= s->count - count && memcmp(s->bytes + at, bytes, count) == 0;
}

/* Whether a number of bytes that the file mentions can be a part of it. */
static bool fits(const Sample *s, uint64_t bytes) {
    return bytes <= INT64_MAX && (s->file_bytes < 0 || bytes <= (uint64_t)s->file_bytes);
}

/* ---- formats whose signature is not enough ---- */

/* RFC 1952: deflate, no reserved flags, valid compression level and operating system. */
static bool is_gzip(const Sample *s) {
    uint64_t flags = number_at(s, 3, 1), speed = number_at(s, 8, 1), system = number_at(s, 9, 1);
    return flags < 0x20 && (speed == 0 || speed == 2 || speed == 4) && (system <= 13 || system == 255);
}

/* After the level follow the digits of pi (BCD), which begin a block, or those of its square root in an empty
 * stream. */
static bool is_bzip2(const Sample *s) {
    uint64_t level = number_at(s, 3, 1);
    return level >= '1' && level <= '9' && (has_at(s, 4, "1AY&SY", 6) || has_at(s, 4, "\x17\x72\x45\x38\x50\x90", 6));
}

/* The old format of lzma has no signature: a dictionary of 2^n or 3*2^n bytes, and the unpacked size, or "unknown". */
static bool is_lzma(const Sample *s) {
    uint64_t dictionary = number_at(s, 1, 4), size = number_at(s, 5, 8);
    while (dictionary > 3 && dictionary % 2 == 0) dictionary /= 2;
    return s->count >= 13 && (dictionary == 2 || dictionary == 3) && (size == UINT64_MAX || size >> 40 == 0);
}

/* The flags: the longest code has 9 to 16 bits, and a bit says whether the table of codes may be cleared. */
static bool is_compress(const Sample *s) {
    uint64_t flags = number_at(s, 2, 1), bits = flags & 0x1f;
    return (flags & 0x60) == 0 && bits >= 9 && bits <= 16;
}

/* Where the name of the first member of a zip archive ends; 0 if this is no archive. */
static size_t zip_name_end(const Sample *s) {
    enum { NAME = 30, LONGEST_NAME = 1024 };
    uint64_t version = number_at(s, 4, 1), method = number_at(s, 8, 2), length = number_at(s, 26, 2);
    if (version > 63 || method > 99 || length < 1 || length > LONGEST_NAME || NAME + length > s->count) return 0;
    return NAME + (size_t)length;
}

static bool is_zip(const Sample *s) { return zip_name_end(s) > 0; }

static bool zip_name_ends_with(const Sample *s, const char *ending) {
    size_t end = zip_name_end(s), length = strlen(ending);
    return end > length && has_at(s, end - length, ending, length);
}

/* Office documents are zip archives whose first member has one of these names. */
static bool is_office_zip(const Sample *s) {
    return zip_name_ends_with(s, "[Content_Types].xml") || zip_name_ends_with(s, "_rels/.rels");
}

/* EPUB and OpenDocument: the first member, "mimetype", is not packed and says what the archive is. */
static bool is_document_zip(const Sample *s) {
    size_t end = zip_name_end(s);
    return zip_name_ends_with(s, "mimetype") &&
           (has_at(s, end, "application/epub+zip", 20) || has_at(s, end, "application/vnd.oasis.opendocument.", 35));
}

static bool is_npz(const Sample *s) { return zip_name_ends_with(s, ".npy"); }

/* torch.save: a folder's data.pkl comes first. */
static bool is_torch_zip(const Sample *s) { return zip_name_ends_with(s, "/data.pkl"); }

/* The first page's header is a Thrift struct, whose first field is an int32. */
static bool is_parquet(const Sample *s) { return number_at(s, 4, 1) == 0x15; }

/* Arrow's stream format: the length of the schema, padded to 8 bytes, then the schema, whose root table is at most 255
 * bytes away. */
static bool is_arrow_stream(const Sample *s) {
    uint64_t length = number_at(s, 4, 4), root = number_at(s, 8, 4);
    return length > 0 && length % 8 == 0 && fits(s, length) && root >= 4 && root < 256;
}

/* The length of a JSON object, and then its beginning. */
static bool is_safetensors(const Sample *s) {
    uint64_t length = number_at(s, 0, 8);
    return length >= 2 && length <= 100000000 && fits(s, length + 8) && has_at(s, 8, "{\"", 2);
}

/* The first opcodes of Python's protocols: in 4 and 5 a frame; in 2 and 3 an empty container, a tuple, a string or a
 * class. */
static bool is_pickle(const Sample *s) {
    uint64_t protocol = number_at(s, 1, 1);
    if (protocol == 4 || protocol == 5) return number_at(s, 2, 1) == 0x95 && fits(s, number_at(s, 3, 8));
    if (protocol != 2 && protocol != 3) return false;
    if (has_at(s, 2, "}q\0", 3) || has_at(s, 2, "]q\0", 3) || has_at(s, 2, ")q\0", 3)) return true;
    if (number_at(s, 2, 1) == 'X') return fits(s, number_at(s, 3, 4));
    if (number_at(s, 2, 1) != 'c' || s->count < 12) return false;
    for (size_t i = 3; i < 12; i++)
        if (s->bytes[i] < 0x20 && s->bytes[i] != '\n') return false;
    return true;
}

/* The flags must have version 1 and reserved bits 0. */
static bool is_lz4(const Sample *s) {
    uint64_t flags = number_at(s, 4, 1), block = number_at(s, 5, 1);
    return (flags & ~UINT64_C(0x3d)) == 0x40 && (block & ~UINT64_C(0x70)) == 0;
}

static bool is_gguf(const Sample *s) {
    uint64_t version = number_at(s, 4, 4);
    return version >= 1 && version <= 255;
}

/* The second marker must not be another start of an image. */
static bool is_jpeg(const Sample *s) {
    uint64_t marker = number_at(s, 3, 1);
    return marker >= 0xc0 && marker < 0xff && marker != 0xd8;
}

static bool is_webp(const Sample *s) { return has_at(s, 8, "WEBP", 4); }
static bool is_wave(const Sample *s) { return has_at(s, 8, "WAVE", 4); }
static bool is_avi(const Sample *s) { return has_at(s, 8, "AVI ", 4); }

/* The offset of the first directory is even and inside the file. */
static bool is_tiff(const Sample *s) {
    uint64_t directory = number_at(s, 4, 4);
    return directory >= 8 && directory % 2 == 0 && fits(s, directory);
}

/* The header has the file's size, and two reserved numbers, which are 0. */
static bool is_bmp(const Sample *s) {
    return s->file_bytes >= 0 && number_at(s, 2, 4) == (uint64_t)s->file_bytes && number_at(s, 6, 4) == 0;
}

/* The big-endian size of this box, before the signature, is small. */
static bool is_mp4(const Sample *s) { return has_at(s, 0, "\0\0\0", 3); }

/* The kind of document is one of the first fields. */
static bool is_matroska(const Sample *s) {
    size_t count = s->count < 64 ? s->count : 64;
    return memmem(s->bytes, count, "webm", 4) || memmem(s->bytes, count, "matroska", 8);
}

/* The version, and the size of the tag, whose bytes all have a highest bit of 0. */
static bool is_mp3(const Sample *s) {
    return number_at(s, 3, 1) <= 4 && number_at(s, 4, 1) == 0 && (number_at(s, 6, 4) & 0x80808080) == 0;
}

static bool is_elf(const Sample *s) {
    uint64_t class = number_at(s, 4, 1), order = number_at(s, 5, 1);
    return (class == 1 || class == 2) && (order == 1 || order == 2) && number_at(s, 6, 1) == 1;
}

/* A program of Windows has a second signature at the offset in its header. */
static bool is_windows_program(const Sample *s) {
    uint64_t at = number_at(s, 0x3c, 4);
    return at < s->count && has_at(s, (size_t)at, "PE\0\0", 4);
}

/* CRC-32C of the 8 bytes at `at`, bit by bit. */
static uint32_t crc32c(const Sample *s, size_t at) {
    uint32_t crc = UINT32_MAX;
    for (size_t i = at; i < at + 8; i++) {
        crc ^= s->bytes[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? UINT32_C(0x82f63b78) : 0);
    }
    return ~crc;
}

/* The length of a record and that length's checksum, which TensorFlow rotates and adds a constant to. */
static bool is_tfrecord(const Sample *s) {
    if (s->count < 16 || !fits(s, number_at(s, 0, 8))) return false;
    uint32_t crc = crc32c(s, 0);
    return number_at(s, 8, 4) == (uint32_t)((crc >> 15 | crc << 17) + UINT32_C(0xa282ead8));
}

/* ---- texts ---- */

/* In the mask, the bits of \b, \t, \n, \v, \f, \r and escape, which texts have, are 0. */
static bool is_control(unsigned code) { return code < 0x20 ? UINT32_C(0xf7ffc0ff) >> code & 1 : code == 0x7f; }

static bool is_utf8(const Sample *s) {
    for (size_t at = 0, length; at < s->count; at += length) {
        int32_t code = utf8_next((const char *)s->bytes + at, s->count - at, &length);
        if (code == UTF8_ERROR || (code == UTF8_CUT && (int64_t)s->count == s->file_bytes)) return false;
        if (code == UTF8_CUT) break;
    }
    return true;
}

/* Whether these are characters of some 8-bit encoding, as far as bytes can tell. One control character in 256 is
 * allowed, since real texts have some. A fifth of the bytes of GPT-2's tokens are control characters, so 512 bytes
 * decide. Fewer bytes must also be UTF-8, and at least 16. A text must have 8 different characters, so that a file of a
 * few token numbers that all look like letters is no text. */
static bool is_text(const Sample *s) {
    bool seen[256] = {false};
    size_t controls = 0, different = 0;
    for (size_t i = 0; i < s->count; i++) {
        controls += is_control(s->bytes[i]);
        different += !seen[s->bytes[i]];
        seen[s->bytes[i]] = true;
    }
    if (s->count < 16 || different < 8 || controls > s->count / 256) return false;
    return s->count >= 512 || is_utf8(s);
}

/* The test of formats whose signature is letters, which may begin a text, too. */
static bool is_no_text(const Sample *s) { return !is_text(s); }

/* The text's first bytes after a byte order mark and blanks. */
static Sample text_begin(const Sample *s) {
    Sample left = *s;
    if (has_at(s, 0, "\xef\xbb\xbf", 3)) left.bytes += 3, left.count -= 3;
    while (left.count > 0 && left.bytes[0] != 0 && strchr(" \t\r\n", left.bytes[0])) left.bytes++, left.count--;
    return left;
}

static bool is_json(const Sample *s) {
    Sample text = text_begin(s);
    return (has_at(&text, 0, "{", 1) || has_at(&text, 0, "[", 1)) && is_text(s);
}

static bool is_tokens_json(const Sample *s) {
    return is_json(s) && memmem(s->bytes, s->count, "\"tokenizer\"", 11) &&
           memmem(s->bytes, s->count, "\"vocab_size\"", 12);
}

static bool is_markup(const Sample *s) {
    static const char *const begins[] = {"<!DOCTYPE", "<!doctype", "<html", "<HTML", "<?xml"};
    Sample text = text_begin(s);
    for (size_t i = 0; i < ARRAY_LENGTH(begins); i++)
        if (has_at(&text, 0, begins[i], strlen(begins[i]))) return is_text(s);
    return false;
}

/* Whether the units from `at` on, whose low byte is `low` bytes after their begin, are characters of UTF-16: no control
 * characters, no second byte order mark, surrogates in pairs. *ascii is how many units are ASCII. */
static bool is_utf16(const Sample *s, size_t at, size_t low, size_t *ascii) {
    bool is_pair_open = false;
    *ascii = 0;
    for (; at + 1 < s->count; at += 2) {
        unsigned code = (unsigned)s->bytes[at + low] | (unsigned)s->bytes[at + 1 - low] << 8;
        if (is_control(code) || code == 0xfeff || code >= 0xfffe || is_pair_open != (code >= 0xdc00 && code < 0xe000))
            return false;
        is_pair_open = code >= 0xd800 && code < 0xdc00;
        *ascii += code < 0x80;
    }
    return true;
}

static bool is_marked_utf16(const Sample *s, size_t low) {
    size_t ascii;
    return s->count >= 4 && is_utf16(s, 2, low, &ascii);
}

static bool is_marked_utf16_le(const Sample *s) { return is_marked_utf16(s, 0); }
static bool is_marked_utf16_be(const Sample *s) { return is_marked_utf16(s, 1); }

/* UTF-16 without a byte order mark. Byte tokens, as uint16, look the same, so only rows for texts use this. */
static bool is_bare_utf16(const Sample *s) {
    if (s->count == 0 || !memchr(s->bytes, 0, s->count))
        return false; /* ASCII in UTF-16 has bytes 0, and most texts have none */
    for (size_t low = 0; low < 2; low++) {
        size_t ascii;
        if (s->count >= 4 && is_utf16(s, 0, low, &ascii) && 8 * ascii > s->count) return true;
    }
    return false;
}

/* The same for UTF-32, after the mark. */
static bool is_marked_utf32(const Sample *s, bool is_big_endian) {
    for (size_t at = 4; at + 4 <= s->count; at += 4) {
        uint32_t code = (uint32_t)number_at(s, at, 4);
        if (is_big_endian) code = __builtin_bswap32(code);
        if (is_control(code) || code == 0xfeff || code >= UTF8_CODES) return false;
    }
    return s->count >= 8;
}

static bool is_marked_utf32_le(const Sample *s) { return is_marked_utf32(s, false); }
static bool is_marked_utf32_be(const Sample *s) { return is_marked_utf32(s, true); }

/* A tenth of the bytes are control characters, as in random bytes; or one in 32, if there are at least 512 bytes and
 * they are not UTF-8. */
static bool is_binary(const Sample *s) {
    size_t controls = 0;
    for (size_t i = 0; i < s->count; i++) controls += is_control(s->bytes[i]);
    return 10 * controls > s->count || (s->count >= 512 && 32 * controls > s->count && !is_utf8(s));
}

/* ---- tokens as wider numbers ---- */

/* Whether the file is a list of wider little-endian token numbers, of `per_number` words of 16 bits each. The words
 * above the lowest are 0, or up to 7 in the second one for the vocabularies of 100000 and more tokens. A file of uint16
 * has such words at every place or at none, except if its tokens repeat a pattern. So this needs 64 numbers, at least
 * 16 of them different from the previous one; and if second words differ from 0, low words beyond any uint16
 * vocabulary. */
static bool is_wide(const Sample *s, size_t per_number) {
    size_t count = s->count / (2 * per_number), changes = 0;
    uint64_t highest_second = 0, highest_low = 0, previous = UINT64_MAX;
    if (count < 64 || (s->file_bytes >= 0 && s->file_bytes % (int64_t)(2 * per_number) != 0)) return false;
    for (size_t i = 0; i < count; i++) {
        uint64_t number = number_at(s, i * 2 * per_number, 2 * per_number), second = number >> 16;
        if (second > 7) return false;
        if (second > highest_second) highest_second = second;
        if ((number & 0xffff) > highest_low) highest_low = number & 0xffff;
        changes += number != previous;
        previous = number;
    }
    if (changes < 16 || highest_low < 16) return false;
    return highest_second == 0 || highest_low > 50304;
}

static bool is_int32(const Sample *s) { return is_wide(s, 2); }
static bool is_int64(const Sample *s) { return is_wide(s, 4); }

/* ---- the table ---- */

typedef struct Row {
    ForeignFormat format;
    size_t at; /* where the signature is */
    const char *signature;
    size_t signature_bytes;
    bool (*test)(const Sample *s); /* NULL: the signature is enough */
} Row;

#define ROW(name, as_tokens, as_text, at, signature, test) \
    { {name, {as_tokens, as_text}, false}, at, signature, sizeof(signature) - 1, test }
#define GUESS(name, as_tokens, as_text, test) \
    { {name, {as_tokens, as_text}, true}, 0, "", 0, test }

/* Remedies that several rows share. */
#define NAME_TOKENS "name the token files alone, such as FOLDER/train_*.bin"
#define NAME_TEXTS "name the files with text alone"
#define HAS_TOKENS "it is tokenized already: name it in data.train or data.val of a config"
#define WITH_GPT2 "make token files with GPT-2's tokenizer: bash data/fineweb/download.sh, or prepare_data"
#define PREPARE "./prepare_data --tokenizer=gpt2 --out=FOLDER"
#define PREPARE_TEXT "make token files of it: " PREPARE " FILE"
#define FROM_PACKED "if it is a text, make token files of it: " PREPARE " FILE; if it holds token files, unpack it: "
#define FROM_PIPE(command) "make token files of the text in it: " command " | " PREPARE " -"
#define FROM_ROWS(command) "make token files of the texts in it: " command " | " PREPARE " --field=text -"
#define PARQUET_ROWS FROM_ROWS("python3 data/openwebtext/parquet_to_jsonl.py FILE")
#define ANY_ROWS FROM_ROWS("a script that prints each row as {\"text\": ...}")
#define NUMPY(array)                                                                    \
    "convert it, if all tokens are below 65536: python3 -c 'import numpy as np; " array \
    ".astype(np.uint16).tofile(\"train.bin\")'"
#define PDF_TEXT FROM_PIPE("pdftotext FILE -")
#define PS_TEXT FROM_PIPE("ps2ascii FILE")
#define PANDOC_TEXT FROM_PIPE("pandoc -t plain FILE")
#define SAVE_AS_TEXT "save it as text: soffice --convert-to txt:Text FILE"
#define GZIP_TEXT FROM_PIPE("gzip -dc FILE")
#define UTF16_TEXT FROM_PIPE("iconv -f utf-16 -t utf-8 FILE")
#define UTF32_TEXT FROM_PIPE("iconv -f utf-32 -t utf-8 FILE")

/* The first row that matches decides. */
static const Row rows[] = {
    /* Files of llm.c and mars.c: a number that is a date, then a version. */
    ROW("a token file of llm.c", NULL, HAS_TOKENS, 0, "\x88\xd8\x34\x01", NULL),
    ROW("a token file of llm.c in big-endian order", WITH_GPT2, HAS_TOKENS, 0, "\x01\x34\xd8\x88\0\0\0\1", NULL),
    ROW("a token file of llm.c for Llama 3 (uint32)", WITH_GPT2, HAS_TOKENS, 0, "\xa1\xd9\x34\x01", NULL),
    ROW("an evaluation file of llm.c", "make one for data.hellaswag: bash data/hellaswag/prepare.sh", NAME_TEXTS, 0,
        "\x8a\xd8\x34\x01", NULL),
    ROW("a model of llm.c", NAME_TOKENS, NAME_TEXTS, 0, "\xc6\xd7\x34\x01", NULL),
    ROW("a training state of llm.c", NAME_TOKENS, NAME_TEXTS, 0, "\xc7\xd7\x34\x01", NULL),
    ROW("a tokenizer of llm.c", NAME_TOKENS, NAME_TEXTS, 0, "\xc8\xd7\x34\x01", NULL),
    ROW("a HellaSwag file", "name it in data.hellaswag", NAME_TEXTS, 0, "\x37\x15\x34\x01\1\0\0\0", NULL),

    /* Packed files and archives. prepare_data unpacks the first three. */
    ROW("a gzip file", FROM_PACKED "gzip -d FILE", NULL, 0, "\x1f\x8b\x08", is_gzip),
    ROW("a Zstandard file", FROM_PACKED "zstd -d FILE", NULL, 0, "\x28\xb5\x2f\xfd", NULL),
    ROW("an xz file", FROM_PACKED "xz -d FILE", NULL, 0, "\xfd\x37zXZ\0", NULL),
    ROW("an lzma file", FROM_PIPE("xz -dc FILE"), FROM_PIPE("xz -dc FILE"), 0, "\x5d\0\0", is_lzma),
    ROW("a file packed by compress", NULL, GZIP_TEXT, 0, "\x1f\x9d", is_compress),
    ROW("a bzip2 file", FROM_PIPE("bzip2 -dc FILE"), FROM_PIPE("bzip2 -dc FILE"), 0, "BZh", is_bzip2),
    ROW("an lz4 file", FROM_PIPE("lz4 -dc FILE"), FROM_PIPE("lz4 -dc FILE"), 0, "\x04\x22\x4d\x18", is_lz4),
    ROW("an lzip file", FROM_PIPE("lzip -dc FILE"), FROM_PIPE("lzip -dc FILE"), 0, "LZIP\1", NULL),
    ROW("a 7z archive", "unpack it: 7z x FILE", "unpack it: 7z x FILE", 0, "7z\xbc\xaf\x27\x1c", NULL),
    ROW("a RAR archive", "unpack it: unrar x FILE", "unpack it: unrar x FILE", 0, "Rar!\x1a\x07", NULL),
    ROW("a tar archive", "unpack it: tar -xf FILE", "unpack it: tar -xf FILE", 257, "ustar", NULL),
    ROW("a PyTorch file", NAME_TOKENS, NAME_TEXTS, 0, "PK\3\4", is_torch_zip),
    ROW("a NumPy archive (.npz)", NUMPY("np.load(\"FILE\")[\"NAME\"]"), NAME_TEXTS, 0, "PK\3\4", is_npz),
    ROW("an Office document (.docx, .xlsx, .pptx)", PANDOC_TEXT, PANDOC_TEXT, 0, "PK\3\4", is_office_zip),
    ROW("an e-book or OpenDocument file", PANDOC_TEXT, PANDOC_TEXT, 0, "PK\3\4", is_document_zip),
    ROW("a zip archive", "unpack it: unzip FILE", "unpack it: unzip FILE", 0, "PK\3\4", is_zip),

    /* Tables and arrays. */
    ROW("a Parquet file", PARQUET_ROWS, PARQUET_ROWS, 0, "PAR1", is_parquet),
    ROW("an Arrow file", ANY_ROWS, ANY_ROWS, 0, "ARROW1\0\0", NULL),
    ROW("an Arrow file", ANY_ROWS, ANY_ROWS, 0, "\xff\xff\xff\xff", is_arrow_stream),
    ROW("a Feather file", ANY_ROWS, ANY_ROWS, 0, "FEA1\0", NULL),
    ROW("an Avro file", ANY_ROWS, ANY_ROWS, 0, "Obj\1\4", NULL),
    ROW("a TFRecord file", ANY_ROWS, ANY_ROWS, 0, "", is_tfrecord),
    ROW("an SQLite database", ANY_ROWS, ANY_ROWS, 0, "SQLite format 3\0", NULL),
    ROW("an LMDB database", ANY_ROWS, ANY_ROWS, 16, "\xde\xc0\xef\xbe\1\0\0\0", NULL),
    ROW("an HDF5 file", NUMPY("__import__(\"h5py\").File(\"FILE\")[\"NAME\"][:]"), ANY_ROWS, 0, "\x89HDF\r\n\x1a\n",
        NULL),
    ROW("a NumPy array (.npy)", NUMPY("np.load(\"FILE\")"), NAME_TEXTS, 0, "\x93NUMPY", NULL),
    ROW("a MATLAB file", NAME_TOKENS, NAME_TEXTS, 0, "MATLAB 5.0 MAT-file", NULL),
    ROW("an index of Megatron-LM", "name the .bin file next to it", NAME_TEXTS, 0, "MMIDIDX\0\0", NULL),
    ROW("an index of fairseq", NAME_TOKENS, NAME_TEXTS, 0, "TNTIDX\0\0", NULL),

    /* Models. */
    ROW("a safetensors file", "name a model's weights in train.init_from", NAME_TEXTS, 0, "", is_safetensors),
    ROW("a PyTorch file", NAME_TOKENS, NAME_TEXTS, 0, "\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", NULL),
    ROW("a Python pickle", NAME_TOKENS, NAME_TEXTS, 0, "\x80", is_pickle),
    ROW("a GGUF model", NAME_TOKENS, NAME_TEXTS, 0, "GGUF", is_gguf),
    ROW("a SentencePiece model", NAME_TOKENS, NAME_TEXTS, 0, "\n\x0e\n\5<unk>", NULL),

    /* Images, sound, documents, programs. */
    ROW("a PNG image", NAME_TOKENS, NAME_TEXTS, 0, "\x89PNG\r\n\x1a\n", NULL),
    ROW("a JPEG image", NAME_TOKENS, NAME_TEXTS, 0, "\xff\xd8\xff", is_jpeg),
    ROW("a GIF image", NAME_TOKENS, NAME_TEXTS, 0, "GIF87a", is_no_text),
    ROW("a GIF image", NAME_TOKENS, NAME_TEXTS, 0, "GIF89a", is_no_text),
    ROW("a WebP image", NAME_TOKENS, NAME_TEXTS, 0, "RIFF", is_webp),
    ROW("a TIFF image", NAME_TOKENS, NAME_TEXTS, 0, "II*\0", is_tiff),
    ROW("a TIFF image", NAME_TOKENS, NAME_TEXTS, 0, "MM\0*\0\0", NULL),
    ROW("a BMP image", NAME_TOKENS, NAME_TEXTS, 0, "BM", is_bmp),
    ROW("a WAV file", NAME_TOKENS, NAME_TEXTS, 0, "RIFF", is_wave),
    ROW("an AVI video", NAME_TOKENS, NAME_TEXTS, 0, "RIFF", is_avi),
    ROW("an MP4 video", NAME_TOKENS, NAME_TEXTS, 4, "ftyp", is_mp4),
    ROW("a Matroska or WebM video", NAME_TOKENS, NAME_TEXTS, 0, "\x1a\x45\xdf\xa3", is_matroska),
    ROW("an MP3 file", NAME_TOKENS, NAME_TEXTS, 0, "ID3", is_mp3),
    ROW("an Ogg file", NAME_TOKENS, NAME_TEXTS, 0, "OggS\0", NULL),
    ROW("a FLAC file", NAME_TOKENS, NAME_TEXTS, 0, "fLaC\0", NULL),
    ROW("a PDF document", PDF_TEXT, PDF_TEXT, 0, "%PDF-", NULL),
    ROW("a PostScript document", PS_TEXT, PS_TEXT, 0, "%!PS-", NULL),
    ROW("an RTF document", PANDOC_TEXT, PANDOC_TEXT, 0, "{\\rtf1", NULL),
    ROW("a Kindle book", NAME_TOKENS, "convert it: ebook-convert FILE text.txt", 60, "BOOKMOBI", NULL),
    ROW("a WARC file", ANY_ROWS, ANY_ROWS, 0, "WARC/1.", NULL),
    ROW("a Microsoft Office document", NAME_TOKENS, SAVE_AS_TEXT, 0, "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", NULL),
    ROW("a folder's settings of macOS", NAME_TOKENS, NAME_TEXTS, 0, "\0\0\0\1Bud1", NULL),
    ROW("a program", NAME_TOKENS, NAME_TEXTS, 0, "\x7f\x45LF", is_elf),
    ROW("a program", NAME_TOKENS, NAME_TEXTS, 0, "MZ", is_windows_program),
    ROW("a program", NAME_TOKENS, NAME_TEXTS, 0, "\xcf\xfa\xed\xfe", NULL),

    /* Texts. */
    ROW("a Git LFS pointer to a file that was not downloaded", "git lfs pull downloads it", "git lfs pull downloads it",
        0, "version https://git-lfs", NULL),
    ROW("text in UTF-32", UTF32_TEXT, UTF32_TEXT, 0, "\xff\xfe\0\0", is_marked_utf32_le),
    ROW("text in UTF-32", UTF32_TEXT, UTF32_TEXT, 0, "\0\0\xfe\xff", is_marked_utf32_be),
    ROW("text in UTF-16", UTF16_TEXT, UTF16_TEXT, 0, "\xff\xfe", is_marked_utf16_le),
    ROW("text in UTF-16", UTF16_TEXT, UTF16_TEXT, 0, "\xfe\xff", is_marked_utf16_be),
    ROW("text in UTF-16", NULL, UTF16_TEXT, 0, "", is_bare_utf16),
    ROW("tokens.json, which describes token files", NAME_TOKENS, NAME_TEXTS, 0, "", is_tokens_json),
    ROW("JSON", PREPARE_TEXT ", with --field=NAME if it is JSON Lines", NULL, 0, "", is_json),
    ROW("an HTML or XML page", PREPARE_TEXT, NULL, 0, "", is_markup),
    ROW("text", PREPARE_TEXT, NULL, 0, "", is_text),

    /* Numbers. */
    GUESS("tokens as int64", NUMPY("np.fromfile(\"FILE\", np.int64)"), NAME_TEXTS, is_int64),
    GUESS("tokens as int32", NUMPY("np.fromfile(\"FILE\", np.int32)"), NAME_TEXTS, is_int32),
    GUESS("binary data", NULL, NAME_TEXTS, is_binary),
};

const ForeignFormat *foreign_format(ForeignUse use, const void *begin, size_t count, int64_t file_bytes) {
    const Sample sample = {begin, count, file_bytes};
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        const Row *row = &rows[i];
        if (has_at(&sample, row->at, row->signature, row->signature_bytes) && (!row->test || row->test(&sample)))
            return row->format.remedy[use] ? &row->format : NULL;
    }
    return NULL;
}
