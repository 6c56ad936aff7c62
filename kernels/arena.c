/* arena.c: one allocation for a list of buffers (see arena.h). */
#include "kernels/arena.h"

#include <stdlib.h>
#include <string.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

/* Buffers begin at multiples of this, with at least one such unit between them that belongs to nobody. */
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

/* The bytes between an item and the next; none where they are a GPU's own, which this checker does not watch. */
typedef struct Gap {
    char *begin;
    size_t bytes;
} Gap;

static Gap gap_behind(const Arena *arena, const Backend *be, int i) {
#ifndef MARS_EMULATOR
    if (be->on_gpu) return (Gap){NULL, 0};
#endif
    (void)be;
    const ArenaItem *item = &arena->items[i];
    size_t end = i + 1 < arena->count ? arena->items[i + 1].offset : arena->bytes;
    return (Gap){(char *)item->address + item->bytes, end - item->offset - item->bytes};
}

void arena_allocate(Arena *arena, Backend *be) {
    if (!arena->separate) arena->memory = be->alloc(be, arena->bytes, "weights, gradients, activations and states");
    be->synchronize(be); /* the memory has been zeroed: gaps may be closed */
    for (int i = 0; i < arena->count; i++) {
        ArenaItem *item = &arena->items[i];
        item->address = arena->separate ? be->alloc(be, item->bytes, item->name) : (char *)arena->memory + item->offset;
        memcpy(item->pointer, &item->address, sizeof item->address);
        if (arena->separate) continue;
        Gap gap = gap_behind(arena, be, i);
        ASAN_POISON_MEMORY_REGION(gap.begin, gap.bytes);
    }
}

size_t arena_group_bytes(const Arena *arena, const char *group) {
    size_t bytes = 0;
    for (int i = 0; i < arena->count; i++)
        if (strcmp(arena->items[i].group, group) == 0) bytes += arena->items[i].bytes;
    return bytes;
}

void arena_free(Arena *arena, Backend *be) {
    for (int i = 0; i < arena->count; i++) {
        Gap gap = arena->memory ? gap_behind(arena, be, i) : (Gap){NULL, 0};
        ASAN_UNPOISON_MEMORY_REGION(gap.begin, gap.bytes);
        if (arena->separate && arena->items[i].address) be->free(be, arena->items[i].address);
    }
    if (arena->memory) be->free(be, arena->memory);
    free(arena->items);
    memset(arena, 0, sizeof *arena);
}
