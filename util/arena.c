/* arena.c: one allocation for a list of buffers (see arena.h). */
#include "util/arena.h"

#include <stdlib.h>
#include <string.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

/* Buffers begin at multiples of this, with an unused gap of at least this size between them. */
enum { ARENA_ALIGNMENT = 4096 };

void arena_plan(Arena *arena, const char *group, const char *name, size_t bytes, void *pointer) {
    if (arena->count == arena->capacity) {
        arena->capacity = arena->capacity ? 2 * arena->capacity : 64;
        arena->items = checked_realloc(arena->items, (size_t)arena->capacity * sizeof *arena->items, "the memory plan");
    }
    arena->items[arena->count++] = (ArenaItem){group, name, bytes, arena->bytes, pointer, NULL};
    size_t sum;
    bool overflows = __builtin_add_overflow(arena->bytes, bytes + 2 * (size_t)ARENA_ALIGNMENT - 1, &sum);
    arena->bytes =
        overflows || bytes > ARENA_MAX || sum > ARENA_MAX ? ARENA_MAX : sum / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
}

/* The bytes between an item and the next; none in a GPU's memory, which AddressSanitizer does not watch. */
typedef struct Gap {
    char *begin;
    size_t bytes;
} Gap;

static Gap gap_after(const Arena *arena, int i) {
    if (!arena->memory.is_host || arena->separate) return (Gap){NULL, 0};
    const ArenaItem *item = &arena->items[i];
    size_t end = i + 1 < arena->count ? arena->items[i + 1].offset : arena->bytes;
    return (Gap){(char *)item->address + item->bytes, end - item->offset - item->bytes};
}

void arena_allocate(Arena *arena, ArenaMemory memory) {
    arena->memory = memory;
    if (!arena->separate)
        arena->block = memory.alloc(memory.context, arena->bytes, "weights, gradients, activations and states");
    for (int i = 0; i < arena->count; i++) {
        ArenaItem *item = &arena->items[i];
        item->address = arena->separate ? memory.alloc(memory.context, item->bytes, item->name)
                                        : (char *)arena->block + item->offset;
        memcpy(item->pointer, &item->address, sizeof item->address);
        Gap gap = gap_after(arena, i);
        ASAN_POISON_MEMORY_REGION(gap.begin, gap.bytes);
    }
}

size_t arena_group_bytes(const Arena *arena, const char *group) {
    size_t bytes = 0;
    for (int i = 0; i < arena->count; i++)
        if (strcmp(arena->items[i].group, group) == 0) bytes += arena->items[i].bytes;
    return bytes;
}

void arena_free(Arena *arena) {
    const ArenaMemory *memory = &arena->memory;
    for (int i = 0; i < arena->count; i++) {
        ArenaItem *item = &arena->items[i];
        if (!item->address) continue; /* planned, not allocated */
        Gap gap = gap_after(arena, i);
        ASAN_UNPOISON_MEMORY_REGION(gap.begin, gap.bytes);
        if (arena->separate) memory->free(memory->context, item->address);
    }
    if (arena->block) memory->free(memory->context, arena->block);
    free(arena->items);
    memset(arena, 0, sizeof *arena);
}
