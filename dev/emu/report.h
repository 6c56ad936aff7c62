/* report.h: how the emulator says that it found a fault: one line on standard error, then the end of the program. */
#ifndef MARS_EMU_REPORT_H
#define MARS_EMU_REPORT_H
#ifdef __cplusplus

namespace emu {

/* A place in a source file. As the default argument `Site site = EMU_SITE` it is the place of the call. */
struct Site {
    const char *file;
    int line;
};
#define EMU_SITE \
    { __builtin_FILE(), __builtin_LINE() }

inline bool is_same(Site a, Site b) {
    return a.line == b.line && (a.file == b.file || !__builtin_strcmp(a.file, b.file));
}

/* Prints "emulator: MESSAGE at FILE:LINE, block (x,y,z), thread (x,y,z)", without the last two where no kernel runs.
 * note() returns, report() aborts unless MARS_EMU_KEEP_GOING=1, fatal() aborts. */
void note(Site site, const char *format, ...) __attribute__((format(printf, 2, 3)));
void report(Site site, const char *format, ...) __attribute__((format(printf, 2, 3)));
[[noreturn]] void fatal(Site site, const char *format, ...) __attribute__((format(printf, 2, 3)));

} // namespace emu

#endif
#endif
