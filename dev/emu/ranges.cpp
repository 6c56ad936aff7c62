/* ranges.cpp: the emulator's profiler: it writes down which ranges of NVTX begin and end. */
#include <nvtx3/nvToolsExt.h>

#include <cstdio>
#include <cstdlib>

static std::FILE *ranges_file() {
    static const char *path = std::getenv("MARS_EMU_RANGES");
    static std::FILE *file = path ? std::fopen(path, "w") : nullptr;
    return file;
}

int nvtxRangePushA(const char *name) { return ranges_file() ? std::fprintf(ranges_file(), "begin %s\n", name) : 0; }
int nvtxRangePop() { return ranges_file() ? std::fprintf(ranges_file(), "end\n") : 0; }
