# Causeway. `make test` builds and proves; everything made lies in $(BUILD).
BUILD    ?= build
CC       ?= gcc
CFLAGS   ?= -O2 -g
ALL_CFLAGS = -std=gnu17 -D_GNU_SOURCE -Wall -Wextra -Werror -I. -I$(BUILD)/gen $(CFLAGS) $(SAN) \
             $(PKG_CFLAGS)
# A line a step; V=1 shows the commands.
Q         = $(if $(V),,@)
say       = @$(if $(V),:,printf '  %-6s %s\n' $(1) $(2))

LIB_SRC  := $(wildcard libcommon/*.c)
PROTO_C  := $(BUILD)/gen/proto/causeway.pb-c.c
PROTO_OBJ := $(PROTO_C:.c=.o)
ROUTES_C := $(BUILD)/gen/proto/routes.c
ROUTES_OBJ := $(ROUTES_C:.c=.o)
LIB_OBJ  := $(LIB_SRC:%.c=$(BUILD)/%.o) $(PROTO_OBJ) $(ROUTES_OBJ)
PACKAGES := libpq libprotobuf-c libcrypto jansson libevent libevent_pthreads libevent_openssl libssl libnats libcurl libzip zlib
PKG_CFLAGS = $(shell pkg-config --cflags $(PACKAGES))
LIBS      = -Wl,--as-needed $(shell pkg-config --libs $(PACKAGES)) -lpthread
UNIT     := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_*.c))
FUZZ_SHORT := $(patsubst tests/fuzz/fuzz_%.c,$(BUILD)/tests/test_fuzz_%,$(wildcard tests/fuzz/fuzz_*.c))
SOURCES  := $(wildcard libcommon/*.[ch] proto/*.h services/*/*.[ch] tests/*/*.[ch] tests/load/swarm/*.[ch])

DAEMONS  := $(notdir $(wildcard services/*))
DAEMON_BINS := $(DAEMONS:%=$(BUILD)/bin/%)
SWARM_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/load/swarm/*.c))
MEASURE_OBJ := $(BUILD)/tests/load/measure.o $(BUILD)/tests/load/options.o
SIM_OBJ   := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/simulator/*.c))
TOOLS     := $(addprefix $(BUILD)/bin/,swarm sink caller simulator)

.PHONY: all daemons docs test-compose cross-arm64 bootstrap up down status demo bench overload soak fault fuzz fuzzers test test-unit test-integration asan tsan valgrind format format-check lint clean
all: $(BUILD)/libcommon.a $(UNIT) $(FUZZ_SHORT) $(DAEMON_BINS) $(TOOLS)

daemons: $(DAEMON_BINS)
bootstrap:
	@scripts/bootstrap

$(PROTO_C): proto/causeway.proto
	@mkdir -p $(@D)
	$(call say,PROTO,$<)
	@protoc-c --c_out=$(@D) --proto_path=proto $<

$(PROTO_OBJ): $(PROTO_C)
	$(call say,CC,$@)
	$(Q)$(CC) $(ALL_CFLAGS) -c $< -o $@

$(ROUTES_C): proto/openapi.json proto/gen_routes.py libcommon/error.h
	@mkdir -p $(@D)
	$(call say,ROUTES,$<)
	@python3 proto/gen_routes.py proto/openapi.json $(@D)

$(ROUTES_OBJ): $(ROUTES_C) proto/route_table.h
	$(call say,CC,$@)
	$(Q)$(CC) $(ALL_CFLAGS) -c $< -o $@

# Made along with them: what includes them is made again.
$(PROTO_C:.c=.h) $(ROUTES_C:.c=.h): %.h: %.c
	@:

$(BUILD)/%.o: %.c | $(PROTO_C) $(ROUTES_C)
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/libcommon.a: $(LIB_OBJ)
	$(call say,AR,$@)
	@rm -f $@ && ar rcs $@ $^

# A daemon is its folder and libcommon; a test names foreign objects in a comment "links: a.c b.c".
linked = $(patsubst %.c,$(BUILD)/%.o,$(shell awk '/links:/ { on = 1; sub(/.*links:/, "") } on; /[*][/]/ { on = 0 }' $(1) \
                                             | grep -o '[a-z_/-]*[.]c'))
objects = $(patsubst %.c,$(BUILD)/%.o,$(wildcard services/$(1)/*.c))
.SECONDEXPANSION:
$(BUILD)/tests/%: $(BUILD)/tests/unit/%.o $$(call linked,tests/unit/$$*.c) $(BUILD)/libcommon.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(SAN) $^ -lcmocka $(LIBS) -o $@

$(FUZZ_SHORT): $(BUILD)/tests/test_fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/tests/fuzz/short.o \
    $$(call linked,tests/fuzz/fuzz_$$*.c) $(BUILD)/libcommon.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(SAN) $^ $(LIBS) -o $@

$(DAEMON_BINS): $(BUILD)/bin/%: $$(call objects,$$*) $(BUILD)/libcommon.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(SAN) $^ $(LIBS) -o $@

# The generators of load and the simulator know nothing of the platform: no libcommon.
$(BUILD)/bin/swarm: $(SWARM_OBJ) $(MEASURE_OBJ)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(SAN) $^ -lssl -lcrypto -lm -o $@

$(BUILD)/bin/sink $(BUILD)/bin/caller: $(BUILD)/bin/%: $(BUILD)/tests/load/%.o $(BUILD)/tests/load/http_peer.o $(MEASURE_OBJ)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(SAN) $^ -o $@

$(BUILD)/bin/simulator: $(SIM_OBJ)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(SAN) $^ $(shell pkg-config --libs libmosquitto jansson libcrypto) -lm -o $@

.SECONDARY:
test: bootstrap
	@$(MAKE) --no-print-directory -j"$$(nproc)" all
	@BUILD=$(BUILD) tests/run unit integration

# One half alone: programs in the process; real daemons and clients through the public API.
test-unit test-integration: bootstrap
	@$(MAKE) --no-print-directory -j"$$(nproc)" all
	@BUILD=$(BUILD) tests/run $(@:test-%=%)

up: bootstrap
	@$(MAKE) --no-print-directory -j"$$(nproc)" all
	@BUILD=$(BUILD) scripts/up

down:
	@scripts/down

status:
	@scripts/status

demo: bootstrap
	@$(MAKE) --no-print-directory -j"$$(nproc)" all
	@BUILD=$(BUILD) ONCE=$(ONCE) scripts/demo

# The three measurements with the nats-server of the next Debian release: NATS=next, which CAUSEWAY_DURABILITY=power needs.
WITH_NATS = $(if $(filter next,$(NATS)),PATH="$$(BUILD=$(BUILD) tests/load/next-nats):$$PATH")

# make bench SCENARIOS="fanin callback" RUNS=3 SECONDS_EACH=15
bench:
	@EXTRA=mosquitto scripts/bootstrap
	@$(MAKE) --no-print-directory -j"$$(nproc)" all
	@$(WITH_NATS) BUILD=$(BUILD) tests/load/bench $(if $(RUNS),--runs $(RUNS)) $(if $(SECONDS_EACH),--seconds $(SECONDS_EACH)) $(SCENARIOS)

# make overload SECONDS=600; make soak SECONDS=3600
overload soak: bootstrap
	@$(MAKE) --no-print-directory -j"$$(nproc)" all
	@$(WITH_NATS) BUILD=$(BUILD) tests/load/$@ $(if $(SECONDS),--seconds $(SECONDS))

# make fault SEED=7 ROUNDS=30: the same seed breaks the same things
fault:
	@EXTRA=faketime scripts/bootstrap
	@$(MAKE) --no-print-directory -j"$$(nproc)" all
	@BUILD=$(BUILD) tests/fault/fault $(if $(SEED),--seed $(SEED)) --rounds $(or $(ROUNDS),10)

# Each parser that faces the network or a user, for SECONDS_EACH; clang's libFuzzer.
FUZZERS := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_SAN = -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all
$(BUILD)/fuzz/%: $(BUILD)/tests/fuzz/%.o $$(call linked,tests/fuzz/$$*.c) $(BUILD)/libcommon.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(SAN) -fsanitize=fuzzer $^ $(LIBS) -o $@

fuzzers: $(FUZZERS)
fuzz:
	@EXTRA=clang scripts/bootstrap
	@$(MAKE) --no-print-directory -j"$$(nproc)" BUILD=build-fuzz CC=clang SAN="$(FUZZ_SAN)" fuzzers
	@BUILD=build-fuzz SECONDS_EACH=$(SECONDS_EACH) tests/fuzz/run

# The containers for real, as root on a machine without an engine: docs/deploy.md.
test-compose:
	@EXTRA="curl docker.io iptables debootstrap" scripts/bootstrap
	@/usr/bin/python3 -B -m pytest -q -p no:cacheprovider --timeout 2400 tests/compose

# All programs for arm64, with Debian's cross compiler; docs/deploy.md.
ARM64 = aarch64-linux-gnu
cross-arm64:
	@EXTRA="file gcc-$(ARM64)" scripts/bootstrap
	@scripts/sysroot arm64 build-sysroot/arm64
	@root=$(CURDIR)/build-sysroot/arm64 && PKG_CONFIG_SYSROOT_DIR=$$root PKG_CONFIG_LIBDIR=$$root/usr/lib/$(ARM64)/pkgconfig:$$root/usr/share/pkgconfig \
	    $(MAKE) --no-print-directory -j"$$(nproc)" BUILD=build-arm64 CC="$(ARM64)-gcc --sysroot=$$root" all
	@file build-arm64/bin/*

asan:
	@$(MAKE) --no-print-directory test BUILD=build-asan SAN="-fsanitize=address,undefined -fno-sanitize-recover=all"

# Data races where library threads meet ours: the bus, the logs on it, the resolver of the HTTP client.
TSAN_UNITS := $(patsubst tests/unit/%.c,build-tsan/tests/%,$(wildcard tests/unit/test_bus.c tests/unit/test_log*.c tests/unit/test_http_client.c))
tsan: bootstrap
	@$(MAKE) --no-print-directory -j"$$(nproc)" BUILD=build-tsan SAN=-fsanitize=thread $(TSAN_UNITS)
	@BUILD=build-tsan tests/run unit

# Leaks and what was never written, in the unit tests.
valgrind:
	@EXTRA=valgrind scripts/bootstrap
	@$(MAKE) --no-print-directory -j"$$(nproc)" all
	@BUILD=$(BUILD) WRAP="valgrind -q --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite --error-exitcode=9" tests/run unit

# What is made of tables for people.
docs:
	@python3 proto/gen_errors.py libcommon/error.h proto/openapi.json docs/errors.md

format:
	clang-format -i $(SOURCES)
	python3 proto/format_openapi.py proto/openapi.json

format-check:
	clang-format --dry-run -Werror $(SOURCES)
	python3 proto/format_openapi.py --check proto/openapi.json

# One run a file: clang-tidy 14 loses track of va_start in the second of several.
LINTED := $(LIB_SRC) $(wildcard services/*/*.c tests/load/*.c tests/load/swarm/*.c tests/simulator/*.c tests/fuzz/*.c)
lint: $(PROTO_C) $(ROUTES_C)
	@printf '%s\n' $(LINTED) | xargs -P "$$(nproc)" -I '{}' sh -c 'clang-tidy --quiet "$$1" -- -std=gnu17 -D_GNU_SOURCE \
	    -I. -I$(BUILD)/gen $(PKG_CFLAGS) 2>/dev/null || { echo "lint: $$1" >&2; exit 1; }' lint '{}'

clean:
	rm -rf build build-arm64 build-sysroot build-asan build-fuzz build-tsan

-include $(shell find $(BUILD) -name "*.d" 2>/dev/null)
