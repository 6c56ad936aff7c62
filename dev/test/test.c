/* test.c: the helpers of test.h. */
#include "dev/test/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[256];
static pid_t folder_owner;

static void remove_folder(void) {
    if (getpid() != folder_owner) return;
    char *command = format_string("rm -rf '%s'", folder);
    if (system(command) != 0) fprintf(stderr, "cannot remove %s\n", folder);
    free(command);
}

const char *test_device(void) {
    const char *device = getenv("MARS_TEST_DEVICE");
    return device && device[0] ? device : "cpu";
}

bool only_small_sizes(void) {
    const char *small = getenv("MARS_TEST_SMALL");
    return small && strcmp(small, "1") == 0;
}

bool has_its_turn(size_t number, size_t share) { return !only_small_sizes() || number % share == 0; }

const char *test_folder(void) {
    if (!folder[0]) {
        const char *parent = getenv("TMPDIR");
        snprintf(folder, sizeof folder, "%s/mars_test_XXXXXX", parent ? parent : "/tmp");
        if (!mkdtemp(folder)) die("cannot make a scratch folder %s", folder);
        folder_owner = getpid();
        atexit(remove_folder);
    }
    return folder;
}

const char *test_path(const char *format, ...) {
    static char buffers[16][1024];
    static int next;
    char *buffer = buffers[next++ % 16], name[700];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    snprintf(buffer, sizeof buffers[0], "%s/%s", test_folder(), name);
    return buffer;
}

char *test_program(const char *name) {
    const char *bin = getenv("MARS_BIN");
    char *path = format_string("%s/%s", bin ? bin : ".", name), *program = realpath(path, NULL);
    if (!program) die("%s is missing: build it, or name its folder in MARS_BIN", path);
    free(path);
    return program;
}

void test_write_file(const char *path, const void *data, size_t bytes) {
    FILE *file = fopen(path, "wb");
    if (!file) fail_msg("cannot write %s", path);
    if (fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0) fail_msg("cannot write %s", path);
}

void test_write_text(const char *path, const char *text) { test_write_file(path, text, strlen(text)); }

char *test_read_file(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) fail_msg("cannot read %s", path);
    fseek(file, 0, SEEK_END);
    long length = ftell(file);
    rewind(file);
    char *text = checked_malloc((size_t)length + 1, path);
    if (fread(text, 1, (size_t)length, file) != (size_t)length) fail_msg("cannot read %s", path);
    fclose(file);
    text[length] = 0;
    if (bytes) *bytes = (size_t)length;
    return text;
}

CommandResult *test_run(const char *format, ...) {
    static CommandResult result;
    char command[8192], with_errors[8300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    snprintf(with_errors, sizeof with_errors, "{ %s\n} 2>&1", command);
    FILE *pipe = popen(with_errors, "r");
    if (!pipe) fail_msg("cannot run: %s", command);
    size_t length = 0, got;
    char scrap[4096];
    while ((got = fread(scrap, 1, sizeof scrap, pipe)) > 0) {
        size_t room = sizeof result.output - 1 - length, take = got < room ? got : room;
        memcpy(result.output + length, scrap, take);
        length += take;
    }
    result.output[length] = 0;
    int status = pclose(pipe);
    result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return &result;
}

void test_skip_without_programs(void) {
    enum { CANNOT_START = 126 }; /* the shell's status */
    char *program = test_program("prepare_data");
    int status = test_run("'%s' --help", program)->status;
    free(program);
    if (status == CANNOT_START) skip();
}

void assert_run(const CommandResult *result, int status, const char *text) {
    if (result->status != status || !strstr(result->output, text))
        fail_msg("exit status %d, expected %d; output should hold '%s' and is:\n%s", result->status, status, text,
                 result->output);
}

void assert_parts(const char *text, const char *parts) {
    char *list = checked_strdup(parts), *rest = list;
    const char *at = text;
    for (char *part; (part = strsep(&rest, "|"));) {
        const char *found = strstr(at, part);
        if (!found) fail_msg("'%s' is not in its place in: %s", part, text);
        at = found + strlen(part);
    }
    free(list);
}

void assert_four_parts(const char *message, const char *parts) {
    int separators = 0;
    for (const char *at = parts; *at; at++) separators += *at == '|';
    if (separators != 3) fail_msg("these are not four parts: %s", parts);
    assert_parts(message, parts);
}

void assert_dies(void (*function)(void *context), void *context, const char *text) {
    const char *path = test_path("message.txt");
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (freopen(path, "w", stderr)) function(context);
        _exit(EXIT_DONE); /* not exit(): the parent does what must happen when the tests end */
    }
    int wait_status = 0;
    if (child < 0 || waitpid(child, &wait_status, 0) != child) fail_msg("cannot start a child process");
    char *message = test_read_file(path, NULL);
    bool died = WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == EXIT_FAILED;
    if (!died || !strstr(message, text)) fail_msg("should end with the message '%s'; it said: %s", text, message);
    free(message);
}

double relative_error(const double *a, const double *b, size_t n) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    if (isnan(difference) || isnan(norm)) return INFINITY;
    return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}

double relative_error_float(const float *a, const float *b, size_t n) {
    double *wide = checked_malloc(2 * n * sizeof *wide, "a comparison");
    for (size_t i = 0; i < n; i++) wide[i] = a[i], wide[n + i] = b[i];
    double error = relative_error(wide, wide + n, n);
    free(wide);
    return error;
}

void assert_error_below(double error, double limit, const char *what) {
    if (!(error <= limit)) fail_msg("%s: relative error %.3g, allowed %.3g", what, error, limit);
}
