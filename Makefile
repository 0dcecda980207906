# libdqt: `make` builds the libraries and examples, `make demo` runs the main job, `make check` runs the tests.
# CC, CPPFLAGS, CFLAGS, CXX, CXXFLAGS, LDFLAGS and LDLIBS are the caller's; what the library needs is added to them.
VERSION := $(shell sed -nE 's/^.define DQT_VERSION_(MAJOR|MINOR|PATCH) //p' include/dqt.h | paste -s -d. -)
SOVERSION := 1
ifeq ($(origin CC),default)
CC := gcc
endif
OPENMP ?= 1
CFLAGS ?= -O3 -g
CXXFLAGS ?= -O2 -g
OBJCOPY ?= objcopy
PYTHON ?= python3
# Everything that is built goes into B, but for the libraries of the usual build, which are in lib.
B ?= build
OUTDIR = $(if $(filter build,$(B)),lib,$(B)/lib)

WARN := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wswitch-enum
MACHINE := $(shell $(CC) -dumpmachine)
ARCH := $(firstword $(subst -, ,$(MACHINE)))
# no contraction, no fast-math: packing, random numbers and updates are bit-identical everywhere
BASE := -std=c11 -Iinclude -Isrc -fvisibility=hidden -ffp-contract=off -fno-math-errno -fno-trapping-math $(WARN)
# ... and floats are computed as floats where C11 would allow more (src/core/fpenv.h demands it)
ifneq ($(filter i%86,$(ARCH)),)
BASE += -msse2 -mfpmath=sse
endif
ifeq ($(ARCH)$(findstring clang,$(CC)),s390x)
BASE += -fexcess-precision=fast
endif
# Windows: gcc aligns no stack to 32 bytes there (its bug 54412), so vectors of AVX are moved as unaligned ones.
ifneq ($(findstring mingw,$(MACHINE)),)
BASE += -DDQT_BUILD_SHARED -Wa,-muse-unaligned-vector-move
endif
ifeq ($(OPENMP),1)
OMP := -fopenmp
endif
ifeq ($(CHECKED),1)
BASE += -DDQT_CHECKED
endif
ALL := $(BASE) $(CPPFLAGS) $(CFLAGS) $(OMP)
LIBS := $(LDLIBS) -lm

# Objects are in a folder of their flags. What is linked has one place, so it is linked again when the flags are others.
quoted = '$(subst ','\'',$(1))'
O := $(B)/obj/$(shell echo $(call quoted,$(CC) $(ALL)) | cksum | cut -d' ' -f1)
FLAGS := $(CC) $(ALL) $(TEST_CFLAGS) | $(LDFLAGS) $(LIBS) | $(CXX) $(CXXFLAGS)
.DEFAULT_GOAL := all
$(B)/flags:
	@mkdir -p $(@D)
	@echo $(call quoted,$(FLAGS)) > $@
ifneq ($(file <$(B)/flags),$(FLAGS))
$(B)/flags: FORCE
endif

SRC := $(sort $(wildcard src/*/*.c))
OBJ := $(SRC:%.c=$(O)/%.o)

# Kernels name their instruction set in themselves (src/kernels/target.h), but clang's arm_neon.h wants it as a flag.
ifeq ($(ARCH),aarch64)
$(O)/src/kernels/%_dotprod.o: ISA := -march=armv8.2-a+dotprod
$(O)/src/kernels/%_i8mm.o: ISA := -march=armv8.2-a+dotprod+i8mm
endif

SO := $(OUTDIR)/$(if $(findstring mingw,$(MACHINE)),dqt.dll,libdqt.so.$(VERSION))
TESTS := $(patsubst tests/%.c,$(B)/tests/%,$(sort $(wildcard tests/test_*.c)))
EXAMPLES := $(patsubst examples/%.c,$(B)/examples/%,$(sort $(wildcard examples/*.c)))
BENCHES := $(patsubst bench/%.c,$(B)/bench/%,$(sort $(wildcard bench/*.c)))

all: lib examples
lib: $(SO) $(OUTDIR)/libdqt.a
examples: $(EXAMPLES)

$(O)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL) $(ISA) -fPIC -MMD -MP -c $< -o $@

ifneq ($(findstring mingw,$(MACHINE)),)
# dqt.h names the exports; hosts link the import library.
$(SO): $(OBJ) $(B)/flags
	@mkdir -p $(@D)
	$(CC) -shared $(CFLAGS) $(OMP) $(LDFLAGS) -static-libgcc -Wl,--out-implib,$(OUTDIR)/libdqt.dll.a -o $@ $(OBJ) $(LIBS)
else
# nodelete: threads of OpenMP go on waiting inside the library after its last call, so it stays mapped after dlclose.
$(SO): $(OBJ) src/dqt.map $(B)/flags
	@mkdir -p $(@D)
	$(CC) -shared $(CFLAGS) $(OMP) $(LDFLAGS) -Wl,-soname,libdqt.so.$(SOVERSION) -Wl,--version-script=src/dqt.map \
	  -Wl,-z,defs,-z,nodelete -o $@ $(OBJ) $(LIBS)
	ln -sf libdqt.so.$(VERSION) $(OUTDIR)/libdqt.so.$(SOVERSION)
	ln -sf libdqt.so.$(SOVERSION) $(OUTDIR)/libdqt.so
endif

$(OUTDIR)/libdqt.a: $(OBJ) $(B)/flags
	@mkdir -p $(@D)
	rm -f $@
	$(AR) rcs $@ $(OBJ)

# Tests link the static library: they may reach internals. TEST_CFLAGS: more flags for them alone.
$(B)/tests/%: tests/%.c $(OUTDIR)/libdqt.a $(wildcard tests/*.h)
	@mkdir -p $(@D)
	$(CC) $(ALL) $(TEST_CFLAGS) -Itests $(LDFLAGS) -o $@ $< $(OUTDIR)/libdqt.a $(LIBS)

$(B)/bench/%: bench/%.c $(OUTDIR)/libdqt.a $(wildcard bench/*.h)
	@mkdir -p $(@D)
	$(CC) $(ALL) -Ibench $(LDFLAGS) -o $@ $< $(OUTDIR)/libdqt.a $(LIBS)

# What one rank of many costs, and what MPI moves (bench/mpi/README.md).
$(B)/bench/mpi/rank: bench/mpi/rank.c $(O)/examples/support/args.o $(SO)
	@mkdir -p $(@D)
	$(CC) $(EXAMPLE_FLAGS) $(LDFLAGS) -o $@ $(filter %.c %.o,$^) -L$(OUTDIR) -ldqt $(call RUN_PATH,../../) $(LIBS)
$(B)/bench/mpi/network: bench/mpi/network.c $(O)/examples/mpi/wire.o
	@mkdir -p $(@D)
	$(MPICC) $(EXAMPLE_FLAGS) $(OMP) -Iexamples/mpi $(LDFLAGS) -o $@ $^ $(LIBS)

# Examples link the shared library, as hosts do, and see nothing but dqt.h and examples/support.
EXAMPLE_FLAGS := -std=c11 -D_POSIX_C_SOURCE=200809L -Iinclude -Iexamples/support $(WARN) $(CPPFLAGS) $(CFLAGS)
RUN_PATH = -Wl,-rpath,'$$ORIGIN/$(1)$(if $(filter build,$(B)),../lib,lib)'
SUPPORT := $(patsubst %.c,$(O)/%.o,$(wildcard examples/support/*.c))
$(O)/examples/support/%.o: examples/support/%.c $(wildcard examples/support/*.h)
	@mkdir -p $(@D)
	$(CC) $(EXAMPLE_FLAGS) -c $< -o $@

$(B)/examples/%: examples/%.c $(SUPPORT) $(SO)
	@mkdir -p $(@D)
	$(CC) $(EXAMPLE_FLAGS) $(LDFLAGS) -o $@ $< $(SUPPORT) -L$(OUTDIR) -ldqt $(call RUN_PATH,../) $(LIBS)

# 03_train and 10_finetune over MPI: the same programs, with examples/mpi in place of support/one_rank.c. `make mpi` needs MPI's
# compiler.
MPICC ?= mpicc
MPI_SUPPORT := $(filter-out %/one_rank.o,$(SUPPORT)) $(patsubst %.c,$(O)/%.o,$(wildcard examples/mpi/*.c))
$(O)/examples/mpi/%.o: examples/mpi/%.c $(wildcard examples/mpi/*.h examples/support/*.h)
	@mkdir -p $(@D)
	$(MPICC) $(EXAMPLE_FLAGS) $(OMP) -c $< -o $@
$(B)/examples/mpi/%: examples/%.c $(MPI_SUPPORT) $(SO)
	@mkdir -p $(@D)
	$(MPICC) $(EXAMPLE_FLAGS) $(OMP) $(LDFLAGS) -o $@ $< $(MPI_SUPPORT) -L$(OUTDIR) -ldqt $(call RUN_PATH,../../) $(LIBS)
# A pipeline, which is a program of its own.
$(B)/examples/mpi/pipeline: examples/mpi/pipeline/pipeline.c $(SUPPORT) $(SO)
	@mkdir -p $(@D)
	$(MPICC) $(EXAMPLE_FLAGS) $(LDFLAGS) -o $@ $< $(SUPPORT) -L$(OUTDIR) -ldqt $(call RUN_PATH,../../) $(LIBS)
mpi: $(B)/examples/mpi/03_train $(B)/examples/mpi/10_finetune $(B)/examples/mpi/pipeline

# C++ is not needed for the library: its examples are built where a C++ compiler is.
$(B)/examples/cpp/%: examples/cpp/%.cpp examples/cpp/dqt.hpp $(SO)
	@mkdir -p $(@D)
	$(CXX) -std=c++17 -Iinclude -Wall -Wextra -Wpedantic $(CPPFLAGS) $(CXXFLAGS) $(LDFLAGS) -o $@ $< -L$(OUTDIR) -ldqt \
	  $(call RUN_PATH,../../) -pthread $(LDLIBS)
cpp: $(patsubst examples/%.cpp,$(B)/examples/%,$(wildcard examples/cpp/*.cpp))

# ---- The main job, the tests, the measurements ----
demo: $(EXAMPLES)
	sh examples/demo.sh

# The C tests run twice: as the library is delivered, and with its assertions (CHECKED=1), which test_bounds is about.
# What installs, and what builds in the folders of cargo and zig, runs one after another.
SHARING := tests/tree/install.sh tests/tree/cmake.sh $(sort $(wildcard tests/bindings/*.sh))
SCRIPTS := $(filter-out $(SHARING),$(sort $(wildcard tests/tree/*.sh)) $(sort $(wildcard tests/examples/*.sh)))
AS_CHECKED := CHECKED=1 B=$(B)/checked OUTDIR=$(B)/checked/lib
check: lib examples $(TESTS) checked-tests
	@CC="$(CC)" CXX="$(CXX)" B="$(B)" OUTDIR="$(OUTDIR)" tests/run.sh $(filter-out %/test_bounds,$(TESTS)) \
	  $(TESTS:$(B)/%=$(B)/checked/%) $(SCRIPTS) + $(SHARING)
tests: $(TESTS)
checked-tests:
	+@$(MAKE) --no-print-directory tests $(AS_CHECKED)

# The C tests alone, with assertions, for other instruction sets, compilers and sanitizers (use with B=, CFLAGS=, LDFLAGS=).
ifeq ($(CHECKED),1)
check-c: $(TESTS)
	@tests/run.sh $(TESTS)
else
check-c:
	+@$(MAKE) --no-print-directory check-c $(AS_CHECKED)
endif

# Memory alone: check-undefined has all that gcc knows of undefined behaviour, and more.
# gcc (12.2, 13.3) gives arrays 64 bytes of alignment where there is AVX-512, but not the frames that the search for uses
# after return lays on the heap (its bug 110027); gcc 13 searches by default.
check-sanitize:
	ASAN_OPTIONS=detect_stack_use_after_return=0:$(ASAN_OPTIONS) $(MAKE) check-c CHECKED=1 B=build/sanitize OPENMP=0 \
	  CFLAGS="-O1 -g -fsanitize=address -fno-sanitize-recover=all -fno-omit-frame-pointer"
# clang sees what gcc does not: offsets of null pointers, values that no bool has. All of its checks but those of unsigned
# numbers that wrap around, which hashes and random numbers do on purpose.
UNDEFINED := undefined,float-divide-by-zero,nullability,local-bounds,implicit-conversion
check-undefined:
	$(MAKE) check-c CC=clang CHECKED=1 B=build/undefined OPENMP=0 \
	  CFLAGS="-O1 -g -fsanitize=$(UNDEFINED) -fno-sanitize-recover=all"
# Races: the tests that have threads of their own.
RACES := threads session context lanes
check-tsan:
	$(MAKE) check-c CHECKED=1 B=build/tsan OPENMP=0 CFLAGS="-O1 -g -fsanitize=thread" \
	  TESTS="$(RACES:%=build/tsan/tests/test_%)"
# Numbers that were never set: plain C alone, for clang does not follow tiles and some vector instructions; a test program of
# each part.
UNSET := api api_models api_use allocations attention batch checkpoint checkpoint_hostile gguf options safetensors \
  session streams threads updater_formulas
check-msan:
	DQT_ISA=scalar $(MAKE) check-c CC=clang CHECKED=1 B=build/msan OPENMP=0 \
	  CFLAGS="-O1 -g -DDQT_UNSET_IS_WATCHED -fsanitize=memory -fno-sanitize-recover=all -fno-omit-frame-pointer" \
	  TESTS="$(UNSET:%=build/msan/tests/test_%)"
# Valgrind knows no AVX-512 and is 30 times slower: one test program of each part.
GRIND := api api_models context ops session checkpoint safetensors
check-valgrind:
	RUN="valgrind -q --error-exitcode=9 --leak-check=full" $(MAKE) check-c CHECKED=1 B=build/valgrind OPENMP=0 \
	  CFLAGS="-O1 -g -DDQT_UNSET_IS_WATCHED" TESTS="$(GRIND:%=build/valgrind/tests/test_%)"

# The share of lines that the C tests run (gcc); at least COVERAGE_LEAST percent. Counts are plain numbers, for with threads gcc
# takes atomic ones, which take most of the time: threads may lose counts, but never the last.
COVERAGE_LEAST ?= 97
coverage:
	$(MAKE) check-c B=build/coverage CC=gcc CFLAGS="-O1 -g -fno-early-inlining -fprofile-arcs -ftest-coverage -fprofile-update=single" \
	  TEST_CFLAGS="-fno-profile-arcs -fno-test-coverage" LDLIBS=-lgcov
	tools/coverage.sh build/coverage $(COVERAGE_LEAST)

# ---- Fuzzing (clang): each target for FUZZ_SECONDS, or for HOURS, with -j2 two at a time; fuzz/README.md ----
FUZZ := checkpoint safetensors open tokenizer api
FUZZ_SECONDS ?= $(if $(HOURS),$$(($(HOURS) * 3600)),40)
FUZZ_FLAGS := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
$(B)/fuzz/fuzz_%: fuzz/fuzz_%.c $(wildcard fuzz/*.h) fuzz/calls.list $(OUTDIR)/libdqt.a
	@mkdir -p $(@D)
	$(CC) $(ALL) -fsanitize=fuzzer $(LDFLAGS) -o $@ $< $(OUTDIR)/libdqt.a $(LIBS)
fuzz-build:
	$(MAKE) B=build/fuzz OPENMP=0 CC=clang CFLAGS="$(FUZZ_FLAGS) -fsanitize=fuzzer-no-link -fno-sanitize-coverage=trace-cmp" \
	  $(FUZZ:%=build/fuzz/fuzz/fuzz_%)
fuzz: $(FUZZ:%=fuzz-%)
$(FUZZ:%=fuzz-%): fuzz-%: fuzz-build
	fuzz/run.sh build/fuzz/fuzz/fuzz_$* fuzz/corpus/$* build/fuzz/found $(FUZZ_SECONDS)
# The committed inputs, made anew: after a change of the format or of the models in fuzz/fuzz.h.
$(B)/fuzz/make_corpus: fuzz/make_corpus.c fuzz/fuzz.h $(OUTDIR)/libdqt.a
	@mkdir -p $(@D)
	$(CC) $(ALL) $(LDFLAGS) -o $@ $< $(OUTDIR)/libdqt.a $(LIBS)
fuzz-corpus: $(B)/fuzz/make_corpus
	$< fuzz/corpus
.PHONY: coverage fuzz fuzz-build fuzz-corpus $(FUZZ:%=fuzz-%)

bench: $(BENCHES)
	$(B)/bench/bench
	$(B)/bench/ops
	$(B)/bench/step
	$(B)/bench/sessions
	$(B)/bench/groups

bench-busy: $(B)/bench/busy
	$<

bench-memory: $(B)/bench/memory
	$(B)/bench/memory

# The comparison of methods on DATA=FILE [VALID=FILE]: hours of training; finished runs are kept, so it may be interrupted.
RESULTS ?= docs/results
results: $(B)/examples/08_compare
	$< --list examples/results.list --data $(DATA) $(if $(VALID),--valid $(VALID)) --out $(RESULTS) --hidden 256 --ff 704 \
	  --layers 4 --heads 4 --seq 128 --batch 64 --steps 2000 --warmup 100 --eval-every 250 --eval-windows 1024

# Minutes and memory until held-out bits per byte are TARGET, by the library and, where TORCH_PYTHON has torch, by PyTorch.
TARGET ?= 1.85
THREADS ?= 2
TORCH_PYTHON ?= $(PYTHON)
speedrun: $(B)/examples/03_train
	$(PYTHON) bench/speedrun/speedrun.py --program $< --python $(TORCH_PYTHON) --data $(DATA) --valid $(VALID) \
	  --target $(TARGET) --threads $(THREADS) --out $(B)/speedrun

# Which faults of one line the C tests notice (tools/mutants.py): hours; goes on where it was interrupted. Needs python3.
mutants:
	python3 tools/mutants.py $(if $(SEED),--seed $(SEED)) $(if $(COUNT),--count $(COUNT))

# ---- Installation ----
# The GNU directory variables; DESTDIR before all of them. PREFIX and LIBDIR are accepted for prefix and libdir.
prefix = $(or $(PREFIX),/usr/local)
exec_prefix = $(prefix)
libdir = $(or $(LIBDIR),$(exec_prefix)/lib)
includedir = $(prefix)/include
pkgconfigdir = $(libdir)/pkgconfig
cmakedir = $(libdir)/cmake/dqt
INSTALL ?= install
INSTALL_PROGRAM = $(INSTALL) -m 755
INSTALL_DATA = $(INSTALL) -m 644

# The installed archive is one object whose internal names are local, as the shared library's are: they cannot clash with
# a host's own.
$(O)/install/libdqt.a: $(OBJ)
	@mkdir -p $(@D)
	$(CC) -r -nostdlib $(if $(findstring -flto,$(CFLAGS)),$(CFLAGS) -flinker-output=nolto-rel) -o $(@D)/dqt.o $(OBJ)
	$(OBJCOPY) --wildcard --keep-global-symbol='dqt_*' --keep-global-symbol='_dqt_*' $(@D)/dqt.o
	rm -f $@
	$(AR) rcs $@ $(@D)/dqt.o

# What pkg-config and CMake read is made anew each time, for the folders may be others. The package of CMake finds the
# libraries by paths from its own folder, so the whole may be moved.
POINTER = $(shell $(CC) $(CFLAGS) -dM -E -x c /dev/null | sed -n 's/^.define __SIZEOF_POINTER__ //p')
from_cmakedir = $(shell awk -v from='$(cmakedir)' -v to='$(1)' 'BEGIN { n = split(from, a, "/"); m = split(to, b, "/"); \
  for (i = 1; i <= n && i <= m && a[i] == b[i]; i++); for (j = i; j <= n; j++) path = path "../"; \
  for (; i <= m; i++) path = path b[i] (i < m ? "/" : ""); print path }')
FILL = sed -e 's|@VERSION@|$(VERSION)|; s|@MAJOR@|$(firstword $(subst ., ,$(VERSION)))|; s|@SOVERSION@|$(SOVERSION)|' \
  -e 's|@PREFIX@|$(prefix)|; s|@EXEC_PREFIX@|$(patsubst $(prefix)%,$${prefix}%,$(exec_prefix))|' \
  -e 's|@LIBDIR@|$(patsubst $(exec_prefix)/%,$${exec_prefix}/%,$(libdir))|' \
  -e 's|@INCLUDEDIR@|$(patsubst $(prefix)/%,$${prefix}/%,$(includedir))|; s|@LIBS_PRIVATE@|-lm$(if $(OMP), $(OMP))|' \
  -e 's|@TO_LIBDIR@|$(call from_cmakedir,$(libdir))|; s|@TO_INCLUDEDIR@|$(call from_cmakedir,$(includedir))|' \
  -e 's|@POINTER@|$(POINTER)|; s|@LINK@|$(if $(OMP),$(OMP);)m|'
$(O)/install/%: pkgconfig/%.in FORCE
	@mkdir -p $(@D)
	$(FILL) $< > $@
$(O)/install/%: cmake/%.in FORCE
	@mkdir -p $(@D)
	$(FILL) $< > $@

# Each part alone, too: a shared library without the archive is `make install-dev install-shared`.
install: install-dev install-shared install-static
install-dev: install-headers install-pkgconfig install-cmake
install-headers:
	$(INSTALL) -d $(DESTDIR)$(includedir)
	$(INSTALL_DATA) include/dqt.h examples/cpp/dqt.hpp $(DESTDIR)$(includedir)/
install-shared: $(SO)
	$(INSTALL) -d $(DESTDIR)$(libdir)
	$(INSTALL_PROGRAM) $(SO) $(DESTDIR)$(libdir)/
	ln -sf libdqt.so.$(VERSION) $(DESTDIR)$(libdir)/libdqt.so.$(SOVERSION)
	ln -sf libdqt.so.$(SOVERSION) $(DESTDIR)$(libdir)/libdqt.so
install-static: $(O)/install/libdqt.a
	$(INSTALL) -d $(DESTDIR)$(libdir)
	$(INSTALL_DATA) $< $(DESTDIR)$(libdir)/
install-pkgconfig: $(O)/install/dqt.pc
	$(INSTALL) -d $(DESTDIR)$(pkgconfigdir)
	$(INSTALL_DATA) $< $(DESTDIR)$(pkgconfigdir)/
install-cmake: $(O)/install/dqtConfig.cmake $(O)/install/dqtConfigVersion.cmake
	$(INSTALL) -d $(DESTDIR)$(cmakedir)
	$(INSTALL_DATA) $^ $(DESTDIR)$(cmakedir)/
uninstall:
	rm -f $(addprefix $(DESTDIR)$(includedir)/,dqt.h dqt.hpp) $(DESTDIR)$(pkgconfigdir)/dqt.pc \
	  $(addprefix $(DESTDIR)$(libdir)/,libdqt.a libdqt.so libdqt.so.$(SOVERSION) libdqt.so.$(VERSION)) \
	  $(addprefix $(DESTDIR)$(cmakedir)/,dqtConfig.cmake dqtConfigVersion.cmake)

# The sources of the commit that is checked out.
dist:
	@mkdir -p $(B)
	git archive --format=tar --prefix=libdqt-$(VERSION)/ -o $(B)/libdqt-$(VERSION).tar HEAD
	gzip -9nf $(B)/libdqt-$(VERSION).tar

# ---- What is made from dqt.h and committed ----
# The binary interface that tests/tree/abi.sh compares with: at releases only (docs/abi.md). Needs abidw.
abi-baseline: lib
	CC="$(CC)" tools/abi.sh constants include/dqt.h > docs/abi/constants
	CC="$(CC)" tools/abi.sh types $(SO) include > docs/abi/libdqt-x86_64.abi

# docs/api, one page per section of the header. Needs python3.
api-docs:
	python3 tools/api_docs.py

clean:
	rm -rf build lib

# For scripts: `make -s print-VERSION`.
print-%:
	@echo '$($*)'

.SECONDARY:
-include $(OBJ:.o=.d)
FORCE:
.PHONY: FORCE all lib examples cpp mpi demo check check-c tests checked-tests check-sanitize check-undefined check-tsan check-msan check-valgrind bench bench-busy bench-memory results speedrun mutants clean dist \
  install install-dev install-headers install-shared install-static install-pkgconfig install-cmake uninstall abi-baseline api-docs
