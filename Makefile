# Makefile: builds train_gpt2, prepare_data, sample_gpt2 and export_hf with the libraries of this machine, and says what
# it found.
#
#   make                 the programs
#   make test            the tests (scripts/test.sh also installs what is missing and runs the sanitizers)
#   make bench           speed of the 124M model on this machine, and of every optimizer on its parameters
#   make bench-data      speed of GPT-2's tokenizer on English text, next to tiktoken if $(PYTHON) has it
#   make fuzz            programs that feed libFuzzer's inputs to every parser (dev/fuzz), under build/fuzz; dev/fuzz/run.sh
#   make lint            clang-format, cppcheck, clang-tidy, shellcheck
#   make emu             programs and tests whose GPU is emulated on the CPU (dev/emu), under build/emu
#   make cuda-report     registers and shared memory of every kernel on every architecture; fails if one spills
#   make libmarsopt.a libmarsopt.so   the optimizers as a library, static and shared; make marsopt-flags says how to link
#                        the static one, make examples shows its use
#   make clean
#
# Options: MPI=0, ONEDNN=0, UTF8PROC=0, ZLIB=0, ZSTD=0, LZMA=0, CUDA=0 and NCCL=0 build without these libraries, EMU=1
# with the emulator in the place of CUDA and NCCL; WERROR=1 makes warnings errors, SANITIZE=address,undefined (or
# thread) builds with sanitizers, ARCH=x86-64-v3 builds for other processors than this one, CUDA_ARCHS="80 90a" for
# these GPUs (default: the GPU of this machine, or all known).
# A build with other options wants folders of its own: make BUILD=build/asan BIN=build/asan SANITIZE=address,undefined

# ---- options ----
# make predefines CC and CXX, so ?= would never set them.
ifeq ($(origin CC),default)
CC = gcc
endif
ifeq ($(origin CXX),default)
CXX = g++
endif
BUILD ?= build
BIN ?= .
ARCH ?= native
OPTIMIZE ?= -O3
WERROR ?= 0
SANITIZE ?=
EMU ?= 0
PYTHON ?= python3

# An option that is given to make must have a value that is understood.
switches = MPI ONEDNN NCCL CUDA EMU WERROR UTF8PROC ZLIB ZSTD LZMA
is_given = $(filter command,$(firstword $(origin $(1))))
$(foreach option,$(switches),$(if $(call is_given,$(option)),$(if $(filter 0 1,$($(option))),,\
  $(error $(option)=$($(option)): expected 0 or 1))))
$(foreach option,BUILD BIN,$(if $(word 2,$($(option))),$(error $(option)=$($(option)): expected a path without blanks)))
$(foreach option,CC $(if $(filter 1,$(EMU)),CXX),$(if $(call is_given,$(option)),$(if $(shell command -v $(firstword $($(option)))),,\
  $(error $(option)=$($(option)): there is no program $(firstword $($(option)))))))

# make shows a short form of each command; V=1 shows the whole command.
quiet = $(if $(filter 1,$(V)),,@echo '  $(1)  $(if $(filter LINK,$(1)),$@,$<)'; )

# ---- what this machine has ----
hash := \#
comma := ,
space := $(subst ,, )
includes = $(foreach header,$(1),$(hash)include <$(header)>\n)
# works COMPILER,HEADERS,FLAGS: yes if a program that includes these headers compiles and links.
works = $(shell printf '$(call includes,$(2))int main(void) { return 0; }\n' | \
          $(1) -x c - $(CPPFLAGS) $(LDFLAGS) -o /dev/null $(3) 2>/dev/null && echo yes)
# find OPTION,HEADERS,FLAGS: the same for the C compiler, unless OPTION is 0.
find = $(if $(filter 0,$($(1))),,$(call works,$(CC),$(2),$(3)))
# accepts FLAG: the flag itself, if the C compiler knows it.
accepts = $(shell $(CC) -march=$(ARCH) $(1) -E -x c /dev/null >/dev/null 2>&1 && echo $(1))

has_cjson := $(call works,$(CC),cjson/cJSON.h,-lcjson)
has_xxhash := $(call works,$(CC),xxhash.h)
has_openmp := $(call works,$(CC),omp.h,-fopenmp)
has_onednn := $(call find,ONEDNN,oneapi/dnnl/dnnl.h,-ldnnl)
has_utf8proc := $(call find,UTF8PROC,utf8proc.h,-lutf8proc)
has_zlib := $(call find,ZLIB,zlib.h,-lz)
has_zstd := $(call find,ZSTD,zstd.h,-lzstd)
has_lzma := $(call find,LZMA,lzma.h,-llzma)
machine := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))

# Open MPI and MPICH read the compiler's name from different variables.
MPICC = OMPI_CC="$(CC)" MPICH_CC="$(CC)" mpicc
MPICXX = OMPI_CXX="$(CXX)" MPICH_CXX="$(CXX)" mpicxx
ifneq ($(strip $(MPI)),0)
has_mpi := $(call works,$(MPICC),mpi.h)
endif

# How the CUDA sources are built: by nvcc for GPUs, for the emulator (emu), or not at all.
ifeq ($(strip $(EMU)),1)
cuda = emu
else ifneq ($(strip $(CUDA)),0)
nvcc := $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
cuda := $(if $(nvcc),nvcc)
endif

ifeq ($(cuda),nvcc)
CUDA_HOME ?= $(patsubst %/bin/,%,$(dir $(realpath $(nvcc))))
cuda_include = -isystem $(CUDA_HOME)/include
cuda_libraries = $(addprefix -L,$(wildcard $(CUDA_HOME)/lib64 $(CUDA_HOME)/lib)) -Wl,-rpath,$(CUDA_HOME)/lib64
nvcc_release = $(shell $(nvcc) --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
gpu_arch := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
else ifeq ($(cuda),emu)
cuda_include = -Idev/emu/include
endif
CUDA_ARCHS ?= $(or $(patsubst 90,90a,$(gpu_arch)),80 90a 100)

# NCCL needs MPI to start; the emulator has an NCCL of its own.
ifneq ($(strip $(NCCL)),0)
ifeq ($(cuda)$(has_mpi),nvccyes)
has_nccl := $(call works,$(CC),nccl.h,$(cuda_include) $(cuda_libraries) -lnccl)
else ifeq ($(cuda)$(has_mpi),emuyes)
has_nccl = yes
endif
endif

# ---- flags ----
warnings = -Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -Wmissing-prototypes -Wstrict-prototypes
werror = $(if $(filter 1,$(WERROR)),-Werror)
# The address sanitizer reports the use of a bad pointer, so UBSan leaves out its checks of null, size and overflow of
# pointers, which take long to compile.
sanitize = $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=all \
             $(if $(findstring address,$(SANITIZE)),-fno-sanitize=null$(comma)object-size$(comma)pointer-overflow))
debug = $(if $(SANITIZE),-g1,-g)
arch := $(if $(ARCH),-march=$(ARCH) $(call accepts,-mprefer-vector-width=512))
# -fno-math-errno and -fno-trapping-math let loops with square roots and roundings vectorise; neither changes a result.
optimize = $(OPTIMIZE)
# One object serves the programs and libmarsopt.so. The compiler would not inline a function that a program may replace;
# -fno-semantic-interposition says that no program does.
pic = -fPIC -fno-semantic-interposition
CFLAGS_ALL = -std=gnu17 $(optimize) $(arch) -fno-math-errno -fno-trapping-math $(pic) $(debug) -fopenmp -pthread \
             $(warnings) $(werror) $(sanitize) $(if $(SANITIZE),-Wno-format-truncation) $(if $(filter emu,$(cuda)),-DMARS_EMULATOR=1) \
             -D_GNU_SOURCE -I. -MMD -MP $(CPPFLAGS) $(CFLAGS)
LINK = $(if $(has_mpi),$(MPICC),$(CC))
# nvcc reports the registers and memory of each kernel; -warn-spills with -Werror makes a spill an error.
NVCC_FLAGS = -std=c++17 -O3 -I. -D_GNU_SOURCE $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
             -Xcompiler -Wall,-Wextra,-Wno-unused-parameter -Xptxas -v,-warn-spills \
             $(if $(filter 1,$(WERROR)),-Werror all-warnings) $(CPPFLAGS) $(NVCCFLAGS)
# The emulator's headers carry the names of CUDA's; the sources in $(BUILD)/emu_src are rewritten to be C++. -O3 takes twice
# as long to compile them as -O2.
CXXFLAGS_EMU = -std=gnu++17 $(OPTIMIZE:-O3=-O2) $(addprefix -march=,$(ARCH)) $(debug) -pthread -fno-strict-aliasing -ffp-contract=off \
               -Wall -Wextra -Wno-unused-parameter -Wno-unknown-pragmas $(werror) -DMARS_EMULATOR=1 -D_GNU_SOURCE \
               -Idev/emu/include -I$(BUILD)/emu_src -I. -MMD -MP $(CPPFLAGS)
unpack_flags = $(if $(has_zlib),-DMARS_HAS_ZLIB=1) $(if $(has_zstd),-DMARS_HAS_ZSTD=1) $(if $(has_lzma),-DMARS_HAS_LZMA=1)
unpack_libraries = $(if $(has_zlib),-lz) $(if $(has_zstd),-lzstd) $(if $(has_lzma),-llzma)
ifeq ($(cuda),nvcc)
device_libraries = $(cuda_libraries) $(if $(has_nccl),-lnccl) -lcudart_static -ldl -lrt -lstdc++
else ifeq ($(cuda),emu)
device_libraries = $(if $(filter x86_64,$(machine)),,-lboost_context) -ldl -lstdc++
endif
LIBRARIES = -fopenmp -pthread $(if $(has_onednn),-ldnnl) -lcjson $(if $(has_utf8proc),-lutf8proc) $(unpack_libraries) \
            $(device_libraries) -lm $(if $(SANITIZE),-fsanitize=$(SANITIZE)) $(LDFLAGS)

# ---- the options of the last build, in a file on which every object depends: other options make new objects ----
# WERROR=1 changes no object, and neither does another name of the same folder.
# The versions of libraries whose headers another version replaces in the same place.
options = $(BUILD)/options
versions := $(shell printf '$(if $(has_onednn),$(call includes,oneapi/dnnl/dnnl_version.h))$(if $(has_mpi),$(call includes,mpi.h))' | \
              $(if $(has_mpi),$(MPICC),$(CC)) -x c $(CPPFLAGS) -E -dM - 2>/dev/null | \
              sed -En 's/^.define ((DNNL_VERSION|OMPI)_[A-Z]+(_VERSION)?|MPICH_NUMVERSION) ([0-9]+)$$/\1=\4/p' | sort)
options_now := $(subst -I$(BUILD)/,-I,$(filter-out -Werror all-warnings,$(shell $(CC) --version | head -n 1) $(versions) $(CC) $(CXX) $(CFLAGS_ALL) \
                 $(CXXFLAGS_EMU) $(unpack_flags) $(if $(cuda),$(nvcc) $(NVCC_FLAGS) $(cuda_include)) $(LINK) $(LIBRARIES)))

# ---- sources ----
programs = train_gpt2 prepare_data sample_gpt2 export_hf
typed = $(wildcard $(addprefix kernels/cpu/,embedding.c norm.c linear.c qk_norm_rope.c dropout.c attention.c loss.c))
cpu_plain = kernels/cpu/cpu_backend.c kernels/cpu/huge_memory.c kernels/cpu/matmul_batched.c kernels/cpu/transpose.c kernels/cpu/widen.c \
            kernels/cpu/matmul_$(if $(has_onednn),onednn,plain).c
plain = $(filter-out data/prepare/prepare_data.c model/sample_gpt2.c checkpoint/export_hf.c %/no_cuda.c data/tokenizer/char_class_%.c, \
          $(wildcard util/*.c kernels/*.c optim/*.c data/*.c data/*/*.c config/*.c model/*.c checkpoint/*.c \
          eval/*.c report/*.c)) $(cpu_plain) \
        data/tokenizer/char_class_$(if $(has_utf8proc),utf8proc,none).c \
        comm/comm.c comm/agree.c comm/single.c $(if $(has_mpi),comm/mpi.c comm/heartbeat.c,comm/no_mpi.c) \
        comm/$(if $(has_nccl),nccl,no_nccl).c
# Tests are compiled with less optimisation, which is faster, but the reference loops in float64 are optimised and not
# sanitized: they take most of the tests' time, and are not what is tested.
reference_objects = $(addprefix $(BUILD)/dev/test/,kernels/reference.o kernels/kernel_fixture.o kernels/test_kernels_matmul.o \
                      model/reference_gpt2.o optim/optim_world.o optim/test_newton_schulz.o)
$(BUILD)/dev/test/%.o: optimize = -O1
$(reference_objects): optimize = -O3
$(reference_objects): sanitize =
# The sources that need CUDA's headers: kernels (.cu), and host code around its libraries. The emulator has its own
# cuBLASLt.
cuda_host = $(filter-out $(if $(filter emu,$(cuda)),%/load_cublaslt.c),$(wildcard kernels/cuda/*.c)) comm/nccl.c
device_sources = $(wildcard optim/*.cu kernels/cuda/*.cu)
emulator = $(filter-out $(if $(has_nccl),,dev/emu/nccl.cpp),$(wildcard dev/emu/*.cpp))
device_objects = $(if $(cuda),$(device_sources:%=$(BUILD)/%.o) $(patsubst %.c,$(BUILD)/%.o,$(filter kernels/%,$(cuda_host))), \
                   $(patsubst %.c,$(BUILD)/%.o,$(wildcard kernels/no_cuda.c optim/no_cuda.c))) \
                 $(if $(filter emu,$(cuda)),$(emulator:%.cpp=$(BUILD)/%.o))
cpu_objects = $(typed:%.c=$(BUILD)/%.float32.o) $(typed:%.c=$(BUILD)/%.bfloat16.o)
# The programs contain, as text, the Python file that they write into checkpoints of some models.
texts = $(BUILD)/checkpoint/modeling_mars_gpt.o
# Sources that take long to compile come first, so that `make -j` ends sooner.
objects = $(device_objects) $(plain:%.c=$(BUILD)/%.o) $(cpu_objects) $(texts)
library = $(BUILD)/libmars.a
mpi_objects = $(patsubst %.c,$(BUILD)/%.o,comm/mpi.c comm/heartbeat.c)
# The optimizers for one process on a CPU. They need the CPU backend's table, which also links GPT-2's operations. The
# archive and the shared library hold one object, whose only global symbols are the functions and the table of
# optim/optim.h.
marsopt = $(BIN)/libmarsopt.a $(BIN)/libmarsopt.so
OBJCOPY ?= $(shell $(CC) -print-prog-name=objcopy)
marsopt_sources = $(filter-out kernels/autotune.c,$(wildcard optim/*.c kernels/*.c)) $(cpu_plain) comm/single.c \
                  $(addprefix util/,arena.c base.c machine_memory.c partition.c tensor_table.c)
marsopt_objects = $(marsopt_sources:%.c=$(BUILD)/%.o) $(cpu_objects)
marsopt_libraries = $(if $(has_onednn),-ldnnl) -lm -fopenmp $(if $(SANITIZE),-fsanitize=$(SANITIZE)) $(LDFLAGS)
marsopt_flags = $(strip -I$(CURDIR) $(abspath $(BIN)/libmarsopt.a) $(marsopt_libraries))
benches = $(patsubst dev/bench/%.c,$(BUILD)/%,$(wildcard dev/bench/bench_*.c))
examples = $(patsubst dev/examples/%.c,$(BUILD)/examples/%,$(wildcard dev/examples/*.c))
# A test program is made of one source, in any folder, and the code that all tests share. All test programs go into one
# folder.
test_sources = $(wildcard dev/test/*/test_*.c dev/fuzz/test_*.c $(if $(cuda),dev/test/*/test_*.cu) \
                 $(if $(filter emu,$(cuda)),dev/emu/test_*.cu))
test_objects = $(patsubst %.c,$(BUILD)/%.o,$(test_sources:%.cu=$(BUILD)/%.cu.o))
tests = $(addprefix $(BUILD)/test/,$(basename $(notdir $(test_sources))))
test_object = $(filter %/$(1).o %/$(1).cu.o,$(test_objects))
# Fuzz targets and the code that they call. Clang, which has libFuzzer, compiles them for `make fuzz`; one test links
# them, too.
FUZZ_CC ?= clang
fuzz_targets = $(patsubst dev/fuzz/%.c,%,$(wildcard dev/fuzz/fuzz_*.c))
fuzz_support = dev/fuzz/fuzz.c dev/fuzz/small_vocabulary.c
fuzz_sources = $(filter util/% config/% data/%,$(plain)) model/gpt2_config.c optim/optimizers.c optim/optimizer_keys.c \
               checkpoint/weights_format.c $(addprefix checkpoint/checkpoint_,read.c layout.c weights.c config.c)
fuzz_objects = $(patsubst %.c,$(BUILD)/fuzz/%.o,$(fuzz_sources) $(fuzz_support))
fuzz_sanitizers = address,undefined
fuzz_flags = -std=gnu17 -O1 -march=$(ARCH) -g -fno-omit-frame-pointer -fno-sanitize-recover=all $(warnings) -Wno-psabi \
             $(werror) -D_GNU_SOURCE $(unpack_flags) -I. $(CPPFLAGS)
# Libraries that tests preload before a program's own, or load instead of them.
test_libraries = dev/test/fault_injection.c dev/test/kernels/fake_nvml.c
test_support = $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(test_sources) $(test_libraries), \
                 $(wildcard dev/test/*.c dev/test/*/*.c)))
# Tests of kernels link kernels/, util/ and dev/emu/ alone, which shows that these need nothing else.
kernel_tests = test_kernels% test_emulator test_faults
kernel_support = $(filter $(patsubst %.c,$(BUILD)/%.o,$(wildcard dev/test/*.c dev/test/kernels/*.c)),$(test_support))
kernel_library = $(BUILD)/libkernels.a
test_links = $(if $(filter $(kernel_tests),$(1)),$(kernel_support) $(kernel_library),$(test_support) $(library))

.PHONY: all programs tests examples marsopt-flags test bench bench-data fuzz lint clean found emu cuda-report FORCE
.DELETE_ON_ERROR:
.SECONDARY:

all: found programs $(marsopt)
programs: $(programs:%=$(BIN)/%)
tests: $(tests) $(BUILD)/test/fault_injection.so examples $(benches)
examples: $(examples) $(marsopt)

found:
	@$(if $(has_cjson),:,echo "cJSON is missing: install libcjson-dev, or run bash scripts/install_deps.sh" >&2; exit 1)
	@$(if $(has_xxhash),:,echo "xxHash is missing: install libxxhash-dev, or run bash scripts/install_deps.sh" >&2; exit 1)
	@$(if $(has_openmp),:,echo "$(CC) -fopenmp does not work: install libgomp (GCC) or libomp-dev (Clang)" >&2; exit 1)
	@echo "compiler   $(shell $(CC) --version | head -n 1), -march=$(ARCH)$(if $(SANITIZE), with -fsanitize=$(SANITIZE))"
	@echo "oneDNN     $(if $(has_onednn),found,not found: matmuls by plain loops, float32 slow and bfloat16 slower (libdnnl-dev))"
	@echo "utf8proc   $(if $(has_utf8proc),found,not found: no gpt2 tokenizer (libutf8proc-dev))"
	@echo "unpacking  $(or $(strip $(if $(has_zlib),.gz) $(if $(has_zstd),.zst) $(if $(has_lzma),.xz)),nothing)$(if $(and $(has_zlib),$(has_zstd),$(has_lzma)),, (zlib1g-dev libzstd-dev liblzma-dev: .gz .zst .xz))"
	@echo "MPI        $(if $(has_mpi),found,not found: one process (libopenmpi-dev openmpi-bin))"
	@echo "CUDA       $(if $(filter emu,$(cuda)),emulated on the CPU,$(if $(cuda),$(nvcc_release) for sm_$(subst $(space),$(comma) sm_,$(strip $(CUDA_ARCHS))),not found: training on the CPU (CUDA Toolkit 12.8 or newer)))"
	@echo "NCCL       $(if $(has_nccl),$(if $(filter emu,$(cuda)),emulated over MPI,found),not found: one GPU (NCCL with its headers, and MPI))"

# ---- rules ----
# The file keeps its content and its time if the options have not changed.
$(options): FORCE
	$(shell mkdir -p $(@D))$(file >$@.now,$(options_now))
	@cmp -s $@.now $@ && rm $@.now || mv $@.now $@

$(BIN)/train_gpt2: $(BUILD)/train_gpt2.o $(library)
$(BIN)/prepare_data: $(BUILD)/data/prepare/prepare_data.o $(library)
$(BIN)/sample_gpt2: $(BUILD)/model/sample_gpt2.o $(library)
$(BIN)/export_hf: $(BUILD)/checkpoint/export_hf.o $(library)
$(programs:%=$(BIN)/%):
	@mkdir -p $(@D)
	$(call quiet,LINK)$(LINK) -o $@ $^ $(LIBRARIES)

# Makes the archive from scratch, so that an object whose source was removed does not stay in it.
$(library): $(objects)
$(kernel_library): $(filter $(addprefix $(BUILD)/,kernels/% util/% dev/emu/%),$(objects))
$(BIN)/libmarsopt.a: $(BUILD)/marsopt.o
$(library) $(kernel_library) $(BIN)/libmarsopt.a:
	@mkdir -p $(@D)
	@rm -f $@
	@$(AR) rcs $@ $^

$(BUILD)/marsopt.o: $(marsopt_objects) Makefile
	@$(CC) -r -nostdlib -o $@ $(marsopt_objects)
	@$(OBJCOPY) --wildcard --keep-global-symbol='optim_*' $@

$(BIN)/libmarsopt.so: $(BUILD)/marsopt.o
	@mkdir -p $(@D)
	$(call quiet,LINK)$(CC) -shared -Wl,-soname,$(@F) -o $@ $^ $(marsopt_libraries)

marsopt-flags:
	@echo '$(marsopt_flags)'

# The one source that is both C and C++; without CUDA kernels it is compiled as C.
$(BUILD)/train_gpt2.o: train_gpt2.cu $(options)
	@mkdir -p $(@D)
	$(call quiet,CC)$(CC) -x c $(CFLAGS_ALL) -c $< -o $@

$(BUILD)/%.float32.o: %.c $(options)
	@mkdir -p $(@D)
	$(call quiet,CC)$(CC) $(CFLAGS_ALL) -DACTIVATION_BFLOAT16=0 -c $< -o $@

$(BUILD)/%.bfloat16.o: %.c $(options)
	@mkdir -p $(@D)
	$(call quiet,CC)$(CC) $(CFLAGS_ALL) -DACTIVATION_BFLOAT16=1 -c $< -o $@

$(mpi_objects): $(BUILD)/%.o: %.c $(options)
	@mkdir -p $(@D)
	$(call quiet,CC)$(LINK) $(CFLAGS_ALL) -c $< -o $@

$(cuda_host:%.c=$(BUILD)/%.o): CFLAGS_ALL += $(cuda_include)
$(BUILD)/data/prepare/unpack.o $(BUILD)/dev/test/data/test_documents.o: CFLAGS_ALL += $(unpack_flags)

# A text as a C source: one string literal for each line.
$(texts:%.o=%.c): $(BUILD)/checkpoint/%.c: checkpoint/%.py Makefile
	@mkdir -p $(@D)
	@{ echo 'const char checkpoint_modeling[] ='; sed 's/[\\"]/\\&/g; s/.*/    "&\\n"/' $<; echo '    ;'; } >$@

$(texts): %.o: %.c $(options)
	$(call quiet,CC)$(CC) $(CFLAGS_ALL) -c $< -o $@

# ---- device code: built by nvcc, with its report on each kernel next to the object; or rewritten for the emulator ----
ifeq ($(cuda),nvcc)
$(BUILD)/%.cu.o: %.cu $(options)
	@mkdir -p $(@D)
	$(call quiet,NVCC)$(nvcc) $(NVCC_FLAGS) -MMD -MP -MF $(@:.o=.d) -c $< -o $@ >$(@:.o=.ptxas) 2>&1 || { cat $(@:.o=.ptxas); exit 1; }
else
emu_headers = $(patsubst %,$(BUILD)/emu_src/%,$(filter-out %/ptx.cuh,$(wildcard kernels/cuda/*.cuh optim/*.cuh)))

$(BUILD)/emu_src/%: % dev/emu/rewrite.py
	@mkdir -p $(@D)
	@$(PYTHON) dev/emu/rewrite.py $< $@

$(BUILD)/%.cu.o: $(BUILD)/emu_src/%.cu $(emu_headers) $(options)
	@mkdir -p $(@D)
	$(call quiet,EMU)$(CXX) -x c++ $(CXXFLAGS_EMU) $(sanitize) -c $< -o $@

# The emulator itself is optimised and never sanitized: it finds out at run time which sanitizer is there and what to
# tell it.
$(BUILD)/dev/emu/%.o: dev/emu/%.cpp $(options)
	@mkdir -p $(@D)
	$(call quiet,CXX)$(if $(filter dev/emu/nccl.cpp,$<),$(MPICXX),$(CXX)) $(CXXFLAGS_EMU) -O3 -c $< -o $@

endif

emu:
	@$(MAKE) --no-print-directory EMU=1 BUILD=build/emu BIN=build/emu programs tests

cuda-report: $(device_sources:%=$(BUILD)/%.o)
	@$(PYTHON) dev/lint/cuda_report.py $(device_sources:%=$(BUILD)/%.ptxas)

$(BUILD)/%.o: %.c $(options)
	@mkdir -p $(@D)
	$(call quiet,CC)$(CC) $(CFLAGS_ALL) -c $< -o $@

.SECONDEXPANSION:
$(tests): $(BUILD)/test/%: $$(call test_object,$$*) $$(call test_links,$$*)
	@mkdir -p $(@D)
	$(call quiet,LINK)$(LINK) -o $@ $(filter %.o,$^) $(filter %.a,$^) -lcmocka $(LIBRARIES)

# ---- fuzzing: the test that repeats the kept inputs gives libFuzzer's entry another name in each target ----
fuzz: $(fuzz_targets:%=$(BUILD)/fuzz/%)

$(BUILD)/fuzz/%.o: %.c $(options)
	@mkdir -p $(@D)
	$(call quiet,FUZZ)$(FUZZ_CC) $(fuzz_flags) -fsanitize=fuzzer-no-link,$(fuzz_sanitizers) -MMD -MP -c $< -o $@

$(BUILD)/fuzz/libfuzzed.a: $(fuzz_objects)
	@rm -f $@
	@$(AR) rcs $@ $^

$(fuzz_targets:%=$(BUILD)/fuzz/%): $(BUILD)/fuzz/%: $(BUILD)/fuzz/dev/fuzz/%.o $(BUILD)/fuzz/libfuzzed.a
	$(call quiet,LINK)$(FUZZ_CC) -fsanitize=fuzzer,$(fuzz_sanitizers) -o $@ $^ -pthread -lcjson \
	  $(if $(has_utf8proc),-lutf8proc) $(unpack_libraries) -lm $(LDFLAGS)

$(BUILD)/dev/fuzz/fuzz_%.o: CFLAGS_ALL += -DLLVMFuzzerTestOneInput=$(*F)

$(BUILD)/test/test_fuzz_corpus: $(fuzz_targets:%=$(BUILD)/dev/fuzz/%.o) $(fuzz_support:%.c=$(BUILD)/%.o)

# The test links programs by the same line as users do.
$(BUILD)/dev/test/optim/test_example.o: CFLAGS_ALL += -DMARSOPT_FLAGS='"$(marsopt_flags)"' -DMARSOPT_SANITIZE='"$(sanitize)"'

$(BUILD)/examples/%: $(BUILD)/dev/examples/%.o $(BIN)/libmarsopt.a
	@mkdir -p $(@D)
	$(call quiet,LINK)$(CC) -o $@ $^ $(marsopt_libraries)

$(BUILD)/test/fault_injection.so: dev/test/fault_injection.c
$(BUILD)/test/libnvidia-ml.so.1: dev/test/kernels/fake_nvml.c
$(BUILD)/test/fault_injection.so $(BUILD)/test/libnvidia-ml.so.1: $(options)
	@mkdir -p $(@D)
	$(call quiet,LINK)$(CC) -std=gnu17 -O2 $(warnings) -Werror -I. -shared -fPIC -o $@ $(filter %.c,$^) -ldl

$(BUILD)/test/test_devices_report: | $(BUILD)/test/fault_injection.so $(BUILD)/test/libnvidia-ml.so.1

$(benches): $(BUILD)/bench_%: $(BUILD)/dev/bench/bench_%.o $(BUILD)/dev/bench/measure.o $(BUILD)/dev/bench/timed_backend.o $(library)
	$(call quiet,LINK)$(LINK) -o $@ $^ $(LIBRARIES)

# The table of found libraries is printed before the compiler may complain about them.
$(objects): | found

# ---- checks ----
test: programs tests
	@BUILD=$(BUILD) BIN=$(BIN) bash dev/test/run_tests.sh $(tests)

bench: found $(benches)
	$(BUILD)/bench_kernels --json=$(BUILD)/bench_kernels.json
	$(BUILD)/bench_optim --json=$(BUILD)/bench_optim.json
	$(BUILD)/bench_train --json=$(BUILD)/bench_train.json
	@echo "the same as JSON: $(BUILD)/bench_kernels.json, $(BUILD)/bench_optim.json, $(BUILD)/bench_train.json"

# The text is fetched from Debian's packages, the vocabulary by data/gpt2/download.sh.
BENCH_TEXT ?= $(BUILD)/english.txt
VOCAB ?= data/gpt2
bench-data: found $(BUILD)/bench_data $(BENCH_TEXT)
	$(BUILD)/bench_data $(BENCH_TEXT) --vocab=$(VOCAB) --python=$(PYTHON) --json=$(BUILD)/bench_data.json
	@echo "the same as JSON: $(BUILD)/bench_data.json"

$(BUILD)/english.txt: dev/bench/english_text.sh
	@mkdir -p $(@D)
	bash dev/bench/english_text.sh $@

folders = checkpoint comm config data dev eval kernels model optim report util
sources = $(wildcard *.cu $(foreach kind,c h cu cuh cpp,$(foreach depth,* */* */*/*,$(folders:%=%/$(depth).$(kind)))))
tidy_sources = $(filter-out $(mpi_objects:$(BUILD)/%.o=%.c) comm/nccl.c %/load_cublaslt.c dev/test/%,$(filter %.c,$(sources)))
# How many states of a function clang's analyzer follows; the analyzer's default, 225000, takes ten times as long.
ANALYZER_NODES ?= 8000
lint:
	clang-format --dry-run --Werror $(sources)
	cppcheck --quiet --std=c11 --enable=warning,performance,portability --error-exitcode=1 --inline-suppr \
	  --suppress=missingIncludeSystem --suppressions-list=dev/lint/cppcheck.txt -I. -DACTIVATION_BFLOAT16=1 \
	  -j$$(nproc) $(filter %.c,$(sources))
	printf '%s\n' $(tidy_sources) | xargs -P$$(nproc) -n1 sh -c 'clang-tidy --quiet --warnings-as-errors="*" "$$@" -- \
	  -std=gnu17 -D_GNU_SOURCE -I. -Idev/emu/include -DACTIVATION_BFLOAT16=1 -fopenmp \
	  -Xclang -analyzer-config -Xclang max-nodes=$(ANALYZER_NODES) 2>/dev/null' clang-tidy
	printf '%s\n' scripts/*.sh scripts/*.sbatch data/*/*.sh dev/*.sh dev/*/*.sh dev/*/*/*.sh .ci/run | xargs -P$$(nproc) -n2 shellcheck -x

clean:
	rm -rf $(BUILD) $(programs:%=$(BIN)/%) $(marsopt)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
