/* error.h: the reason of a failure that a caller can do something about, and the macros that let one header compile
 * both as C and as C++. base.h includes it and fills errors; public headers (optim/optim.h) include nothing more of
 * base.h. */
#ifndef MARS_UTIL_ERROR_H
#define MARS_UTIL_ERROR_H

#ifdef __cplusplus
#define EXTERN_C_BEGIN extern "C" {
#define EXTERN_C_END }
#else
#define EXTERN_C_BEGIN
#define EXTERN_C_END
#endif

/* The reason why a function returned false, as a sentence for the user: what failed, where, what would be right. */
typedef struct Error {
    char text[1024];
} Error;

#endif
