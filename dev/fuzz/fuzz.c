/* fuzz.c: see fuzz.h. */
#include "dev/fuzz/fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/files.h"

void fuzz_fail(const char *file, int line, const char *format, ...) {
    va_list arguments;
    fprintf(stderr, "%s:%d: ", file, line);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    abort();
}

uint64_t fuzz_number(FuzzInput *input, size_t width) {
    FuzzInput piece = fuzz_piece(input, width);
    uint64_t number = 0;
    for (size_t i = 0; i < piece.bytes; i++) number |= (uint64_t)piece.data[i] << 8 * i;
    return number;
}

FuzzInput fuzz_piece(FuzzInput *input, size_t bytes) {
    FuzzInput piece = {input->data, bytes < input->bytes ? bytes : input->bytes};
    if (piece.bytes == 0) return piece; /* data may be NULL */
    input->data += piece.bytes;
    input->bytes -= piece.bytes;
    return piece;
}

static char folder[200];

static void remove_folder(void) { files_remove_tree(folder, NULL); }

const char *fuzz_folder(void) {
    if (folder[0]) return folder;
    const char *parent = getenv("TMPDIR");
    if (!parent) parent = access("/dev/shm", W_OK | X_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(folder, sizeof folder, "%s/mars_fuzz_XXXXXX", parent);
    if (!mkdtemp(folder)) die("cannot make the folder %s: %s", folder, strerror(errno));
    atexit(remove_folder);
    return folder;
}

const char *fuzz_path(const char *name) {
    static char paths[8][300];
    static int next;
    char *path = paths[next++ % (int)ARRAY_LENGTH(paths)];
    snprintf(path, sizeof paths[0], "%s/%s", fuzz_folder(), name);
    return path;
}

const char *fuzz_file(const char *name, const void *data, size_t bytes) {
    const char *path = fuzz_path(name);
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0 || (bytes > 0 && write(file, data, bytes) != (ssize_t)bytes) || close(file) != 0)
        die("cannot write %s: %s", path, strerror(errno));
    return path;
}
