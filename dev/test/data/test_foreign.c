/* test_foreign.c: which formats are recognised by their content, for which use, and that token files never are. */
#include "dev/test/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/foreign.h"
#include "util/philox.h"

typedef struct Sample {
    unsigned char bytes[FOREIGN_BYTES];
    size_t count;
} Sample;

static const char *name_of(ForeignUse use, const Sample *sample) {
    const ForeignFormat *format = foreign_format(use, sample->bytes, sample->count, (int64_t)sample->count);
    if (format && strlen(format->remedy[use]) < 10) fail_msg("%s has no remedy", format->name);
    return format ? format->name : "";
}

static void assert_name(ForeignUse use, const Sample *sample, const char *expected, const char *what) {
    const char *name = name_of(use, sample);
    if (strcmp(name, expected) != 0)
        fail_msg("%s, %zu bytes, is '%s' as %s and should be '%s'", what, sample->count, name,
                 use == FOREIGN_AS_TOKENS ? "tokens" : "text", expected);
}

/* ---- formats ---- */

#define BYTES(literal) literal, sizeof(literal) - 1

/* How files of the format begin, and what they look like to a reader of tokens and to one of text; "" for a file that
 * suits it. */
static const struct {
    const char *begin;
    size_t bytes;
    const char *as_tokens, *as_text;
} formats[] = {
    {BYTES("\x88\xd8\x34\x01\1\0\0\0\5\0\0\0"), "", "a token file of llm.c"},
    {BYTES("\x01\x34\xd8\x88\0\0\0\1\0\0\0\5"), "a token file of llm.c in big-endian order", "+"},
    {BYTES("\xa1\xd9\x34\x01\7\0\0\0\5\0\0\0"), "a token file of llm.c for Llama 3 (uint32)", "+"},
    {BYTES("\x8a\xd8\x34\x01\1\0\0\0\5\0\0\0"), "an evaluation file of llm.c", "+"},
    {BYTES("\xc6\xd7\x34\x01\5\0\0\0\0\4\0\0"), "a model of llm.c", "+"},
    {BYTES("\xc7\xd7\x34\x01\1\0\0\0\1\0\0\0"), "a training state of llm.c", "+"},
    {BYTES("\xc8\xd7\x34\x01\2\0\0\0\x51\xc4\0\0"), "a tokenizer of llm.c", "+"},
    {BYTES("\x37\x15\x34\x01\1\0\0\0\x51\xc4\0\0"), "a HellaSwag file", "+"},
    {BYTES("\x1f\x8b\x08\x08\x9a\x1c\x2f\x66\0\3train.txt\0"), "a gzip file", ""},
    {BYTES("\x1f\x8b\x08\0\0\0\0\0\2\xff\xcb\x48\xcd\xc9"), "a gzip file", ""},
    {BYTES("\x28\xb5\x2f\xfd\x04\x58\x31\0"), "a Zstandard file", ""},
    {BYTES("\xfd\x37zXZ\0\0\4\xe6\xd6\xb4\x46"), "an xz file", ""},
    {BYTES("BZh91AY&SY\x94\xf5"), "a bzip2 file", "+"},
    {BYTES("BZh9\x17\x72\x45\x38\x50\x90\0\0\0\0"), "a bzip2 file", "+"},
    {BYTES("\x04\x22\x4d\x18\x64\x40\xa7\x06\0\0\0"), "an lz4 file", "+"},
    {BYTES("\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff\0"), "an lzma file", "+"},
    {BYTES("\x5d\0\0\xc0\0\0\x20\0\0\0\0\0\0\0\1"), "an lzma file", "+"},
    {BYTES("LZIP\1\x0c\0\x33"), "an lzip file", "+"},
    {BYTES("7z\xbc\xaf\x27\x1c\0\4\x3c"), "a 7z archive", "+"},
    {BYTES("Rar!\x1a\x07\1\0\x33"), "a RAR archive", "+"},
    {BYTES("PK\3\4\x2d\0\0\0\x08\0\0\0!\0abcdefghijkl\7\0\0\0a/b.txt"), "a zip archive", "+"},
    {BYTES("PK\3\4\x14\0\0\0\0\0\0\0!\0abcdefghijkl\x05\0\0\0x.npy"), "a NumPy archive (.npz)", "+"},
    {BYTES("PK\3\4\0\0\x08\x08\0\0\0\0\0\0abcdefghijkl\x10\0\x12\0archive/data.pkl"), "a PyTorch file", "+"},
    {BYTES("PAR1\x15\4\x15\x40\x15\x18\x4c"), "a Parquet file", "+"},
    {BYTES("ARROW1\0\0\xff\xff\xff\xff\x78\0\0\0"), "an Arrow file", "+"},
    {BYTES("\xff\xff\xff\xff\x10\0\0\0\x10\0\0\0\0\0\x0a\0\x0c\0\6\0"), "an Arrow file", "+"},
    {BYTES("FEA1\0\0\0\0\1\2"), "a Feather file", "+"},
    {BYTES("Obj\1\4\x16"
           "avro.schema\x88\2{\"type\":\"record\""),
     "an Avro file", "+"},
    {BYTES("\x0b\0\0\0\0\0\0\0\x86\x15\xf5\x04hello world\x3c\x0a\xd1\x97"), "a TFRecord file", "+"},
    {BYTES("SQLite format 3\0\x10\0\1\1\0\x40\x20\x20"), "an SQLite database", "+"},
    {BYTES("\0\0\0\0\0\0\0\0\0\0\x08\0\0\0\0\0\xde\xc0\xef\xbe\1\0\0\0"), "an LMDB database", "+"},
    {BYTES("\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0"), "an HDF5 file", "+"},
    {BYTES("\x93NUMPY\1\0\x76\0{'descr': '<u2', 'fortran_order': False, 'shape': (4,), }"), "a NumPy array (.npy)",
     "+"},
    {BYTES("MATLAB 5.0 MAT-file, Platform: GLNXA64, Created on: Mon\0\0\0\1IM"), "a MATLAB file", "+"},
    {BYTES("MMIDIDX\0\0\1\0\0\0\0\0\0\0\x08"), "an index of Megatron-LM", "+"},
    {BYTES("TNTIDX\0\0\1\0\0\0\0\0\0\0\x04"), "an index of fairseq", "+"},
    {BYTES("\x17\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\"}}  "), "a safetensors file", "+"},
    {BYTES("\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."), "a PyTorch file", "+"},
    {BYTES("\x80\4\x95\6\0\0\0\0\0\0\0}\x94(K\1K\2u."), "a Python pickle", "+"},
    {BYTES("\x80\3}q\0(X\1\0\0\0aq\1K\1u."), "a Python pickle", "+"},
    {BYTES("\x80\2X\4\0\0\0textq\0."), "a Python pickle", "+"},
    {BYTES("\x80\2cnumpy.core.multiarray\n_reconstruct\n"), "a Python pickle", "+"},
    {BYTES("GGUF\3\0\0\0\x23\1\0\0\0\0\0\0"), "a GGUF model", "+"},
    {BYTES("\n\x0e\n\5<unk>\x15\0\0\0\0\x18\2"), "a SentencePiece model", "+"},
    {BYTES("\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), "a PNG image", "+"},
    {BYTES("\xff\xd8\xff\xe0\0\x10JFIF\0"), "a JPEG image", "+"},
    {BYTES("GIF89a\x40\1\xc8\0\xf7\0\0"), "a GIF image", "+"},
    {BYTES("GIF87a\x40\1\xc8\0\xf7\0\0"), "a GIF image", "+"},
    {BYTES("RIFF\x10\0\0\0WEBPVP8 "), "a WebP image", "+"},
    {BYTES("RIFF\x10\0\0\0WAVEfmt "), "a WAV file", "+"},
    {BYTES("RIFF\x10\0\0\0AVI LIST"), "an AVI video", "+"},
    {BYTES("II*\0\x08\0\0\0\x0e\0"), "a TIFF image", "+"},
    {BYTES("MM\0*\0\0\0\x08\0\x0e"), "a TIFF image", "+"},
    {BYTES("BM\x12\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0"), "a BMP image", "+"},
    {BYTES("\0\0\0\x20"
           "ftypisom\0\0\2\0isom"),
     "an MP4 video", "+"},
    {BYTES("\x1a\x45\xdf\xa3\x9f\x42\x86\x81\1\x42\x82\x84webm"), "a Matroska or WebM video", "+"},
    {BYTES("ID3\4\0\0\0\0\1\x76TSSE"), "an MP3 file", "+"},
    {BYTES("OggS\0\2\0\0\0\0"), "an Ogg file", "+"},
    {BYTES("fLaC\0\0\0\x22\x10\0\x10\0"), "a FLAC file", "+"},
    {BYTES("%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n"), "a PDF document", "+"},
    {BYTES("\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0"), "a Microsoft Office document", "+"},
    {BYTES("\x7f\x45LF\2\1\1\0\0\0\0\0\0\0\0\0\3\0\x3e\0"), "a program", "+"},
    {BYTES("\0\0\0\1"
           "Bud1\0\0\x10\0"),
     "a folder's settings of macOS", "+"},
    {BYTES("\xcf\xfa\xed\xfe\7\0\0\1"), "a program", "+"},
    {BYTES("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"),
     "a Git LFS pointer to a file that was not downloaded", "+"},
    {BYTES("\xff\xfeh\0i\0 \0\x16\x4e\x4c\x75\n\0"), "text in UTF-16", "+"},
    {BYTES("\xfe\xff\0h\0i\0 \x4e\x16\x75\x4c\0\n"), "text in UTF-16", "+"},
    {BYTES("\xff\xfe\0\0h\0\0\0i\0\0\0"), "text in UTF-32", "+"},
    {BYTES("\0\0\xfe\xff\0\0\0h\0\0\0i"), "text in UTF-32", "+"},
    {BYTES("\xef\xbb\xbf{\n  \"tokenizer\": \"gpt2\",\n  \"vocab_size\": 50257\n}\n"),
     "tokens.json, which describes token files", "+"},
    {BYTES("{\"text\": \"a document\"}\n{\"text\": \"another\"}\n"), "JSON", ""},
    {BYTES(" \n[1, 2, 3, 4, 5, 6, 7, 8, 9]\n"), "JSON", ""},
    {BYTES("\n<!DOCTYPE html>\n<title>404</title>\n"), "an HTML or XML page", ""},
    {BYTES("<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>"), "an HTML or XML page", ""},
    {BYTES("# README\nThe data of this folder.\n"), "text", ""},
    {BYTES("\xe4\xb8\x96\xe7\x95\x8c\xe4\xbd\xa0\xe5\xa5\xbd, \xe4\xb8\x96\xe7\x95\x8c\n"), "text", ""},
    {BYTES("GIF89a is a format of images, and this is a text.\n"), "text", ""},
    {BYTES("PK, BM, ID3 and MZ begin other formats.\n"), "text", ""},
};

static void test_each_format_is_recognised(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(formats); i++) {
        Sample sample = {.count = formats[i].bytes};
        memcpy(sample.bytes, formats[i].begin, formats[i].bytes);
        bool same = strcmp(formats[i].as_text, "+") == 0;
        assert_name(FOREIGN_AS_TOKENS, &sample, formats[i].as_tokens, formats[i].as_tokens);
        assert_name(FOREIGN_AS_TEXT, &sample, same ? formats[i].as_tokens : formats[i].as_text, formats[i].as_tokens);
    }
}

static void test_signatures_inside_a_file(void **state) {
    (void)state;
    Sample tar = {.count = 1024}, program = {.count = 1024};
    memcpy(tar.bytes, "train.bin", 9);
    memcpy(tar.bytes + 257, "ustar", 6);
    assert_name(FOREIGN_AS_TOKENS, &tar, "a tar archive", "tar");
    memcpy(program.bytes, "MZ", 2);
    program.bytes[0x3c] = 0x80;
    memcpy(program.bytes + 0x80, "PE\0\0", 4);
    assert_name(FOREIGN_AS_TEXT, &program, "a program", "a program of Windows");
    program.bytes[0x3c] = 0x90;
    assert_name(FOREIGN_AS_TOKENS, &program, "", "tokens that begin with MZ");
}

/* Every cut of every file: no test may read beyond the end, which the sanitizers see. */
static void test_files_that_are_cut(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(formats); i++)
        for (size_t bytes = 0; bytes <= formats[i].bytes; bytes++) {
            unsigned char *begin = checked_malloc(bytes, "a beginning");
            memcpy(begin, formats[i].begin, bytes);
            for (ForeignUse use = 0; use < FOREIGN_USES; use++) {
                foreign_format(use, begin, bytes, (int64_t)bytes);
                foreign_format(use, begin, bytes, -1);
            }
            free(begin);
        }
}

/* ---- texts ---- */

static Sample repeated(const char *text, size_t bytes) {
    Sample sample = {.count = bytes};
    for (size_t i = 0; i < bytes; i++) sample.bytes[i] = (unsigned char)text[i % strlen(text)];
    return sample;
}

/* Latin-1, KOI8-R and Shift-JIS are no UTF-8, and texts. */
static void test_texts_of_other_encodings(void **state) {
    (void)state;
    static const char *const texts[] = {"Stra\xdf"
                                        "en und H\xe4user, \xfc"
                                        "berall.\r\n",
                                        "\xf0\xd2\xc9\xd7\xc5\xd4, \xcd\xc9\xd2! \xeb\xc1\xcb \xc4\xc5\xcc\xc1?\n",
                                        "\x82\xb1\x82\xf1\x82\xc9\x82\xbf\x82\xcd\x90\xa2\x8a\x45\n"};
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++) {
        Sample sample = repeated(texts[i], FOREIGN_BYTES);
        assert_name(FOREIGN_AS_TOKENS, &sample, "text", texts[i]);
        assert_name(FOREIGN_AS_TEXT, &sample, "", texts[i]);
    }
}

static void test_a_text_with_some_control_characters(void **state) {
    (void)state;
    Sample sample = repeated("A page of a book, and the next.\n", FOREIGN_BYTES);
    for (size_t i = 100; i < FOREIGN_BYTES; i += 400) sample.bytes[i] = 0;
    assert_name(FOREIGN_AS_TOKENS, &sample, "text", "a text with zeros");
    assert_name(FOREIGN_AS_TEXT, &sample, "", "a text with zeros");
}

/* As bytes 'a', 0, 'b', 0 it is also what byte tokens look like. */
static void test_utf16_without_a_mark(void **state) {
    (void)state;
    Sample sample = {.count = 800};
    for (size_t low = 0; low < 2; low++) {
        for (size_t i = 0; i < 800; i++) sample.bytes[i] = i % 2 == low ? (unsigned char)"Some words\n"[i / 2 % 11] : 0;
        assert_name(FOREIGN_AS_TEXT, &sample, "text in UTF-16", "UTF-16");
        assert_name(FOREIGN_AS_TOKENS, &sample, "", "byte tokens");
    }
}

/* ---- numbers ---- */

/* Like a token of a text: low numbers are frequent. */
static uint32_t draw_token(uint64_t i, uint32_t vocab_size) {
    double uniform = (double)philox_below(philox(3, PHILOX_DATA_OFFSET, 7, i), UINT64_C(1) << 32) / 0x1p32;
    return (uint32_t)(pow(vocab_size, uniform) - 1.0);
}

static Sample numbers(uint32_t vocab_size, size_t width, uint64_t first, size_t count) {
    Sample sample = {.count = count * width};
    for (size_t i = 0; i < count; i++) {
        uint64_t token = draw_token(first + i, vocab_size);
        memcpy(sample.bytes + i * width, &token, width);
    }
    return sample;
}

static void test_wider_numbers(void **state) {
    (void)state;
    static const uint32_t sizes[] = {65, 256, 32000, 50257, 65536, 100277, 128256, 262144};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        Sample narrow = numbers(sizes[i] < 65536 ? sizes[i] : 65536, 2, 0, 2048);
        Sample wide = numbers(sizes[i], 4, 0, 1024), widest = numbers(sizes[i], 8, 0, 512);
        assert_name(FOREIGN_AS_TOKENS, &narrow, "", "uint16");
        assert_name(FOREIGN_AS_TOKENS, &wide, "tokens as int32", "int32");
        assert_name(FOREIGN_AS_TOKENS, &widest, "tokens as int64", "int64");
        assert_name(FOREIGN_AS_TEXT, &wide, "tokens as int32", "int32");
    }
}

/* Of many vocabularies and lengths, from a single token on. */
static void test_token_files_are_never_refused(void **state) {
    (void)state;
    static const uint32_t sizes[] = {2, 4, 65, 256, 1024, 32000, 50257, 65536};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++)
        for (uint64_t first = 0; first < 3000; first++) {
            Sample sample = numbers(sizes[i], 2, first * 5000, first % 100 ? 1 + first % 100 : 2048);
            sample.count -= first % 3 == 1; /* the reader reports an odd size */
            assert_name(FOREIGN_AS_TOKENS, &sample, "", "tokens of a text");
        }
}

static void test_constant_and_counting_files(void **state) {
    (void)state;
    for (uint32_t token = 0; token < 65536; token += 1 + token % 7) {
        Sample constant = {.count = 256}, pairs = {.count = 256}, counting = {.count = 256};
        for (uint32_t i = 0; i < 128; i++) {
            const uint16_t same = (uint16_t)token, pair = (uint16_t)(i % 2 ? token : 0), count = (uint16_t)(token + i);
            memcpy(constant.bytes + 2 * i, &same, 2);
            memcpy(pairs.bytes + 2 * i, &pair, 2);
            memcpy(counting.bytes + 2 * i, &count, 2);
        }
        assert_name(FOREIGN_AS_TOKENS, &constant, "", "one token");
        assert_name(FOREIGN_AS_TOKENS, &pairs, "", "two tokens in turn");
        if (token < 50257) assert_name(FOREIGN_AS_TOKENS, &counting, "", "tokens that count");
    }
}

/* ---- formats that people bring as text ---- */

/* The begin of a zip archive with a member of this name, and its content. */
static Sample zip(const char *name, const char *content) {
    Sample sample = {.count = 30 + strlen(name) + strlen(content)};
    memcpy(sample.bytes, "PK\3\4\x14\0\0\0\0\0\0\0!\0", 14);
    sample.bytes[26] = (unsigned char)strlen(name);
    snprintf((char *)sample.bytes + 30, sizeof sample.bytes - 30, "%s%s", name, content);
    return sample;
}

static void test_documents(void **state) {
    (void)state;
    static const char *const zips[][3] = {
        {"[Content_Types].xml", "", "an Office document (.docx, .xlsx, .pptx)"},
        {"_rels/.rels", "", "an Office document (.docx, .xlsx, .pptx)"},
        {"mimetype", "application/epub+zip", "an e-book or OpenDocument file"},
        {"mimetype", "application/vnd.oasis.opendocument.text", "an e-book or OpenDocument file"},
        {"mimetype", "application/", "a zip archive"},
        {"a/mimetypes", "application/epub+zip", "a zip archive"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(zips); i++) {
        Sample sample = zip(zips[i][0], zips[i][1]);
        assert_name(FOREIGN_AS_TEXT, &sample, zips[i][2], zips[i][0]);
    }
    static const struct {
        const char *begin, *name;
    } begins[] = {
        {"\x1f\x9d\x90 and codes", "a file packed by compress"},
        {"\x1f\x9d\x0c and codes", "a file packed by compress"},
        {"\x1f\x9d\x91 and other codes", ""},
        {"{\\rtf1\\ansi Hello}", "an RTF document"},
        {"%!PS-Adobe-3.0\n", "a PostScript document"},
        {"WARC/1.0\r\nWARC-Type: conversion\r\n", "a WARC file"},
        {"{\\rt}", ""},
        {"WARC and peace", ""},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(begins); i++) {
        Sample sample = {.count = strlen(begins[i].begin)};
        memcpy(sample.bytes, begins[i].begin, sample.count);
        assert_name(FOREIGN_AS_TEXT, &sample, begins[i].name, begins[i].begin);
    }
}

/* Random bytes, such as what an unknown program packed or encrypted, are binary data however they fall. */
static void test_random_bytes(void **state) {
    (void)state;
    for (uint32_t seed = 0; seed < 200; seed++) {
        Sample sample = {.count = FOREIGN_BYTES};
        for (uint32_t i = 0; i < FOREIGN_BYTES / 4; i++) {
            uint32_t word = philox(seed, PHILOX_DATA_OFFSET, 9, i).word[0];
            memcpy(sample.bytes + 4 * i, &word, 4);
        }
        sample.bytes[0] = 0xe0; /* no signature */
        const ForeignFormat *format = foreign_format(FOREIGN_AS_TEXT, sample.bytes, sample.count, -1);
        assert_non_null(format);
        assert_string_equal(format->name, "binary data");
        assert_true(format->is_guess);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_format_is_recognised),
        cmocka_unit_test(test_signatures_inside_a_file),
        cmocka_unit_test(test_files_that_are_cut),
        cmocka_unit_test(test_texts_of_other_encodings),
        cmocka_unit_test(test_a_text_with_some_control_characters),
        cmocka_unit_test(test_utf16_without_a_mark),
        cmocka_unit_test(test_wider_numbers),
        cmocka_unit_test(test_token_files_are_never_refused),
        cmocka_unit_test(test_constant_and_counting_files),
        cmocka_unit_test(test_documents),
        cmocka_unit_test(test_random_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
