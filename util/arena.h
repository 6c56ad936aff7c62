/* arena.h: memory that is planned first and taken once, a device's or the host's.
 *
 * Whoever needs memory lists it with a group ("weights", "activations"), a name and the pointer that will receive
 * it; one allocation then serves the whole list. The plan is known before anything is allocated, so it can be shown
 * and checked. One allocation hides overruns from checkers, so a build with AddressSanitizer poisons the gaps, and
 * `separate` takes an allocation for each item, which a GPU's checker can see. */
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

/* Where an arena takes its memory from. */
typedef struct ArenaMemory {
    void *context;
    void *(*alloc)(void *context, size_t bytes, const char *what); /* zeroed; ends the program if there is not enough */
    void (*free)(void *context, void *memory);
    bool is_host; /* the host can read and write it, so AddressSanitizer watches it */
} ArenaMemory;

/* A plan of this size or more is of this size: larger than any memory, and small enough to add to. */
#define ARENA_MAX (SIZE_MAX / 8)

typedef struct Arena {
    ArenaItem *items;
    int count, capacity;
    size_t bytes;  /* of the whole plan, at most ARENA_MAX */
    bool separate; /* to be set before arena_allocate() */
    void *block;   /* NULL where separate */
    ArenaMemory memory;
} Arena;

/* Adds `bytes` to the plan; arena_allocate() will store their address in *pointer, which may be any pointer type. */
void arena_plan(Arena *arena, const char *group, const char *name, size_t bytes, void *pointer);

/* Takes the memory, zeroed, and fills in all pointers. */
void arena_allocate(Arena *arena, ArenaMemory memory);

/* Bytes planned for a group. */
size_t arena_group_bytes(const Arena *arena, const char *group);

/* Gives the memory back and empties the plan. */
void arena_free(Arena *arena);

EXTERN_C_END

#endif
