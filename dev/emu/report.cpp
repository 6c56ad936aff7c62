/* report.cpp: faults that the emulator finds, as one line each. */
#include "dev/emu/report.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "dev/emu/block.h"

namespace emu {

static void print(Site site, const char *format, va_list arguments) {
    char line[2048];
    size_t length = std::snprintf(line, sizeof line, "emulator: ");
    length += std::vsnprintf(line + length, sizeof line / 2, format, arguments);
    if (length > sizeof line / 2) length = sizeof line / 2;
    if (site.file) length += std::snprintf(line + length, sizeof line - length, " at %s:%d", site.file, site.line);
    if (const Thread *thread = running_thread())
        std::snprintf(line + length, sizeof line - length, ", block (%u,%u,%u), thread (%u,%u,%u)", blockIdx.x,
                      blockIdx.y, blockIdx.z, thread->index.x, thread->index.y, thread->index.z);
    std::fprintf(stderr, "%s\n", line);
}

void note(Site site, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print(site, format, arguments);
    va_end(arguments);
}

void report(Site site, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print(site, format, arguments);
    va_end(arguments);
    const char *keep_going = std::getenv("MARS_EMU_KEEP_GOING");
    if (!keep_going || std::strcmp(keep_going, "1") != 0) std::abort();
}

void fatal(Site site, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print(site, format, arguments);
    va_end(arguments);
    std::abort();
}

} // namespace emu
