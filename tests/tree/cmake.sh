#!/bin/sh
# CMake: the installed package, with the libraries where Debian has them, moved as a whole, and installed in parts; which
# versions are accepted or refused, as docs/abi.md says; and the project itself by add_subdirectory. Consumers are built with
# the shared and the static library and run.
. "$(dirname "$0")/common"
if ! have cmake; then
    skip "no cmake"
    finish
fi
multiarch=lib/x86_64-linux-gnu
# install STAGE TARGETS: make, with the library that is under test.
stage() {
    stage_root=$1
    shift
    $MAKE -s DESTDIR="$stage_root" prefix=/usr libdir=/usr/$multiarch CC="$CC" B="$B" OUTDIR="$OUTDIR" "$@"
}
check "make install" stage "$tmp/first" install
mkdir "$tmp/moved"
mv "$tmp/first/usr" "$tmp/moved/prefix"
prefix=$tmp/moved/prefix
version=$($MAKE -s print-VERSION) soversion=$($MAKE -s print-SOVERSION)
major=${version%%.*} minor=${version#*.} minor=${minor%%.*}
grep -rn '@[A-Z_]*@' "$prefix/$multiarch/cmake" >"$tmp/left"
empty "places that were not filled in" "$tmp/left"
languages=C
if have "${CXX%% *}"; then languages="C CXX"; else skip "no $CXX: C++ consumers"; fi

# The project, and what CMake builds of the library, are kept for the next time.
mkdir -p "$B/cmake/project" && kept=$(cd "$B/cmake" && pwd) || exit 1
cat >"$kept/project/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.13)
project(consumers $languages)
set(CMAKE_C_STANDARD 99)
set(CMAKE_CXX_STANDARD 11)
if(TREE)
  add_subdirectory(\${TREE} dqt)
  set(dqt_VERSION "$version")
else()
  find_package(dqt \${WANTED} REQUIRED CONFIG)
  find_package(dqt \${WANTED} REQUIRED CONFIG) # a second time does nothing
endif()
if(NOT dqt_VERSION STREQUAL "$version")
  message(FATAL_ERROR "dqt_VERSION is \${dqt_VERSION}")
endif()
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
if(NOT KINDS)
  set(KINDS dqt dqt_static)
endif()
foreach(kind IN LISTS KINDS)
  add_executable(c_\${kind} $PWD/tests/consumers/consumer.c)
  target_link_libraries(c_\${kind} dqt::\${kind})
  if(CMAKE_CXX_COMPILER)
    add_executable(cxx_\${kind} $PWD/tests/consumers/consumer.cpp)
    target_link_libraries(cxx_\${kind} dqt::\${kind} Threads::Threads)
  endif()
endforeach()
END
# configure FOLDER WANTED OPTIONS ...: configures the project in a build folder. CMake looks for packages in multiarch folders
# once it knows that the architecture has them.
configure() {
    case $1 in /*) folder=$1 ;; *) folder=$tmp/$1 ;; esac
    wanted=$2
    shift 2
    CC=$CC CXX=$CXX cmake -S "$kept/project" -B "$folder" -DCMAKE_PREFIX_PATH="$prefix" -DWANTED="$wanted" \
        -DCMAKE_LIBRARY_ARCHITECTURE=x86_64-linux-gnu -DCMAKE_BUILD_TYPE=Release "$@"
}
check "the package is found" configure build "$major.$minor"
check "the consumers build" cmake --build "$tmp/build"
refused() {
    ! "$@"
}
# run FOLDER: the programs run where they were built, for they know where the library is.
run() {
    case $1 in /*) folder=$1 ;; *) folder=$tmp/$1 ;; esac
    for program in c_dqt c_dqt_static cxx_dqt cxx_dqt_static; do
        case "$languages $program" in "C cxx"*) continue ;; esac
        check "$1: $program runs" "$folder/$program"
        have readelf || continue
        case $program in
        *static) check "$1: $program does not need libdqt.so" sh -c "! readelf -d '$folder/$program' | grep -q libdqt" ;;
        *) check "$1: $program uses libdqt.so.$soversion" sh -c "readelf -d '$folder/$program' | grep -q 'NEEDED.*libdqt.so.$soversion]'" ;;
        esac
    done
}
run build

# The library built by CMake, as a part of the project.
tree=$kept/tree
check "add_subdirectory configures" configure "$tree" "" -DTREE="$PWD" -DCMAKE_BUILD_TYPE=Debug
check "add_subdirectory builds" cmake --build "$tree" -j 2
run "$tree"
nm -D --defined-only "$tree/dqt/libdqt.so" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort >"$tmp/by_cmake"
nm -D --defined-only "$OUTDIR/libdqt.so" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort >"$tmp/by_make"
check "it exports what make's exports" cmp "$tmp/by_make" "$tmp/by_cmake"
if have readelf; then
    for library in "$tree/dqt/libdqt.so" "$OUTDIR/libdqt.so"; do
        check "$library stays mapped" sh -c "readelf -d '$library' | grep -q NODELETE"
    done
fi
# The same flags for each file, but what CMAKE_BUILD_TYPE and the caller decide.
make_flags() {
    $MAKE -n lib CC="$CC" B="$tmp/none" OPENMP=0 CFLAGS= CPPFLAGS= | sed -n 's/.* -c \(src[^ ]*\) .*/\1 &/p' | tr ' ' '\n' |
        sed -n 's/^src.*/&/p; s/^-[fm].*/ &/p' | grep -v fPIC
}
check "there are flags to compare" test "$(make_flags | grep -c -- -ffp-contract)" -ge 50
cmake -S . -B "$tmp/flags" -DDQT_OPENMP=OFF -DCMAKE_BUILD_TYPE=None -DCMAKE_EXPORT_COMPILE_COMMANDS=ON >"$tmp/check.out" 2>&1
sed -n 's/.*"command": "\(.*\) -o .* -c .*\/\(src\/[a-z0-9_\/]*\.c\)".*/\2 \1/p' "$tmp/flags/compile_commands.json" | tr ' ' '\n' |
    sed -n 's/^src.*/&/p; s/^-[fm].*/ &/p' | grep -v fPIC >"$tmp/cmake_flags"
# per_file: "file flags ..." in order, whatever the order of files and flags.
per_file() {
    awk '/^src/ { file = $1; next } { print file, $1 }' "$1" | sort -u
}
make_flags >"$tmp/make_flags"
per_file "$tmp/make_flags" >"$tmp/make_pairs"
per_file "$tmp/cmake_flags" >"$tmp/cmake_pairs"
check "CMake's flags are make's" diff "$tmp/make_pairs" "$tmp/cmake_pairs"

# The archive whose functions are hidden in the plug-in that it is linked into has them all the same (docs/abi.md).
hidden=$kept/hidden
check "DQT_API as nothing configures" env CC="$CC" cmake -S . -B "$hidden" -DDQT_OPENMP=OFF -DCMAKE_BUILD_TYPE=None -DCMAKE_C_FLAGS="-O0 -DDQT_API="
check "DQT_API as nothing: the archive builds" cmake --build "$hidden" --target dqt_static -j 2
nm -g --defined-only "$hidden/libdqt.a" | awk 'NF == 3 { print $3 }' | sort >"$tmp/archive"
check "its names are those of the shared library" cmp "$tmp/by_make" "$tmp/archive"

# Only one of the two libraries is installed.
for part in shared static; do
    check "make install-$part" stage "$tmp/$part" install-dev "install-$part"
    check "dqt::dqt is there with install-$part" configure "only_$part" "$version" -DCMAKE_PREFIX_PATH="$tmp/$part/usr" -DKINDS=dqt
    check "install-$part: the consumer builds" cmake --build "$tmp/only_$part" --target c_dqt
    check "install-$part: the consumer runs" "$tmp/only_$part/c_dqt"
done
check "neither library" stage "$tmp/neither" install-dev

# Which versions may be asked for: cmake runs the version file alone, in a script.
cat >"$tmp/version.cmake" <<END
set(PACKAGE_FIND_VERSION "\${WANTED}")
string(REPLACE "." ";" parts "\${WANTED}")
list(GET parts 0 PACKAGE_FIND_VERSION_MAJOR)
set(CMAKE_SIZEOF_VOID_P \${POINTER})
include("$prefix/$multiarch/cmake/dqt/dqtConfigVersion.cmake")
if(NOT PACKAGE_VERSION_COMPATIBLE OR PACKAGE_VERSION_UNSUITABLE)
  message(FATAL_ERROR "refused")
endif()
if(EXACT AND NOT PACKAGE_VERSION_EXACT)
  message(FATAL_ERROR "not exact")
endif()
END
pointer=$(echo __SIZEOF_POINTER__ | $CC -E -P -)
version_file() {
    cmake -DWANTED="$1" -DPOINTER="$2" -DEXACT="$3" -P "$tmp/version.cmake"
}
check "version $version is accepted, and exact" version_file "$version" "$pointer" 1
check "version $major.0 is accepted" version_file "$major.0" "$pointer" 0
check "version $major.0 is not exact" refused version_file "$major.0" "$pointer" 1
check "version $major.$((minor + 1)) is refused" refused version_file "$major.$((minor + 1))" "$pointer" 0
check "version $((major + 1)).0 is refused" refused version_file "$((major + 1)).0" "$pointer" 0
check "pointers of another size are refused" refused version_file "$version" $((pointer / 2)) 0
check "a package without libraries is refused" refused configure none "$version" -DCMAKE_PREFIX_PATH="$tmp/neither/usr"
check "a project that asks for more stops" refused configure refused "$major.$((minor + 1))"
check "a range of versions is accepted" configure range "$major.0...<$((major + 1))"
check "a range that ends before is refused" refused configure norange "0.0...0.0.1"
finish
