# Makefile: builds train_gpt2, prepare_data and sample_gpt2 with whatever this machine has, and says what it found.
#
#   make                 the programs
#   make test            the tests (scripts/test.sh also installs what is missing and runs the sanitizers)
#   make bench           speed of the 124M model on this machine, and of every optimizer on its parameters
#   make lint            clang-format, cppcheck, clang-tidy, shellcheck
#   make libmarsopt.a    the optimizers as a library; make marsopt-flags says how to link it, make examples shows its use
#   make clean
#
# Options: MPI=0 and ONEDNN=0 build without these libraries, WERROR=1 makes warnings errors,
# SANITIZE=address,undefined (or thread) instruments, ARCH=x86-64-v3 builds for other machines than this one.
# A build with other options wants folders of its own: make BUILD=build/asan BIN=build/asan SANITIZE=address,undefined

CC ?= gcc
BUILD ?= build
BIN ?= .
ARCH ?= native
OPTIMIZE ?= -O3
WERROR ?= 0
SANITIZE ?=

# Commands are shown in short; V=1 shows them whole.
quiet = $(if $(filter 1,$(V)),,@echo '  $(1)  $(if $(filter LINK,$(1)),$@,$<)'; )

# ---- what this machine has ----
# works CODE,FLAGS: yes where a program of these lines compiles and links.
works = $(shell printf '%b\nint main(void) { return 0; }\n' '$(1)' | $(CC) -x c - $(CPPFLAGS) $(LDFLAGS) -o /dev/null $(2) 2>/dev/null && echo yes)
hash := \#
has_onednn := $(if $(filter 0,$(ONEDNN)),,$(call works,$(hash)include <oneapi/dnnl/dnnl.h>,-ldnnl))
has_mpi := $(if $(filter 0,$(MPI)),,$(shell command -v mpicc >/dev/null 2>&1 && printf '$(hash)include <mpi.h>\nint main(void){return 0;}\n' | mpicc -x c - -o /dev/null 2>/dev/null && echo yes))
has_cjson := $(call works,$(hash)include <cjson/cJSON.h>,-lcjson)
has_xxhash := $(call works,$(hash)include <xxhash.h>)
has_wide_vectors := $(shell $(CC) -march=$(ARCH) -mprefer-vector-width=512 -E -x c /dev/null >/dev/null 2>&1 && echo yes)
has_nvcc := $(shell command -v nvcc 2>/dev/null)
has_nccl := $(call works,$(hash)include <nccl.h>,-I$(or $(CUDA_HOME),/usr/local/cuda)/include)

# ---- flags ----
# -fno-math-errno and -fno-trapping-math let loops with square roots and roundings vectorise; neither changes a result.
CFLAGS_ALL = -std=gnu17 $(OPTIMIZE) -march=$(ARCH) $(if $(has_wide_vectors),-mprefer-vector-width=512) -fno-math-errno \
             -fno-trapping-math -g -fopenmp -pthread -Wall -Wextra $(if $(filter 1,$(WERROR)),-Werror) \
             $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=all -Wno-format-truncation) \
             -D_GNU_SOURCE -I. -MMD -MP $(CPPFLAGS) $(CFLAGS)
LINK = $(if $(has_mpi),OMPI_CC="$(CC)" MPICH_CC="$(CC)" mpicc,$(CC))
LIBRARIES = -fopenmp -pthread $(if $(has_onednn),-ldnnl) -lcjson -lm \
            $(if $(SANITIZE),-fsanitize=$(SANITIZE)) $(LDFLAGS)

# ---- sources ----
programs = train_gpt2 prepare_data sample_gpt2
typed = $(wildcard kernels/cpu/embedding.c kernels/cpu/layernorm.c kernels/cpu/linear.c kernels/cpu/attention.c kernels/cpu/loss.c)
plain = $(filter-out data/prepare_data.c model/sample_gpt2.c, \
          $(wildcard util/*.c kernels/*.c optim/*.c data/*.c config/*.c model/*.c report/*.c)) \
        kernels/cpu/cpu_backend.c kernels/cpu/huge_memory.c kernels/cpu/product.c kernels/cpu/transpose.c \
        kernels/cpu/matmul_$(if $(has_onednn),onednn,plain).c \
        comm/comm.c comm/single.c comm/$(if $(has_mpi),mpi,no_mpi).c
objects = $(plain:%.c=$(BUILD)/%.o) $(typed:%.c=$(BUILD)/%.float32.o) $(typed:%.c=$(BUILD)/%.bfloat16.o)
library = $(BUILD)/libmars.a
# libmarsopt.a: the optimizers for one process on a CPU, whose table of operations brings GPT-2's with it.
marsopt = $(BIN)/libmarsopt.a
marsopt_sources = $(wildcard optim/*.c) $(filter kernels/cpu/%,$(plain)) kernels/backend.c comm/single.c \
                  util/base.c util/tensor_table.c
marsopt_objects = $(marsopt_sources:%.c=$(BUILD)/%.o) $(filter %.float32.o %.bfloat16.o,$(objects))
marsopt_libraries = $(if $(has_onednn),-ldnnl) -lm -fopenmp $(if $(SANITIZE),-fsanitize=$(SANITIZE)) $(LDFLAGS)
marsopt_flags = $(strip -I$(CURDIR) $(abspath $(marsopt)) $(marsopt_libraries))
examples = $(patsubst dev/examples/%.c,$(BUILD)/examples/%,$(wildcard dev/examples/*.c))
tests = $(patsubst dev/test/%.c,$(BUILD)/test/%,$(wildcard dev/test/test_*.c))
test_support = $(patsubst %.c,$(BUILD)/%.o,$(filter-out dev/test/test_%.c dev/test/fault_injection.c,$(wildcard dev/test/*.c)))

.PHONY: all programs tests examples marsopt-flags test bench lint clean found
.DELETE_ON_ERROR:
.SECONDARY:

all: found programs $(marsopt)
programs: $(programs:%=$(BIN)/%)
tests: $(tests) $(BUILD)/test/fault_injection.so examples
examples: $(examples) $(marsopt)

found:
	@$(if $(has_cjson),:,echo "cJSON is missing: install libcjson-dev, or run bash scripts/install_deps.sh" >&2; exit 1)
	@$(if $(has_xxhash),:,echo "xxHash is missing: install libxxhash-dev, or run bash scripts/install_deps.sh" >&2; exit 1)
	@echo "compiler   $(shell $(CC) --version | head -n 1), -march=$(ARCH)$(if $(SANITIZE), with -fsanitize=$(SANITIZE))"
	@echo "oneDNN     $(if $(has_onednn),found,not found: matrix products by plain loops, float32 slow and bfloat16 slower (libdnnl-dev))"
	@echo "MPI        $(if $(has_mpi),found,not found: one process (libopenmpi-dev openmpi-bin))"
	@echo "nvcc       $(if $(has_nvcc),found; ,not found; )this version trains on the CPU"
	@echo "NCCL       $(if $(has_nccl),found,not found)$(if $(has_nccl),; used only with a GPU)"

# ---- rules ----
$(BIN)/train_gpt2: $(BUILD)/train_gpt2.o $(library)
$(BIN)/prepare_data: $(BUILD)/data/prepare_data.o $(library)
$(BIN)/sample_gpt2: $(BUILD)/model/sample_gpt2.o $(library)
$(programs:%=$(BIN)/%):
	@mkdir -p $(@D)
	$(call quiet,LINK)$(LINK) -o $@ $^ $(LIBRARIES)

# An archive is made anew, so that an object whose source is gone does not stay in it.
$(library): $(objects)
$(marsopt): $(marsopt_objects)
$(library) $(marsopt):
	@mkdir -p $(@D)
	@rm -f $@
	@$(AR) rcs $@ $^

marsopt-flags:
	@echo '$(marsopt_flags)'

# The one source that is both C and C++; without CUDA kernels it is compiled as C.
$(BUILD)/train_gpt2.o: train_gpt2.cu
	@mkdir -p $(@D)
	$(call quiet,CC)$(CC) -x c $(CFLAGS_ALL) -c $< -o $@

$(BUILD)/%.float32.o: %.c
	@mkdir -p $(@D)
	$(call quiet,CC)$(CC) $(CFLAGS_ALL) -DACTIVATION_BFLOAT16=0 -c $< -o $@

$(BUILD)/%.bfloat16.o: %.c
	@mkdir -p $(@D)
	$(call quiet,CC)$(CC) $(CFLAGS_ALL) -DACTIVATION_BFLOAT16=1 -c $< -o $@

$(BUILD)/comm/mpi.o: comm/mpi.c
	@mkdir -p $(@D)
	$(call quiet,CC)$(LINK) $(CFLAGS_ALL) -c $< -o $@

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(call quiet,CC)$(CC) $(CFLAGS_ALL) -c $< -o $@

$(BUILD)/test/%: $(BUILD)/dev/test/%.o $(test_support) $(library)
	@mkdir -p $(@D)
	$(call quiet,LINK)$(LINK) -o $@ $^ -lcmocka $(LIBRARIES)

# The test links programs by the same line as strangers.
$(BUILD)/dev/test/test_example.o: CFLAGS_ALL += -DMARSOPT_FLAGS='"$(marsopt_flags)"'

$(BUILD)/examples/%: $(BUILD)/dev/examples/%.o $(marsopt)
	@mkdir -p $(@D)
	$(call quiet,LINK)$(CC) -o $@ $^ $(marsopt_libraries)

$(BUILD)/test/fault_injection.so: dev/test/fault_injection.c
	@mkdir -p $(@D)
	$(call quiet,CC)$(CC) -std=gnu17 -O2 -Wall -Wextra -Werror -I. -shared -fPIC -o $@ $< -ldl

$(BUILD)/bench_%: $(BUILD)/dev/bench/bench_%.o $(BUILD)/dev/bench/measure.o $(BUILD)/dev/bench/timed_backend.o $(library)
	$(call quiet,LINK)$(LINK) -o $@ $^ $(LIBRARIES)

# Sources of the table of found libraries must come before the compiler complains about them.
$(objects): | found

# ---- checks ----
test: programs tests
	@BUILD=$(BUILD) BIN=$(BIN) bash dev/test/run_tests.sh $(tests)

bench: found $(BUILD)/bench_train $(BUILD)/bench_optim
	$(BUILD)/bench_train --json=$(BUILD)/bench_train.json
	$(BUILD)/bench_optim --json=$(BUILD)/bench_optim.json
	@echo "the same as JSON: $(BUILD)/bench_train.json, $(BUILD)/bench_optim.json"

sources = $(wildcard *.cu *.h */*.c */*.h */*.cu kernels/*/*.c kernels/*/*.h dev/*/*.c dev/*/*.h)
tidy_sources = $(filter-out comm/mpi.c dev/test/%,$(filter %.c,$(sources)))
lint:
	clang-format --dry-run --Werror $(sources)
	cppcheck --quiet --std=c11 --enable=warning,performance,portability --error-exitcode=1 --inline-suppr \
	  --suppress=missingIncludeSystem --suppressions-list=dev/lint/cppcheck.txt -I. -DACTIVATION_BFLOAT16=1 \
	  -j$$(nproc) $(filter %.c,$(sources))
	printf '%s\n' $(tidy_sources) | xargs -P$$(nproc) -n4 sh -c 'clang-tidy --quiet --warnings-as-errors="*" "$$@" -- \
	  -std=gnu17 -D_GNU_SOURCE -I. -DACTIVATION_BFLOAT16=1 -fopenmp 2>/dev/null' clang-tidy
	shellcheck scripts/*.sh dev/*/*.sh .ci/run

clean:
	rm -rf $(BUILD) $(programs:%=$(BIN)/%) $(marsopt)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
