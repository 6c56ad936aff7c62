/* nvToolsExt.h: the ranges of NVTX, as far as the emulator has them: it writes a line "begin NAME" or "end" for each to
 * the file that MARS_EMU_RANGES names. */
#ifndef MARS_EMU_NVTOOLSEXT_H
#define MARS_EMU_NVTOOLSEXT_H

#ifdef __cplusplus
extern "C" {
#endif

int nvtxRangePushA(const char *name);
int nvtxRangePop(void);

#ifdef __cplusplus
}
#endif

#endif
