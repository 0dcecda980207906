# libdqt: `make` builds the libraries and examples, `make demo` runs the main job, `make check` runs the tests.
VERSION := 0.9.0
SOVERSION := 1
PREFIX ?= /usr/local
CC ?= gcc
OPENMP ?= 1
CFLAGS ?= -O3 -g
AR ?= ar
OBJCOPY ?= objcopy
B ?= build

WARN := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wswitch-enum
# no contraction, no fast-math: packing, random numbers and updates are bit-identical everywhere
BASE := -std=c11 -Iinclude -Isrc -fvisibility=hidden -ffp-contract=off -fno-math-errno -fno-trapping-math $(WARN)
ifeq ($(OPENMP),1)
OMP := -fopenmp
endif
ifeq ($(CHECKED),1)
BASE += -DDQT_CHECKED
endif
ALL := $(BASE) $(CFLAGS) $(OMP)
LIBS := -lm

ARCH := $(shell $(CC) -dumpmachine | cut -d- -f1)
SRC := $(sort $(wildcard src/*/*.c))
OBJ := $(SRC:%.c=$(B)/%.o)

# Kernels name their instruction set in themselves (src/kernels/target.h), but clang's arm_neon.h wants it as a flag.
ifeq ($(ARCH),aarch64)
$(B)/src/kernels/%_dotprod.o: ISA := -march=armv8.2-a+dotprod
endif

LIBDIR ?= lib
SO := $(LIBDIR)/libdqt.so.$(VERSION)
TESTS := $(patsubst tests/%.c,$(B)/tests/%,$(sort $(wildcard tests/test_*.c)))
EXAMPLES := $(patsubst examples/%.c,$(B)/examples/%,$(sort $(wildcard examples/*.c)))
BENCHES := $(patsubst bench/%.c,$(B)/bench/%,$(sort $(wildcard bench/*.c)))

all: lib examples
lib: $(SO) $(LIBDIR)/libdqt.a
examples: $(EXAMPLES)

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL) $(ISA) -fPIC -MMD -MP -c $< -o $@

$(SO): $(OBJ) src/dqt.map
	@mkdir -p $(LIBDIR)
	$(CC) -shared $(OMP) $(LDFLAGS) -Wl,-soname,libdqt.so.$(SOVERSION) -Wl,--version-script=src/dqt.map -Wl,-z,defs -o $@ $(OBJ) $(LIBS)
	ln -sf libdqt.so.$(VERSION) $(LIBDIR)/libdqt.so.$(SOVERSION)
	ln -sf libdqt.so.$(SOVERSION) $(LIBDIR)/libdqt.so

$(LIBDIR)/libdqt.a: $(OBJ)
	@mkdir -p $(LIBDIR)
	rm -f $@
	$(AR) rcs $@ $(OBJ)

# Tests link the static library: they may reach internals.
$(B)/tests/%: tests/%.c $(LIBDIR)/libdqt.a $(wildcard tests/*.h)
	@mkdir -p $(@D)
	$(CC) $(ALL) -Itests $(LDFLAGS) -o $@ $< $(LIBDIR)/libdqt.a $(LIBS)

$(B)/bench/%: bench/%.c $(LIBDIR)/libdqt.a $(wildcard bench/*.h)
	@mkdir -p $(@D)
	$(CC) $(ALL) -Ibench $(LDFLAGS) -o $@ $< $(LIBDIR)/libdqt.a $(LIBS)

# Examples link the shared library, as hosts do, and see nothing but dqt.h and examples/support.
EXAMPLE_FLAGS := -std=c11 -D_POSIX_C_SOURCE=200809L -Iinclude -Iexamples/support $(WARN)
SUPPORT := $(patsubst %.c,$(B)/%.o,$(wildcard examples/support/*.c))
$(B)/examples/support/%.o: examples/support/%.c $(wildcard examples/support/*.h)
	@mkdir -p $(@D)
	$(CC) $(EXAMPLE_FLAGS) $(CFLAGS) -c $< -o $@

$(B)/examples/%: examples/%.c $(SUPPORT) $(SO)
	@mkdir -p $(@D)
	$(CC) $(EXAMPLE_FLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< $(SUPPORT) -L$(LIBDIR) -ldqt -Wl,-rpath,'$$ORIGIN/../../lib' $(LIBS)

# C++ is not needed for the library: its examples are built where a C++ compiler is.
$(B)/examples/cpp/%: examples/cpp/%.cpp examples/cpp/dqt.hpp $(SO)
	@mkdir -p $(@D)
	$(CXX) -std=c++17 -Iinclude -Wall -Wextra -Wpedantic -O2 -o $@ $< -L$(LIBDIR) -ldqt -Wl,-rpath,'$$ORIGIN/../../../lib' -pthread
cpp: $(patsubst examples/%.cpp,$(B)/examples/%,$(wildcard examples/cpp/*.cpp))

# ---- The main job, the tests, the measurements ----
demo: $(EXAMPLES)
	sh examples/demo.sh

SCRIPTS := $(sort $(wildcard tests/tree/*.sh)) $(sort $(wildcard tests/bindings/*.sh))
check: lib examples $(TESTS)
	@CC="$(CC)" B=$(B) tests/run.sh $(TESTS) $(SCRIPTS)

# The C tests alone, for other instruction sets, compilers and sanitizers (use with B=, CFLAGS=, LDFLAGS=).
check-c: $(TESTS)
	@tests/run.sh $(TESTS)

SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
check-sanitize:
	$(MAKE) check-c B=build/sanitize LIBDIR=build/sanitize/lib OPENMP=0 CFLAGS="-O1 -g $(SANITIZE)"

bench: $(BENCHES)
	$(B)/bench/bench
	$(B)/bench/ops
	$(B)/bench/step

bench-memory: $(B)/bench/memory
	$(B)/bench/memory

# The comparison of methods on DATA=FILE [VALID=FILE]: hours of training; finished runs are kept, so it may be interrupted.
RESULTS ?= docs/results
results: $(B)/examples/08_compare
	$< --list examples/results.list --data $(DATA) $(if $(VALID),--valid $(VALID)) --out $(RESULTS) --hidden 256 --ff 704 \
	  --layers 4 --heads 4 --seq 128 --batch 64 --steps 2000 --warmup 100 --eval-every 250 --eval-windows 1024

# Which faults of one line the C tests notice (tools/mutants.py): hours; goes on where it was interrupted. Needs python3.
mutants:
	python3 tools/mutants.py $(if $(SEED),--seed $(SEED)) $(if $(COUNT),--count $(COUNT))

# ---- Installation ----
pkgconfig/dqt.pc: pkgconfig/dqt.pc.in # made anew each time, for PREFIX may be another
	sed -e 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|; s|@OMP@|$(if $(OMP), $(OMP))|' $< > $@

# The installed archive is one object whose internal names are local, as the shared library's are: they cannot clash with
# a host's own.
$(B)/install/libdqt.a: $(OBJ)
	@mkdir -p $(@D)
	$(CC) -r -nostdlib -o $(B)/install/dqt.o $(OBJ)
	$(OBJCOPY) --localize-hidden $(B)/install/dqt.o
	rm -f $@
	$(AR) rcs $@ $(B)/install/dqt.o

# The CMake package, made anew each time like the file of pkg-config.
POINTER = $(shell $(CC) $(CFLAGS) -dM -E -x c /dev/null | sed -n 's/^.define __SIZEOF_POINTER__ //p')
cmake-package:
	@mkdir -p $(B)/install
	for f in dqtConfig dqtConfigVersion; do sed -e 's|@VERSION@|$(VERSION)|; s|@SOVERSION@|$(SOVERSION)|; s|@POINTER@|$(POINTER)|' \
	  -e 's|@LINK@|$(if $(OMP),$(OMP);)m|' cmake/$$f.cmake.in > $(B)/install/$$f.cmake || exit 1; done

install: lib $(B)/install/libdqt.a pkgconfig/dqt.pc cmake-package
	install -d $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/lib/cmake/dqt
	install -m 644 include/dqt.h $(DESTDIR)$(PREFIX)/include/
	install -m 755 $(SO) $(DESTDIR)$(PREFIX)/lib/
	install -m 644 $(B)/install/libdqt.a $(DESTDIR)$(PREFIX)/lib/
	ln -sf libdqt.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libdqt.so.$(SOVERSION)
	ln -sf libdqt.so.$(SOVERSION) $(DESTDIR)$(PREFIX)/lib/libdqt.so
	install -m 644 pkgconfig/dqt.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig/
	install -m 644 $(B)/install/dqtConfig.cmake $(B)/install/dqtConfigVersion.cmake $(DESTDIR)$(PREFIX)/lib/cmake/dqt/

# ---- What is made from dqt.h and committed ----
# The binary interface that tests/tree/abi.sh compares with: at releases only (docs/abi.md). Needs abidw.
abi-baseline: lib
	CC="$(CC)" tools/abi.sh constants include/dqt.h > docs/abi/constants
	CC="$(CC)" tools/abi.sh types $(SO) include > docs/abi/libdqt-x86_64.abi

# docs/api, one page per section of the header. Needs python3.
api-docs:
	python3 tools/api_docs.py

clean:
	rm -rf build lib pkgconfig/dqt.pc

.SECONDARY:
-include $(OBJ:.o=.d)
.PHONY: results mutants all lib examples cpp demo check check-c check-sanitize bench bench-memory install clean cmake-package abi-baseline api-docs pkgconfig/dqt.pc
