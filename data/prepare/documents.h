/* documents.h: splits a text file into documents. The whole file is one document, or a line separates documents, or
 * each document is a field of a line of JSON Lines. They come in pieces, so that memory does not depend on their
 * length. pipeline.c encodes them. */
#ifndef MARS_DATA_PREPARE_DOCUMENTS_H
#define MARS_DATA_PREPARE_DOCUMENTS_H

#include "data/prepare/text_source.h"

/* At most one of separator and field is set. */
typedef struct DocumentFormat {
    const char *separator; /* a line between documents, which belongs to none of them; nor does the end of the line
                              before it. No document is between two such lines with no byte between them. Such a line
                              may end in up to SEPARATOR_BLANKS spaces, tabs and carriage returns, and any in CRLF. */
    const char *field;     /* a line is a JSON object, whose member of this name, a string, is the document */
    bool skip_bad_lines;   /* of JSON Lines: count them instead of failing */
} DocumentFormat;

enum { SEPARATOR_BLANKS = 256 };

/* Takes documents: pieces of text, then their end. Either may fail, which ends the reading. */
typedef struct DocumentSink {
    void *context;
    bool (*text)(void *context, const char *text, size_t bytes, Error *error);
    bool (*end)(void *context, Error *error);
} DocumentSink;

/* Only the end of a line of JSON shows that the line is right, so its field is held until then, up to this many bytes.
 * A longer field goes to the sink earlier; if its line then turns out to be bad, the line cannot be skipped. */
enum { DOCUMENT_BYTES_HELD = 16 << 20 };

typedef struct DocumentCounts {
    int64_t bad_lines;  /* of JSON Lines, skipped */
    Error first_bad;    /* which the first of them is, and what is wrong with it */
    int64_t separators; /* lines that separate */
} DocumentCounts;

EXTERN_C_BEGIN

/* Reads the file to its end and adds to the counts. A bad line of JSON is an error that names the file, the line and
 * what is wrong, or is counted. */
bool documents_read(TextFile *file, const DocumentFormat *format, const DocumentSink *sink, DocumentCounts *counts,
                    Error *error);

EXTERN_C_END

#endif
