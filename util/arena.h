/* arena.h: plans the memory of a device or the host first, and then allocates it once.
 *
 * A module that needs memory adds an item to the plan: a group ("weights", "activations"), a name and the pointer that
 * will receive the address. One allocation then serves all items. The plan is known before anything is allocated, so it
 * can be shown and checked. One allocation hides overruns from checkers: so a build with AddressSanitizer poisons the
 * gaps, and with `separate` each item gets an allocation of its own, which compute-sanitizer can check. */
#ifndef MARS_UTIL_ARENA_H
#define MARS_UTIL_ARENA_H

#include "util/base.h"

EXTERN_C_BEGIN

typedef struct ArenaItem {
    const char *group, *name; /* not copied: string literals */
    size_t bytes, offset;
    void **pointer;
    void *address; /* once allocated */
} ArenaItem;

/* The allocator of an arena. */
typedef struct ArenaMemory {
    void *context;
    void *(*alloc)(void *context, size_t bytes, const char *what); /* zeroed; ends the program if there is not enough */
    void (*free)(void *context, void *memory);
    bool is_host; /* the host can read and write it, so AddressSanitizer watches it */
} ArenaMemory;

/* The limit of a plan's size: larger than any memory, and small enough to add to without overflow. */
#define ARENA_MAX (SIZE_MAX / 8)

typedef struct Arena {
    ArenaItem *items;
    int count, capacity;
    size_t bytes;  /* of the whole plan, at most ARENA_MAX */
    bool separate; /* set it before arena_allocate() */
    void *block;   /* NULL if separate */
    ArenaMemory memory;
} Arena;

/* Adds `bytes` to the plan; arena_allocate() will store their address in *pointer, which may be any pointer type. */
void arena_plan(Arena *arena, const char *group, const char *name, size_t bytes, void *pointer);

/* Allocates the memory, zeroed, and fills in all pointers. */
void arena_allocate(Arena *arena, ArenaMemory memory);

/* Bytes planned for a group. */
size_t arena_group_bytes(const Arena *arena, const char *group);

/* Frees the memory and empties the plan. */
void arena_free(Arena *arena);

EXTERN_C_END

#endif
