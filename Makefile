# libdqt: `make` builds the libraries and examples, `make demo` runs the main job, `make check` runs the tests.
VERSION := 0.1.0
SOVERSION := 0
PREFIX ?= /usr/local
CC ?= gcc
OPENMP ?= 1
CFLAGS ?= -O3 -g
AR ?= ar
B ?= build

WARN := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes
# no contraction, no fast-math: packing, random numbers and updates are bit-identical everywhere
BASE := -std=c11 -Iinclude -Isrc -fvisibility=hidden -ffp-contract=off -fno-math-errno -fno-trapping-math $(WARN)
ifeq ($(OPENMP),1)
OMP := -fopenmp
endif
ALL := $(BASE) $(CFLAGS) $(OMP)
LIBS := -lm

ARCH := $(shell $(CC) -dumpmachine | cut -d- -f1)
SRC := $(sort $(wildcard src/*/*.c))
OBJ := $(SRC:%.c=$(B)/%.o)

# Kernels of one instruction set are in files named for it; only they get its flags.
ifeq ($(ARCH),x86_64)
AVX512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mprefer-vector-width=512
$(B)/src/kernels/%_avx2.o: ISA := -mavx2 -mfma
$(B)/src/kernels/%_avx512.o: ISA := $(AVX512)
$(B)/src/kernels/%_vnni.o: ISA := $(AVX512) -mavx512vnni
$(B)/src/kernels/%_bf16.o: ISA := $(AVX512) -mavx512bf16
$(B)/src/kernels/%_amx.o: ISA := $(AVX512) -mavx512vnni -mavx512bf16 -mamx-tile -mamx-int8 -mamx-bf16
endif
ifeq ($(ARCH),aarch64)
$(B)/src/kernels/%_dotprod.o: ISA := -march=armv8.2-a+dotprod
endif

SO := lib/libdqt.so.$(VERSION)
TESTS := $(patsubst tests/%.c,$(B)/tests/%,$(sort $(wildcard tests/test_*.c)))
EXAMPLES := $(patsubst examples/%.c,$(B)/examples/%,$(sort $(wildcard examples/*.c)))
BENCHES := $(patsubst bench/%.c,$(B)/bench/%,$(sort $(wildcard bench/*.c)))

all: lib examples
lib: $(SO) lib/libdqt.a
examples: $(EXAMPLES)

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL) $(ISA) -fPIC -MMD -MP -c $< -o $@

$(SO): $(OBJ) src/dqt.map
	@mkdir -p lib
	$(CC) -shared $(OMP) $(LDFLAGS) -Wl,-soname,libdqt.so.$(SOVERSION) -Wl,--version-script=src/dqt.map -Wl,-z,defs -o $@ $(OBJ) $(LIBS)
	ln -sf libdqt.so.$(VERSION) lib/libdqt.so.$(SOVERSION)
	ln -sf libdqt.so.$(SOVERSION) lib/libdqt.so

lib/libdqt.a: $(OBJ)
	@mkdir -p lib
	rm -f $@
	$(AR) rcs $@ $(OBJ)

# Tests link the static library: they may reach internals.
$(B)/tests/%: tests/%.c lib/libdqt.a $(wildcard tests/*.h)
	@mkdir -p $(@D)
	$(CC) $(ALL) -Itests $(LDFLAGS) -o $@ $< lib/libdqt.a $(LIBS)

$(B)/bench/%: bench/%.c lib/libdqt.a $(wildcard bench/*.h)
	@mkdir -p $(@D)
	$(CC) $(ALL) -Ibench $(LDFLAGS) -o $@ $< lib/libdqt.a $(LIBS)

# Examples link the shared library, as hosts do, and see nothing but dqt.h and examples/support.
EXAMPLE_FLAGS := -std=c11 -D_POSIX_C_SOURCE=200809L -Iinclude -Iexamples/support $(WARN)
SUPPORT := $(patsubst %.c,$(B)/%.o,$(wildcard examples/support/*.c))
$(B)/examples/support/%.o: examples/support/%.c $(wildcard examples/support/*.h)
	@mkdir -p $(@D)
	$(CC) $(EXAMPLE_FLAGS) $(CFLAGS) -c $< -o $@

$(B)/examples/%: examples/%.c $(SUPPORT) $(SO)
	@mkdir -p $(@D)
	$(CC) $(EXAMPLE_FLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< $(SUPPORT) -Llib -ldqt -Wl,-rpath,'$$ORIGIN/../../lib' $(LIBS)

clean:
	rm -rf build lib pkgconfig/dqt.pc

-include $(OBJ:.o=.d)
.PHONY: all lib examples clean
