#!/bin/sh
# What a distribution does: install into a folder, with the libraries where Debian has them, then build and run programs
# against what was installed, through pkg-config, with the shared and the static library, as C99, C11 and C++.
. "$(dirname "$0")/common"
LC_ALL=C
export LC_ALL
root=$tmp/root multiarch=lib/x86_64-linux-gnu
# install STAGE ARGUMENTS ...: make, with the library that is under test.
stage() {
    stage_root=$1
    shift
    $MAKE -s DESTDIR="$stage_root" CC="$CC" B="$B" OUTDIR="$OUTDIR" "$@"
}
# files STAGE: what is in it.
files() {
    (cd "$1" && find . ! -type d | sed 's/^\.//' | sort)
}
version=$($MAKE -s print-VERSION) soversion=$($MAKE -s print-SOVERSION)
touch "$tmp/begin"
check "make install" stage "$root" install prefix=/usr libdir=/usr/$multiarch
lib=$root/usr/$multiarch
cat >"$tmp/expected" <<END
/usr/include/dqt.h
/usr/include/dqt.hpp
/usr/$multiarch/cmake/dqt/dqtConfig.cmake
/usr/$multiarch/cmake/dqt/dqtConfigVersion.cmake
/usr/$multiarch/libdqt.a
/usr/$multiarch/libdqt.so
/usr/$multiarch/libdqt.so.$soversion
/usr/$multiarch/libdqt.so.$version
/usr/$multiarch/pkgconfig/dqt.pc
END
files "$root" >"$tmp/installed"
sort -o "$tmp/expected" "$tmp/expected"
check "what is installed, and where" diff "$tmp/expected" "$tmp/installed"
nm -g --defined-only "$lib/libdqt.a" | awk 'NF == 3 && $3 !~ /^dqt_/' >"$tmp/names"
empty "names in the static library that could clash with a host's" "$tmp/names"
pc() {
    check "dqt.pc: $1" grep -qx "$1" "$lib/pkgconfig/dqt.pc"
}
pc "Version: $version"
pc "prefix=/usr"
pc "libdir=\${exec_prefix}/$multiarch"
pc "includedir=\${prefix}/include"
check "the header is of this version" sh -c \
    "printf '#include \"dqt.h\"\nDQT_VERSION_MAJOR.DQT_VERSION_MINOR.DQT_VERSION_PATCH\n' | $CC -Iinclude -E -P - | tr -d ' ' | grep -q '^$version\$'"

# Parts, other folders, and their removal. Nothing is ever written outside DESTDIR or, in this tree, outside B and OUTDIR.
check "make install-dev install-shared" stage "$tmp/shared" install-dev install-shared prefix=/usr
check "a shared library without the archive" test -e "$tmp/shared/usr/lib/libdqt.so" -a ! -e "$tmp/shared/usr/lib/libdqt.a"
check "make install-dev install-static" stage "$tmp/archive" install-dev install-static prefix=/usr
check "an archive without the shared library" test -e "$tmp/archive/usr/lib/libdqt.a" -a ! -e "$tmp/archive/usr/lib/libdqt.so"
other="prefix=/p exec_prefix=/e includedir=/i/dqt pkgconfigdir=/p/share/pkgconfig"
# shellcheck disable=SC2086
check "each folder by its variable" stage "$tmp/other" install $other
files "$tmp/other" | sed 's|/[^/]*$||' | uniq -c | awk '{ print $1, $2 }' >"$tmp/folders"
printf '%s\n' '2 /e/lib/cmake/dqt' '4 /e/lib' '2 /i/dqt' '1 /p/share/pkgconfig' | sort >"$tmp/expected"
sort -o "$tmp/folders" "$tmp/folders"
check "they are where the variables say" diff "$tmp/expected" "$tmp/folders"
check "dqt.pc names them" grep -qx 'includedir=/i/dqt' "$tmp/other/p/share/pkgconfig/dqt.pc"
# shellcheck disable=SC2086
check "make uninstall" stage "$tmp/other" uninstall $other
files "$tmp/other" >"$tmp/remaining"
empty "files that uninstall leaves" "$tmp/remaining"
check "PREFIX and LIBDIR, too, are inside DESTDIR" stage "$tmp/old" install-shared PREFIX=/old LIBDIR=/old/lib64
check "they are the folders of the installation" test -e "$tmp/old/old/lib64/libdqt.so.$version"
find . -newer "$tmp/begin" -type f ! -path './.git*' ! -path "./$B/*" ! -path "./$OUTDIR/*" ! -path './build/*' >"$tmp/written"
empty "files that installing writes into the tree" "$tmp/written"

# Flags: those of the caller reach the compiler, and other flags make other objects.
check "CPPFLAGS" sh -c "$MAKE -n lib B='$tmp/none' CPPFLAGS=-DHOST=1 | grep -q -- '-DHOST=1.*src/core'"
check "CXXFLAGS" sh -c "$MAKE -n cpp B='$tmp/none' CXXFLAGS=-DHOST=1 | grep -q -- '-DHOST=1.*train.cpp'"
check "LDFLAGS and LDLIBS" sh -c "$MAKE -n lib B='$tmp/none' LDFLAGS=-Wl,-O1 LDLIBS=-lrt | tr '\n' ' ' | grep -q -- '-Wl,-O1 -Wl,-soname.*-lrt'"
all=$(ls src/*/*.c | wc -l)
for flags in OPENMP=0 CHECKED=1 CFLAGS=-O0 CPPFLAGS=-DHOST; do
    check "$flags compiles every file again" test "$($MAKE -n lib B="$tmp/none" "$flags" | grep -c -- ' -c src/')" -eq "$all"
done
objects() {
    $MAKE -s print-O "$@"
}
check "other flags, other folder" test "$(objects OPENMP=1)" != "$(objects OPENMP=0)"
check "the same flags, the same folder" test "$(objects OPENMP=0)" = "$(objects OPENMP=0)"

# The sources as a file, of the commit that is checked out.
if have git && git rev-parse HEAD >"$tmp/no" 2>&1; then
    check "make dist" $MAKE -s dist B="$tmp/dist"
    gzip -dc "$tmp/dist/libdqt-$version.tar.gz" | tar -tf - | sed "s|^libdqt-$version/||" | grep -v '/$' | sort >"$tmp/packed"
    git ls-tree -r --name-only HEAD | sort >"$tmp/committed"
    sed -i '/^$/d' "$tmp/packed"
    check "every file is packed" diff "$tmp/committed" "$tmp/packed"
else
    skip "no repository of git: make dist"
fi

# Everything that says the version says the same; what cannot read it from dqt.h is here.
for file in examples/rust/Cargo.toml examples/python/pyproject.toml; do
    check "$file is of this version" grep -qx "version = \"$version\"" $file
done
check "build.zig.zon is of this version" grep -qx "    .version = \"$version\"," build.zig.zon
check "examples/python/dqt_c.py asks for this soname" grep -q "'libdqt.so.$soversion'" examples/python/dqt_c.py

if ! have pkg-config; then
    for standard in c99 c11 c++11 c++17; do skip "no pkg-config: $standard, shared and static"; done
    finish
fi
PKG_CONFIG_LIBDIR=$lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root PKG_CONFIG_ALLOW_SYSTEM_LIBS=1 PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1
export PKG_CONFIG_LIBDIR PKG_CONFIG_SYSROOT_DIR PKG_CONFIG_ALLOW_SYSTEM_LIBS PKG_CONFIG_ALLOW_SYSTEM_CFLAGS
check "pkg-config knows the version" test "$(pkg-config --modversion dqt)" = "$version"
# The linker would take the shared library from a folder that has both.
mkdir "$tmp/static"
cp "$lib/libdqt.a" "$tmp/static/"

# consume COMPILER STANDARD SOURCE: builds and runs it with either library.
consume() {
    # shellcheck disable=SC2046
    check "$2 with the shared library builds" $1 -std="$2" -Wall -Wextra -Wpedantic -Werror "$3" \
        $(pkg-config --cflags --libs dqt) -o "$tmp/shared-$2"
    check "$2 with the shared library runs" env LD_LIBRARY_PATH="$lib" "$tmp/shared-$2"
    # shellcheck disable=SC2046
    check "$2 with the static library builds" $1 -std="$2" -Wall -Wextra -Wpedantic -Werror "$3" \
        -L"$tmp/static" $(pkg-config --static --cflags --libs dqt) -o "$tmp/static-$2"
    check "$2 with the static library runs" "$tmp/static-$2"
    if have readelf; then
        check "$2 uses libdqt.so.$soversion" sh -c "readelf -d '$tmp/shared-$2' | grep -q 'NEEDED.*libdqt.so.$soversion]'"
        check "$2 does not need libdqt.so" sh -c "! readelf -d '$tmp/static-$2' | grep -q libdqt"
    fi
}
for standard in c99 c11; do consume "$CC" $standard tests/consumers/consumer.c; done
if have "${CXX%% *}"; then
    for standard in c++11 c++17; do consume "$CXX -pthread" $standard tests/consumers/consumer.cpp; done
    # shellcheck disable=SC2046
    check "dqt.hpp is installed beside dqt.h" sh -c "echo '#include <dqt.hpp>' | $CXX -std=c++17 -fsyntax-only -x c++ $(pkg-config --cflags dqt) -"
else
    for standard in c++11 c++17; do skip "no $CXX: $standard"; done
fi
finish
