# libbeamlora. `make help` lists the targets.
#
#   make                        the libraries and the program, in build/
#   make check                  all tests
#   make install prefix=/usr    DESTDIR, libdir and includedir are respected too
#
# Variables: CC AR CPPFLAGS CFLAGS LDFLAGS (appended to ours), CBLAS_CFLAGS and
# CBLAS_LIBS (which CBLAS), CONFIG=release|asan|ubsan|asan-ubsan|tsan, BUILD (where to),
# WERROR=1 (warnings stop the build), V=1 (show the commands), SENTENCEPIECE=1 (the program
# reads SentencePiece models; needs a C++ compiler, CXX, and libsentencepiece).

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

ifeq ($(origin CC),default)
CC := cc
endif
ifeq ($(origin CXX),default)
CXX := c++
endif
AR ?= ar
NM ?= nm
PKG_CONFIG ?= pkg-config
CLANG_FORMAT ?= clang-format
PYTHON ?= python3
SH := sh
Q := $(if $(V),,@)

# --- version, from the header alone -------------------------------------------------

header_number = $(shell sed -n 's/^.define $(1)  *\([0-9][0-9]*\).*/\1/p' include/beamlora.h)
MAJOR := $(call header_number,BL_VERSION_MAJOR)
MINOR := $(call header_number,BL_VERSION_MINOR)
PATCH := $(call header_number,BL_VERSION_PATCH)
SOVERSION := $(call header_number,BL_SOVERSION)
VERSION := $(MAJOR).$(MINOR).$(PATCH)

# --- configuration ------------------------------------------------------------------

CONFIG ?= release
BUILD ?= build

SANITIZE-release :=
SANITIZE-asan := -fsanitize=address
SANITIZE-ubsan := -fsanitize=undefined -fno-sanitize-recover=all
SANITIZE-asan-ubsan := $(SANITIZE-asan) $(SANITIZE-ubsan)
SANITIZE-tsan := -fsanitize=thread
# what libFuzzer needs, with clang only: `make fuzz` asks for it
SANITIZE-fuzz := $(SANITIZE-asan-ubsan) -fsanitize=fuzzer-no-link

ifeq ($(origin SANITIZE-$(CONFIG)),undefined)
$(error CONFIG is $(CONFIG), must be release, asan, ubsan, asan-ubsan, tsan or fuzz)
endif

ifeq ($(CONFIG),release)
O := $(BUILD)
OPTIMIZE := -O2 -g
# errno of sqrt is not looked at, and would keep AdamW's loop from being vectorised
FAST := -O3 -fno-math-errno
# some loops once more for wider vectors, chosen at the start; what does the choosing runs
# before a sanitizer is ready
CLONES := -DBEAMLORA_CLONES
ASSERTS := -DNDEBUG
NO_UNDEFINED := -Wl,--no-undefined
else
O := $(BUILD)/$(CONFIG)
OPTIMIZE := -O1 -g -fno-omit-frame-pointer $(SANITIZE-$(CONFIG))
FAST :=
ASSERTS :=
NO_UNDEFINED :=
endif

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes \
    -Wmissing-prototypes -Wvla -Wcast-qual -Wundef -Wformat=2 $(if $(WERROR),-Werror)
# gcc sees uninitialised variables where a sanitizer has been at work
WARNINGS += $(if $(SANITIZE-$(CONFIG)),-Wno-maybe-uninitialized \
    -Wno-unknown-warning-option)
CXX_WARNINGS := $(filter-out -Wstrict-prototypes -Wmissing-prototypes,$(WARNINGS))
# Check's macros and test data are not the place for these
TEST_WARNINGS := $(WARNINGS) -Wno-pedantic -Wno-conversion -Wno-cast-qual

# same bits from every compiler: no fusing of a*b+c
BASE_CFLAGS := -std=c11 $(OPTIMIZE) -ffp-contract=off
POSIX := -D_POSIX_C_SOURCE=200809L

# --- what we need from outside ------------------------------------------------------

# Probing takes time and may fail, so not for targets that build nothing
NEEDS_NOTHING := help clean format check-format check-header check-scripts dist uninstall
ifneq ($(filter-out $(NEEDS_NOTHING),$(or $(MAKECMDGOALS),all)),)

ifeq ($(origin CBLAS_LIBS),undefined)
BLAS_PC := $(firstword $(foreach p,openblas cblas blas blas-netlib blis,\
    $(shell $(PKG_CONFIG) --exists $(p) 2>/dev/null && echo $(p))))
CBLAS_LIBS := $(if $(BLAS_PC),$(shell $(PKG_CONFIG) --libs $(BLAS_PC)),-lcblas)
ifeq ($(origin CBLAS_CFLAGS),undefined)
CBLAS_CFLAGS := $(if $(BLAS_PC),$(shell $(PKG_CONFIG) --cflags $(BLAS_PC)))
endif
endif
CBLAS_CFLAGS ?=

pc = $(shell $(PKG_CONFIG) $(1) $(2) 2>/dev/null || echo $(3))
JANSSON_CFLAGS ?= $(call pc,--cflags,jansson)
JANSSON_LIBS ?= $(call pc,--libs,jansson,-ljansson)
CHECK_CFLAGS ?= $(call pc,--cflags,check)
CHECK_LIBS ?= $(call pc,--libs,check,-lcheck)
JANSSON_CFLAGS := $(JANSSON_CFLAGS)
JANSSON_LIBS := $(JANSSON_LIBS)
CHECK_CFLAGS := $(CHECK_CFLAGS)
CHECK_LIBS := $(CHECK_LIBS)
ifneq ($(SENTENCEPIECE),)
SENTENCEPIECE_CFLAGS ?= $(call pc,--cflags,sentencepiece)
# without the library that trains models
SENTENCEPIECE_LIBS ?= $(filter-out -lsentencepiece_train,\
    $(call pc,--libs,sentencepiece,-lsentencepiece)) -lstdc++
SENTENCEPIECE_CFLAGS := $(SENTENCEPIECE_CFLAGS) -DBEAMLORA_SENTENCEPIECE
SENTENCEPIECE_LIBS := $(SENTENCEPIECE_LIBS)
endif
endif

# --- sources ------------------------------------------------------------------------

LIB_SRC := $(wildcard lib/*.c)
IO_SRC := $(wildcard lib/io/*.c)
SRC_SRC := $(wildcard src/*.c src/*/*.c) $(if $(SENTENCEPIECE),src/text/tokenizer_sentencepiece.cc)
SUITE_SRC := $(wildcard test/unit/test_*.c)
HELPER_SRC := $(filter-out $(SUITE_SRC),$(wildcard test/unit/*.c test/ref/*.c))
TOOL_SRC := $(wildcard test/golden_replay.c test/dora_replay.c test/adalora_replay.c \
    test/tiny_model.c test/shards.c)
FUZZ_SHARED := fuzz fuzz_groups fuzz_models fuzz_training
FUZZ_NAMES := $(sort $(patsubst test/fuzz/fuzz_%.c,%,$(filter-out \
    $(FUZZ_SHARED:%=test/fuzz/%.c),$(wildcard test/fuzz/fuzz_*.c))))
BENCH_SRC := $(wildcard bench/*.c)
EXAMPLE_SRC := $(wildcard examples/[0-9]*.c)
EXAMPLE_PY := $(wildcard examples/*.py)
GOLDEN := $(wildcard test/golden/*.safetensors)
GOLDEN_DORA := $(wildcard test/golden/dora/*.safetensors)
GOLDEN_ADALORA := $(wildcard test/golden/adalora/*.safetensors)
FORMATTED := $(wildcard include/*.h lib/*.[ch] lib/io/*.[ch] src/*.[ch] src/*/*.[ch] src/*/*.cc \
    test/*.[ch] test/*/*.[ch] examples/*.[ch] examples/*/*.[ch] \
    bench/*.[ch] bench/*/*.[ch])

LIB_A := $(O)/libbeamlora.a
LIB_SO := $(O)/libbeamlora.so
IO_A := $(if $(IO_SRC),$(O)/libbeamlora-io.a)
IO_SO := $(if $(IO_SRC),$(O)/libbeamlora-io.so)
PROGRAM := $(if $(wildcard src/main.c),$(O)/beamlora)
MAN := $(if $(PROGRAM),$(O)/man/beamlora.1)
SRC_A := $(if $(SRC_SRC),$(O)/obj/program.a)
HELPER_A := $(if $(HELPER_SRC),$(O)/obj/test/helpers.a)

SUITES := $(SUITE_SRC:test/unit/%.c=$(O)/test/%)
TOOLS := $(TOOL_SRC:test/%.c=$(O)/test/%) $(O)/test/fault.so
REPLAYS := $(FUZZ_NAMES:%=$(O)/test/replay_%)
# inputs of some targets, written by what they read
SEEDED := state blob checkpoint plan run
FUZZ_SEEDS := $(O)/seeds/written
FUZZERS := $(FUZZ_NAMES:%=$(O)/fuzz/%)
EXAMPLES := $(EXAMPLE_SRC:%.c=$(O)/%)
WORD_PROBLEMS := $(O)/word_problems
BENCH := $(O)/bench/bench

static_objects = $(1:%.c=$(O)/obj/static/%.o)
shared_objects = $(1:%.c=$(O)/obj/shared/%.o)

# --- what to build ------------------------------------------------------------------

.PHONY: all lib static shared program man tests examples
## all: both libraries, static and shared, the program and its man pages (the default)
all: lib program man
## lib: both libraries, static and shared
lib: static shared
## static: the static libraries
static: $(LIB_A) $(IO_A)
## shared: the shared libraries
shared: $(LIB_SO) $(IO_SO)
## program: the command-line program
program: $(PROGRAM)
## man: the man pages, from what the program says of its commands
man: $(MAN)
## tests: everything that `make check` runs, without running it
tests: $(SUITES) $(TOOLS) $(REPLAYS) $(FUZZ_SEEDS) $(EXAMPLES) $(WORD_PROBLEMS) $(PROGRAM) \
    $(MAN) $(if $(filter release,$(CONFIG)),$(BENCH) $(O)/bench/docs)
## examples: the examples
examples: $(EXAMPLES) $(WORD_PROBLEMS)

## demo: fine-tune the shipped model by LoRA and BeamLoRA: a table and pictures
demo: $(PROGRAM) $(WORD_PROBLEMS)
	@$(SH) examples/word_problems/demo.sh

# --- rules --------------------------------------------------------------------------

# other projects' headers are not ours to warn about
outside = $(patsubst -I%,-isystem %,$(1))

LIB_FLAGS := -fPIC -fvisibility=hidden $(WARNINGS) $(ASSERTS) -Iinclude
compile = $(if $(V),,@echo "  CC    $<";) mkdir -p '$(@D)'; \
    $(CC) $(BASE_CFLAGS) $(1) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<
link = $(if $(V),,@echo "  LINK  $@";) mkdir -p '$(@D)'; \
    $(CC) $(BASE_CFLAGS) $(1) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o %.a %.so,$^) $(2)
archive = $(if $(V),,@echo "  AR    $@";) mkdir -p '$(@D)'; \
    rm -f $@ && $(AR) rcs $@ $(filter %.o,$^)

# Objects are made anew when the compiler or its flags change
FLAGS := $(O)/obj/flags
flags_text = $(CC) $(BASE_CFLAGS) $(FAST) $(WARNINGS) $(ASSERTS) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) \
    $(CBLAS_CFLAGS) $(CBLAS_LIBS) $(JANSSON_CFLAGS) $(JANSSON_LIBS) \
    $(if $(SENTENCEPIECE),$(CXX) $(CXXFLAGS) $(SENTENCEPIECE_CFLAGS) $(SENTENCEPIECE_LIBS))
.PHONY: FORCE
FORCE:
$(FLAGS): FORCE
	@mkdir -p '$(@D)'
	@printf '%s\n' '$(subst ','\'',$(flags_text))' | cmp -s - $@ || \
	    printf '%s\n' '$(subst ','\'',$(flags_text))' > $@

# A CBLAS that links, with 32-bit integers: found out once, before anything else
PROBE := $(O)/obj/cblas.ok
$(PROBE): $(FLAGS) test/scripts/probe-cblas.sh
	@$(SH) test/scripts/probe-cblas.sh '$(O)/obj' '$(CC) $(CPPFLAGS) $(CFLAGS)' \
	    '$(CBLAS_CFLAGS)' '$(LDFLAGS) $(CBLAS_LIBS)'
	@touch $@

$(O)/obj/static/lib/%.o: lib/%.c $(FLAGS) $(PROBE)
	$(call compile,$(FAST) $(CLONES) $(LIB_FLAGS) $(call outside,$(CBLAS_CFLAGS)))
$(O)/obj/shared/lib/%.o: lib/%.c $(FLAGS) $(PROBE)
	$(call compile,$(FAST) $(CLONES) $(LIB_FLAGS) $(call outside,$(CBLAS_CFLAGS)))
$(O)/obj/static/lib/io/%.o: lib/io/%.c $(FLAGS)
	$(call compile,$(LIB_FLAGS) $(POSIX) $(call outside,$(JANSSON_CFLAGS)))
$(O)/obj/shared/lib/io/%.o: lib/io/%.c $(FLAGS)
	$(call compile,$(LIB_FLAGS) $(POSIX) $(call outside,$(JANSSON_CFLAGS)))
$(O)/obj/src/%.o: src/%.c $(FLAGS) $(PROBE)
	$(call compile,$(FAST) $(CLONES) $(WARNINGS) $(ASSERTS) $(POSIX) -pthread -Iinclude \
	    -iquote src $(call outside,$(CBLAS_CFLAGS) $(JANSSON_CFLAGS) $(SENTENCEPIECE_CFLAGS)))
$(O)/obj/src/%.o: src/%.cc $(FLAGS)
	$(if $(V),,@echo "  CXX   $<";) mkdir -p '$(@D)'; $(CXX) -std=c++17 $(OPTIMIZE) \
	    $(CXX_WARNINGS) $(ASSERTS) -Iinclude -iquote src $(call outside,$(SENTENCEPIECE_CFLAGS)) $(CPPFLAGS) \
	    $(CXXFLAGS) -MMD -MP -c -o $@ $<
$(O)/obj/test/%.o: test/%.c $(FLAGS) $(PROBE)
	$(call compile,$(TEST_WARNINGS) $(POSIX) -pthread -Iinclude -iquote lib -iquote lib/io \
	    -iquote src -iquote test -iquote test/unit -iquote test/ref -iquote test/fuzz \
	    $(call outside,$(CBLAS_CFLAGS) $(JANSSON_CFLAGS) $(CHECK_CFLAGS)))
$(O)/obj/bench/%.o: bench/%.c $(FLAGS) $(PROBE)
	$(call compile,$(FAST) -march=native $(WARNINGS) $(POSIX) -pthread -Iinclude -iquote src \
	    -iquote bench $(call outside,$(CBLAS_CFLAGS) $(JANSSON_CFLAGS)))
$(O)/obj/examples/%.o: examples/%.c $(FLAGS)
	$(call compile,$(WARNINGS) -pthread -Iinclude)

# the library is plain C11, but the header of BLIS is not
$(O)/obj/static/lib/blas.o $(O)/obj/shared/lib/blas.o: LIB_FLAGS += $(POSIX)

$(LIB_A): $(call static_objects,$(LIB_SRC))
	$(call archive)
$(O)/libbeamlora-io.a: $(call static_objects,$(IO_SRC))
	$(call archive)
$(O)/obj/program.a: $(patsubst %,$(O)/obj/%.o,$(basename $(filter-out src/main.c,$(SRC_SRC))))
	$(call archive)
$(O)/obj/test/helpers.a: $(HELPER_SRC:%.c=$(O)/obj/%.o)
	$(call archive)

# The map's newest node must be the header's version
check_map = @newest=$$(sed -n 's/^\([A-Z_]*_[0-9][0-9.]*\) *{.*/\1/p' $(1) | tail -n 1); \
    test "$$newest" = "$(2)_$(MAJOR).$(MINOR)" || { \
    echo "$(1): newest node is $$newest, must be $(2)_$(MAJOR).$(MINOR)" \
    "as include/beamlora.h says" >&2; exit 1; }
soname = -shared -Wl,-soname,$(notdir $@).$(SOVERSION) -Wl,--version-script=$(1) \
    $(NO_UNDEFINED)

$(LIB_SO): $(call shared_objects,$(LIB_SRC)) lib/libbeamlora.map include/beamlora.h
	$(call check_map,lib/libbeamlora.map,BEAMLORA)
	$(call link,$(call soname,lib/libbeamlora.map),$(CBLAS_LIBS) -lm)
	@ln -sf $(@F) $@.$(SOVERSION)
$(O)/libbeamlora-io.so: $(call shared_objects,$(IO_SRC)) $(LIB_SO) \
    lib/io/libbeamlora-io.map include/beamlora.h
	$(call check_map,lib/io/libbeamlora-io.map,BEAMLORA_IO)
	$(call link,$(call soname,lib/io/libbeamlora-io.map) -Wl$(comma)-rpath$(comma)'$$ORIGIN',\
	    $(JANSSON_LIBS) -lm)
	@ln -sf $(@F) $@.$(SOVERSION)
comma := ,

# The program holds the libraries: it can be moved
ALL_LIBS = $(CBLAS_LIBS) $(JANSSON_LIBS) $(SENTENCEPIECE_LIBS) -lm -pthread
$(O)/beamlora: $(O)/obj/src/main.o $(SRC_A) $(IO_A) $(LIB_A)
	$(call link,,$(ALL_LIBS))

# The pages are made by the program itself, beamlora.1 as the last one
$(O)/man/beamlora.1: $(PROGRAM) $(wildcard man/*)
	$(if $(V),,@echo "  MAN   $(@D)";) $(SH) man/pages.sh '$(PROGRAM)' '$(@D)'

# A suite is linked with the program's or the I/O library's objects only if it includes
# one of their headers, so that it can be built while those are not
includes = $(shell grep -l -F $(foreach h,$(1),-e '$(h)"') -e '<$(2)>' $(SUITE_SRC) \
    /dev/null)
SRC_SUITES := $(call includes,$(patsubst src/%,%,$(wildcard src/*/*.h)),)
IO_SUITES := $(call includes,beamlora_io.h io_check.h $(notdir $(wildcard lib/io/*.h)),beamlora_io.h)
suite = $(1:test/unit/%.c=$(O)/test/%)

$(call suite,$(SRC_SUITES)): $(SRC_A) $(IO_A)
$(call suite,$(IO_SUITES)): $(IO_A)
$(SUITES): $(O)/test/%: $(O)/obj/test/unit/%.o $(HELPER_A) $(LIB_A)
	$(call link_static)
$(TOOL_SRC:test/%.c=$(O)/test/%): $(O)/test/%: $(O)/obj/test/%.o $(HELPER_A) $(IO_A) $(LIB_A)
	$(call link_static)
# it is put before the C library, and no sanitizer is to look at it
$(O)/test/fault.so: test/fault.c $(FLAGS)
	$(if $(V),,@echo "  LINK  $@";) mkdir -p '$(@D)'; $(CC) -std=c11 -O1 -Wall -Wextra -fPIC \
	    -shared $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< -ldl
# a target with libFuzzer, or with what only runs it over the corpus
FUZZ_LINK := -Wl,--wrap=mmap -Wl,--wrap=munmap
fuzz_objects = $(FUZZ_SHARED:%=$(O)/obj/test/fuzz/%.o) $(SRC_A) $(IO_A) $(LIB_A)
$(REPLAYS): $(O)/test/replay_%: $(O)/obj/test/fuzz/fuzz_%.o $(O)/obj/test/fuzz/replay.o \
    $(fuzz_objects)
	$(call link_static,$(FUZZ_LINK))
$(FUZZERS): $(O)/fuzz/%: $(O)/obj/test/fuzz/fuzz_%.o $(fuzz_objects)
	$(call link_static,-fsanitize=fuzzer $(FUZZ_LINK))
$(O)/test/fuzz_seeds: $(O)/obj/test/fuzz/seeds.o $(fuzz_objects)
	$(call link_static,$(FUZZ_LINK))
$(FUZZ_SEEDS): $(O)/test/fuzz_seeds test/scripts/fuzz-seeds.sh $(O)/test/tiny_model $(PROGRAM)
	$(if $(V),,@echo "  SEEDS $(@D)";) rm -rf '$(@D)' && $< '$(@D)' && \
	    $(SH) test/scripts/fuzz-seeds.sh '$(@D)/run' '$(PROGRAM)' '$(O)/test/tiny_model' && \
	    touch '$@'
# archives in the order of the layers, whatever order make has them in
link_static = $(if $(V),,@echo "  LINK  $@";) mkdir -p '$(@D)'; $(CC) $(BASE_CFLAGS) $(1) \
    $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(foreach a,$(HELPER_A) $(SRC_A) $(IO_A) $(LIB_A),\
    $(filter $(a),$^)) $(CHECK_LIBS) $(ALL_LIBS) $(2)

# Examples see what a user sees: the public headers and the shared libraries
$(EXAMPLES): $(O)/examples/%: $(O)/obj/examples/%.o $(IO_SO) $(LIB_SO)
	$(call link,-Wl$(comma)-rpath$(comma)'$$ORIGIN/..',-lm -pthread)

# The library as the program has it; -ldl finds out which CBLAS it is
$(BENCH): $(BENCH_SRC:%.c=$(O)/obj/%.o) $(SRC_A) $(IO_A) $(LIB_A)
	$(call link_static,,-ldl)

$(O)/bench/docs: $(O)/obj/bench/docs/docs.o $(O)/obj/bench/picture.o $(SRC_A)
	$(call link,,$(JANSSON_LIBS) -lm)

# the generator of the shipped model's data: libc only
$(WORD_PROBLEMS): $(O)/obj/examples/word_problems/word_problems.o
	$(call link)

-include $(wildcard $(O)/obj/*/*.d $(O)/obj/*/*/*.d $(O)/obj/*/*/*/*.d)

# --- tests --------------------------------------------------------------------------

# Every item is name=command. The runner prints one line for each and then the sum.
RUN := $(SH) test/scripts/run.sh '$(O)/log'
RUN_ENV := BEAMLORA_LIBRARY='$(O)/libbeamlora.so' BEAMLORA_IO_LIBRARY='$(O)/libbeamlora-io.so' \
    BEAMLORA='$(O)/beamlora' ASAN_OPTIONS="allocator_may_return_null=1:$$ASAN_OPTIONS"
export CC CPPFLAGS CFLAGS LDFLAGS PKG_CONFIG

# python cannot load a library that was built for a sanitizer
RUN_PY := $(if $(filter release ubsan,$(CONFIG)),$(shell command -v $(PYTHON) 2>/dev/null))

run_suites = $(foreach s,$(SUITES),'$(notdir $(s))=$(s)')
run_golden = $(if $(wildcard test/golden_replay.c),$(foreach g,$(GOLDEN),\
    'golden_$(basename $(notdir $(g)))=$(O)/test/golden_replay $(g)')) \
    $(foreach g,$(GOLDEN_DORA),'dora_$(basename $(notdir $(g)))=$(O)/test/dora_replay $(g)') \
    $(foreach g,$(GOLDEN_ADALORA),\
    'adalora_$(basename $(notdir $(g)))=$(O)/test/adalora_replay $(g)')
run_replays = $(foreach f,$(FUZZ_NAMES),'fuzz_$(f)=$(O)/test/replay_$(f) test/fuzz/corpus/$(f) \
    $(if $(filter $(f),$(SEEDED)),$(O)/seeds/$(f))')
run_examples = $(foreach e,$(EXAMPLES),'$(notdir $(e))=$(e)') \
    $(if $(RUN_PY),$(foreach e,$(EXAMPLE_PY),'$(notdir $(e))=$(PYTHON) $(e)'))
run_program = $(if $(wildcard test/program.sh),'program=$(SH) test/program.sh $(O)/beamlora')
run_data = 'word_problems=$(SH) test/word_problems.sh $(WORD_PROBLEMS)'
# its trainings must be slow enough to be killed, which sanitizers make them anyway
run_folder = $(if $(wildcard test/run_folder.sh),\
    'run_folder=ACCUMULATE=$(if $(filter release,$(CONFIG)),10,1) \
    $(SH) test/run_folder.sh $(O)/beamlora')
run_export = $(if $(wildcard test/export.sh),'export=$(SH) test/export.sh $(O)/beamlora')
# every call and a hundred random moments are check-faults
run_faults = $(if $(wildcard test/faults.sh),\
    'faults=STRIDE=$(if $(filter release,$(CONFIG)),5,17) $(SH) test/faults.sh $(O)/beamlora 3')
run_prune = $(if $(wildcard test/prune.sh),'prune=$(SH) test/prune.sh $(O)/beamlora')
run_cli = $(if $(wildcard test/cli.sh),'cli=$(SH) test/cli.sh $(O)/beamlora')
# for release builds alone, as results are
run_bench = $(if $(filter release,$(CONFIG)),\
    'bench=$(SH) test/bench.sh $(BENCH) $(O)/libbeamlora.so')
run_docs = $(if $(wildcard README.md docs/guide.md),\
    'docs=SANITIZE="$(SANITIZE-$(CONFIG))" $(SH) test/scripts/check-docs.sh $(O)')

.PHONY: check check-one check-golden check-fuzz check-examples check-program check-faults \
    check-docs
## check: all tests: suites, golden runs, fuzz corpora, examples, program, docs
check: tests shared
	@$(RUN_ENV) $(RUN) $(run_suites) $(run_golden) $(run_replays) \
	    $(run_examples) $(run_data) $(run_program) $(run_folder) $(run_export) \
	    $(run_faults) $(run_prune) $(run_cli) $(run_bench) $(run_docs)

.PHONY: check-numbers
## check-numbers: of all tests those whose results come from the CBLAS
check-numbers: tests shared
	@$(RUN_ENV) $(RUN) $(run_suites) $(run_golden) $(run_examples) $(run_program) $(run_docs)

## check-one: one suite, make check-one T=forward; CK_RUN_CASE and CK_FORK=no narrow it
check-one: $(if $(T),$(O)/test/test_$(T:test_%=%))
	$(if $(T),,$(error say which: make check-one T=forward))
	$(Q)$(RUN_ENV) $(O)/test/test_$(T:test_%=%)

## check-golden: replay the golden runs
check-golden: $(TOOLS)
	@$(RUN) $(run_golden)

## check-fuzz: the inputs in test/fuzz/corpus, once each
check-fuzz: $(REPLAYS) $(FUZZ_SEEDS)
	@$(RUN_ENV) $(RUN) $(run_replays)

## check-examples: build and run the examples
check-examples: $(EXAMPLES) $(WORD_PROBLEMS) shared
	@$(RUN_ENV) $(RUN) $(run_examples) $(run_data)

## check-program: run the program's tests
check-program: $(TOOLS) $(PROGRAM) $(MAN)
	@$(RUN_ENV) $(RUN) $(run_program) $(run_folder) $(run_export) $(run_faults) $(run_prune) \
	    $(run_cli)

## check-faults: kill the program and fill its disk at every call, and at 100 random moments
check-faults: $(TOOLS) $(PROGRAM)
	@$(RUN_ENV) $(RUN) 'faults=$(SH) test/faults.sh $(O)/beamlora 100'

## check-docs: code in README.md and docs/guide.md runs and is that of the examples
check-docs: shared
	@$(RUN_ENV) $(RUN) $(run_docs)

# --- benchmarks ---------------------------------------------------------------------

BENCH_FLAGS ?=
.PHONY: bench bench-quick bench-compare bench-docs
## bench: measure the library, ten minutes; BENCH_FLAGS="--help=all" tells what can be chosen
bench: $(BENCH)
	@$(BENCH) all --out $(O)/bench $(BENCH_FLAGS)
## bench-quick: a few shapes of each, under a minute
bench-quick: $(BENCH)
	@$(BENCH) all --quick --out $(O)/bench $(BENCH_FLAGS)
## bench-compare: this tree's library against that of a commit, BASE=rev, paired
bench-compare: $(BENCH) $(LIB_SO)
	+@MAKE='$(MAKE)' BUILD='$(BUILD)' $(SH) bench/compare.sh '$(BASE)' $(BENCH_FLAGS)

## bench-docs: docs/performance.md and its pictures from the results in bench/results
bench-docs: $(O)/bench/docs
	$(Q)$(O)/bench/docs bench/results bench/docs/performance.md.in docs \
	    > $(O)/bench/performance.md
	$(Q)cp $(O)/bench/performance.md docs/performance.md

again = +@$(MAKE) --no-print-directory
.PHONY: check-asan check-ubsan check-asan-ubsan check-tsan check-valgrind check-clang \
    check-blas
## check-asan: all tests with AddressSanitizer
check-asan:
	$(again) check CONFIG=asan
## check-ubsan: all tests with UndefinedBehaviorSanitizer
check-ubsan:
	$(again) check CONFIG=ubsan
## check-asan-ubsan: all tests with both
check-asan-ubsan:
	$(again) check CONFIG=asan-ubsan
# the CBLAS, which it cannot see into, on one thread
## check-tsan: the suites with ThreadSanitizer
check-tsan:
	$(again) check-suites CONFIG=tsan
## check-clang: all tests in a build by clang
check-clang:
	$(again) check CC=clang BUILD=$(BUILD)/clang

FUZZ ?= $(FUZZ_NAMES)
FUZZ_SECONDS ?= 60
.PHONY: fuzz run-fuzzers
## fuzz: libFuzzer on all readers, or FUZZ="peft run", FUZZ_SECONDS=60 each; needs clang
fuzz:
	$(again) run-fuzzers CONFIG=fuzz CC=$(if $(filter clang%,$(notdir $(CC))),$(CC),clang)
run-fuzzers: $(FUZZ:%=$(O)/fuzz/%) $(FUZZ_SEEDS)
	@$(SH) test/scripts/fuzz.sh '$(O)/fuzz' '$(FUZZ_SECONDS)' $(FUZZ)

.PHONY: check-sentencepiece
## check-sentencepiece: the tokenizers in a build with SentencePiece
check-sentencepiece:
	$(again) check-one T=tokenizer SENTENCEPIECE=1 BUILD=$(BUILD)/sentencepiece

.PHONY: check-interop check-interop-files
## check-interop: PEFT, transformers and llama.cpp with our files, from PyPI: large downloads
check-interop: program shared
	@$(RUN_ENV) $(SH) test/scripts/check-interop.sh all '$(BUILD)/interop' '$(PROGRAM)'
## check-interop-files: the part of it that needs the packages safetensors and gguf alone
check-interop-files: program shared
	@$(RUN_ENV) $(SH) test/scripts/check-interop.sh files '$(BUILD)/interop' '$(PROGRAM)'

.PHONY: check-suites
## check-suites: the suites alone
check-suites: $(SUITES)
	@OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(RUN_ENV) $(RUN) $(run_suites)

# Suites that take minutes under valgrind; the sanitizers have them too
VALGRIND_SKIP ?= backward data dora global global_plan parallel sampling threads
VALGRIND := valgrind -q --error-exitcode=99 --leak-check=full --show-leak-kinds=definite \
    --errors-for-leak-kinds=definite
## check-valgrind: the suites under valgrind
check-valgrind: $(SUITES)
	@CK_FORK=no OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 CK_TIMEOUT_MULTIPLIER=50 \
	    $(RUN) $(foreach s,$(filter-out $(VALGRIND_SKIP:%=$(O)/test/test_%),\
	    $(SUITES)),'$(notdir $(s))=$(VALGRIND) $(s)')

## check-blas: check-numbers with each of OpenBLAS, the reference BLAS and BLIS that is installed
check-blas:
	+@MAKE='$(MAKE)' BUILD='$(BUILD)' $(SH) test/scripts/check-blas.sh

.PHONY: check-header check-exports check-abi abi-baseline check-install check-scripts
## check-header: the public headers in C99 and C++11, alone and strict
check-header:
	@$(SH) test/scripts/check-header.sh

## check-exports: headers, maps and libraries name the same functions
check-exports: lib
	@$(SH) test/scripts/check-exports.sh include/beamlora.h lib/libbeamlora.map \
	    $(LIB_SO) $(LIB_A)
	$(if $(IO_SO),@$(SH) test/scripts/check-exports.sh include/beamlora_io.h \
	    lib/io/libbeamlora-io.map $(IO_SO) $(IO_A))

## check-abi: the shared libraries keep what test/abi/ has of the release
check-abi: shared
	@CBLAS_CFLAGS='$(CBLAS_CFLAGS)' CBLAS_LIBS='$(CBLAS_LIBS)' \
	    $(SH) test/scripts/check-abi.sh check $(LIB_SO) $(IO_SO)

## abi-baseline: write test/abi/ anew; look at the diff and name it in CHANGELOG.md
abi-baseline: shared
	@$(SH) test/scripts/check-abi.sh baseline $(LIB_SO) $(IO_SO)

## check-install: install to a temporary prefix, build against it, uninstall
check-install: all
	+@MAKE='$(MAKE)' $(SH) test/scripts/check-install.sh

## check-scripts: the scripts with shellcheck, if there is one
check-scripts:
	@if command -v shellcheck >/dev/null; then \
	    shellcheck $(wildcard test/scripts/*.sh man/*.sh examples/*.sh examples/*/*.sh bench/*.sh) setup.sh .ci/run && \
	    shellcheck -S warning $(wildcard test/*.sh) && echo "scripts: ok"; \
	else echo "scripts: no shellcheck, skipped"; fi

## ci: all that continuous integration runs
.PHONY: ci
ci:
	+@MAKE='$(MAKE)' BUILD='$(BUILD)' $(SH) test/scripts/ci.sh

# --- other programs to measure against ------------------------------------------------

# PyTorch for a CPU is not in the index by itself: what comes is some gigabytes
PEERS := $(BUILD)/peers
PEERS_PYTHON := $(PEERS)/bin/python
PEERS_FLAGS ?=
$(PEERS)/installed: bench/peers/requirements.txt
	$(PYTHON) -m venv '$(PEERS)'
	'$(PEERS)'/bin/pip install --quiet -r bench/peers/requirements.txt
	@touch $@

.PHONY: bench-peers bench-peers-docs
## bench-peers: against PyTorch with PEFT, by layer and by training; PEERS_FLAGS=--help
bench-peers: $(PEERS)/installed shared program $(BENCH)
	@$(PEERS_PYTHON) bench/peers/run.py --out '$(PEERS)/results' $(PEERS_FLAGS)
## bench-peers-docs: write docs/peers.md from the last results of bench-peers
bench-peers-docs:
	@$(PYTHON) bench/peers/page.py '$(PEERS)/results' > docs/peers.md

.PHONY: format check-format
## format: lay the sources out as .clang-format says
format:
	$(Q)$(CLANG_FORMAT) -i $(FORMATTED)
## check-format: are they?
check-format:
	@if command -v $(CLANG_FORMAT) >/dev/null; then \
	    $(CLANG_FORMAT) --dry-run -Werror $(FORMATTED) && echo "format: ok"; \
	else echo "format: no $(CLANG_FORMAT), skipped"; fi

# --- installation -------------------------------------------------------------------

prefix ?= /usr/local
exec_prefix ?= $(prefix)
bindir ?= $(exec_prefix)/bin
libdir ?= $(exec_prefix)/lib
includedir ?= $(prefix)/include
pkgconfigdir ?= $(libdir)/pkgconfig
datadir ?= $(prefix)/share
mandir ?= $(datadir)/man
bashcompdir ?= $(datadir)/bash-completion/completions
zshcompdir ?= $(datadir)/zsh/site-functions
fishcompdir ?= $(datadir)/fish/vendor_completions.d
INSTALL ?= install

D = $(DESTDIR)
HEADERS := include/beamlora.h $(if $(IO_SRC),include/beamlora_io.h)
NAMES := beamlora $(if $(IO_SRC),beamlora-io)

# Paths in the .pc files are relative to the prefix where they can be. The CBLAS is named by
# its libraries, not its own .pc: that one may ask for a Fortran that nobody has installed.
pc_path = $(patsubst $(prefix)/%,$${prefix}/%,$(1))
fill_pc = sed -e 's|@prefix@|$(prefix)|' -e 's|@libdir@|$(call pc_path,$(libdir))|' \
    -e 's|@includedir@|$(call pc_path,$(includedir))|' -e 's|@VERSION@|$(VERSION)|' \
    -e 's|@BLAS_LIBS@|$(strip $(CBLAS_LIBS))|'

.PHONY: install install-headers install-static install-shared install-pc install-program \
    install-man install-completion uninstall
## install: everything, to prefix (and below DESTDIR)
install: install-headers install-static install-shared install-pc install-program \
    install-man install-completion
## install-headers: (and -static, -shared, -pc, -program, -man, -completion) a part of it
install-headers:
	$(Q)$(INSTALL) -d '$(D)$(includedir)'
	$(Q)$(INSTALL) -m 644 $(HEADERS) '$(D)$(includedir)'
install-static: static
	$(Q)$(INSTALL) -d '$(D)$(libdir)'
	$(Q)$(INSTALL) -m 644 $(LIB_A) $(IO_A) '$(D)$(libdir)'
install-shared: shared
	$(Q)$(INSTALL) -d '$(D)$(libdir)'
	$(Q)for n in $(NAMES); do \
	    $(INSTALL) -m 755 $(O)/lib$$n.so '$(D)$(libdir)'/lib$$n.so.$(VERSION) && \
	    ln -sf lib$$n.so.$(VERSION) '$(D)$(libdir)'/lib$$n.so.$(SOVERSION) && \
	    ln -sf lib$$n.so.$(SOVERSION) '$(D)$(libdir)'/lib$$n.so || exit 1; done
install-pc:
	$(Q)$(INSTALL) -d '$(D)$(pkgconfigdir)'
	$(Q)for n in $(NAMES); do \
	    $(fill_pc) $$n.pc.in > '$(D)$(pkgconfigdir)'/$$n.pc || exit 1; done
install-program: program
	$(if $(PROGRAM),$(Q)$(INSTALL) -d '$(D)$(bindir)')
	$(if $(PROGRAM),$(Q)$(INSTALL) -m 755 $(PROGRAM) '$(D)$(bindir)')

install-man: man
	$(if $(MAN),$(Q)$(INSTALL) -d '$(D)$(mandir)/man1')
	$(if $(MAN),$(Q)$(INSTALL) -m 644 $(O)/man/*.1 '$(D)$(mandir)/man1')
install-completion:
	$(Q)$(INSTALL) -d '$(D)$(bashcompdir)' '$(D)$(zshcompdir)' '$(D)$(fishcompdir)'
	$(Q)$(INSTALL) -m 644 share/completion/beamlora.bash '$(D)$(bashcompdir)/beamlora'
	$(Q)$(INSTALL) -m 644 share/completion/_beamlora '$(D)$(zshcompdir)'
	$(Q)$(INSTALL) -m 644 share/completion/beamlora.fish '$(D)$(fishcompdir)'

## uninstall: remove what install has put there
uninstall:
	$(Q)for n in $(NAMES); do rm -f '$(D)$(libdir)'/lib$$n.a '$(D)$(libdir)'/lib$$n.so \
	    '$(D)$(libdir)'/lib$$n.so.$(SOVERSION) '$(D)$(libdir)'/lib$$n.so.$(VERSION) \
	    '$(D)$(pkgconfigdir)'/$$n.pc; done
	$(Q)rm -f $(patsubst include/%,'$(D)$(includedir)'/%,$(HEADERS)) '$(D)$(bindir)'/beamlora \
	    '$(D)$(mandir)'/man1/beamlora.1 '$(D)$(mandir)'/man1/beamlora-*.1 \
	    '$(D)$(bashcompdir)/beamlora' '$(D)$(zshcompdir)/_beamlora' \
	    '$(D)$(fishcompdir)/beamlora.fish'

# --- the rest -----------------------------------------------------------------------

.PHONY: dist clean help
## dist: libbeamlora-$(VERSION).tar.gz of the last commit, in build/
dist:
	$(Q)mkdir -p $(BUILD)
	$(Q)git archive --format=tar --prefix=libbeamlora-$(VERSION)/ HEAD | gzip -9n \
	    > $(BUILD)/libbeamlora-$(VERSION).tar.gz
	@echo $(BUILD)/libbeamlora-$(VERSION).tar.gz

## clean: remove build/
clean:
	$(Q)rm -rf $(BUILD)

## help: this list
help:
	@sed -n 's/^## \([a-z-]*\): \(.*\)/\1|\2/p' Makefile | sed 's/\$$(VERSION)/$(VERSION)/' | \
	    while IFS='|' read -r t d; do printf '  %-18s %s\n' "$$t" "$$d"; done
