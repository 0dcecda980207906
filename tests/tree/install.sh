#!/bin/sh
# What a distribution does: install into a folder, then build and run programs against what was installed, through
# pkg-config, with the shared and the static library, as C99, C11 and C++.
. "$(dirname "$0")/common"
root=$tmp/root
check "make install" $MAKE -s install DESTDIR="$root" PREFIX=/usr CC="$CC" B="$B" LIBDIR="$LIBDIR"
version=$(sed -n 's/^VERSION := //p' Makefile)
major=${version%%.*}
for file in include/dqt.h lib/libdqt.a lib/libdqt.so lib/libdqt.so."$major" lib/libdqt.so."$version" lib/pkgconfig/dqt.pc \
    lib/cmake/dqt/dqtConfig.cmake lib/cmake/dqt/dqtConfigVersion.cmake; do
    check "$file is installed" test -s "$root/usr/$file"
done
check "nothing else is installed" test "$(find "$root" ! -type d | wc -l)" -eq 8
nm -g --defined-only "$root/usr/lib/libdqt.a" | awk 'NF == 3 && $3 !~ /^dqt_/' >"$tmp/names"
empty "names in the static library that could clash with a host's" "$tmp/names"
check "dqt.pc is of this version" grep -q "^Version: $version\$" "$root/usr/lib/pkgconfig/dqt.pc"
check "dqt.pc has the prefix" grep -q '^prefix=/usr$' "$root/usr/lib/pkgconfig/dqt.pc"
check "the header is of this version" sh -c \
    "printf '#include \"dqt.h\"\nDQT_VERSION_MAJOR.DQT_VERSION_MINOR.DQT_VERSION_PATCH\n' | $CC -Iinclude -E -P - | tr -d ' ' | grep -q '^$version\$'"

if ! have pkg-config; then
    for standard in c99 c11 c++11 c++17; do skip "no pkg-config: $standard, shared and static"; done
    finish
fi
PKG_CONFIG_LIBDIR=$root/usr/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root PKG_CONFIG_ALLOW_SYSTEM_LIBS=1 PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1
export PKG_CONFIG_LIBDIR PKG_CONFIG_SYSROOT_DIR PKG_CONFIG_ALLOW_SYSTEM_LIBS PKG_CONFIG_ALLOW_SYSTEM_CFLAGS
check "pkg-config knows the version" test "$(pkg-config --modversion dqt)" = "$version"
# The linker would take the shared library from a folder that has both.
mkdir "$tmp/static"
cp "$root/usr/lib/libdqt.a" "$tmp/static/"

# consume COMPILER STANDARD SOURCE: builds and runs it with either library.
consume() {
    check "$2 with the shared library builds" $1 -std="$2" -Wall -Wextra -Wpedantic -Werror "$3" \
        $(pkg-config --cflags --libs dqt) -o "$tmp/shared-$2"
    check "$2 with the shared library runs" env LD_LIBRARY_PATH="$root/usr/lib" "$tmp/shared-$2"
    check "$2 with the static library builds" $1 -std="$2" -Wall -Wextra -Wpedantic -Werror "$3" \
        -L"$tmp/static" $(pkg-config --static --cflags --libs dqt) -o "$tmp/static-$2"
    check "$2 with the static library runs" "$tmp/static-$2"
    if have readelf; then
        check "$2 uses libdqt.so.$major" sh -c "readelf -d '$tmp/shared-$2' | grep -q 'NEEDED.*libdqt.so.$major'"
        check "$2 does not need libdqt.so" sh -c "! readelf -d '$tmp/static-$2' | grep -q libdqt"
    fi
}
for standard in c99 c11; do consume "$CC" $standard tests/consumers/consumer.c; done
if have "${CXX%% *}"; then
    for standard in c++11 c++17; do consume "$CXX -pthread" $standard tests/consumers/consumer.cpp; done
else
    for standard in c++11 c++17; do skip "no $CXX: $standard"; done
fi
finish
