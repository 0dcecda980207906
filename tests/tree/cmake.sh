#!/bin/sh
# The CMake package: install into a folder, find it from a project, build the consumers with the shared and the static library
# and run them; again after the folder was moved; and versions are accepted or refused as docs/abi.md says.
. "$(dirname "$0")/common"
if ! have cmake; then
    skip "no cmake"
    finish
fi
check "make install" $MAKE -s install DESTDIR="$tmp/first" PREFIX=/usr CC="$CC" B="$B" LIBDIR="$LIBDIR"
mkdir "$tmp/moved"
mv "$tmp/first/usr" "$tmp/moved/prefix"
prefix=$tmp/moved/prefix
version=$(sed -n 's/^VERSION := //p' Makefile)
major=${version%%.*} minor=${version#*.} minor=${minor%%.*}
grep -rn '@[A-Z]*@' "$prefix/lib/cmake" >"$tmp/left"
empty "places that were not filled in" "$tmp/left"
languages=C
if have "${CXX%% *}"; then languages="C CXX"; else skip "no $CXX: C++ consumers"; fi

mkdir "$tmp/project"
cat >"$tmp/project/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.13)
project(consumers $languages)
set(CMAKE_C_STANDARD 99)
set(CMAKE_CXX_STANDARD 11)
find_package(dqt \${WANTED} REQUIRED CONFIG)
find_package(dqt \${WANTED} REQUIRED CONFIG) # a second time does nothing
if(NOT dqt_VERSION STREQUAL "$version")
  message(FATAL_ERROR "dqt_VERSION is \${dqt_VERSION}")
endif()
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
foreach(kind dqt dqt_static)
  add_executable(c_\${kind} $PWD/tests/consumers/consumer.c)
  target_link_libraries(c_\${kind} dqt::\${kind})
  if(CMAKE_CXX_COMPILER)
    add_executable(cxx_\${kind} $PWD/tests/consumers/consumer.cpp)
    target_link_libraries(cxx_\${kind} dqt::\${kind} Threads::Threads)
  endif()
endforeach()
END
# configure FOLDER WANTED VERSION: configures the project in a build folder.
configure() {
    CC=$CC CXX=$CXX cmake -S "$tmp/project" -B "$tmp/$1" -DCMAKE_PREFIX_PATH="$prefix" -DWANTED="$2" -DCMAKE_BUILD_TYPE=Release
}
refused() {
    ! "$@"
}
check "the package is found" configure build "$major.$minor"
check "the consumers build" cmake --build "$tmp/build"
for program in c_dqt c_dqt_static cxx_dqt cxx_dqt_static; do
    case "$languages $program" in "C cxx"*) continue ;; esac
    check "$program runs" "$tmp/build/$program" # the build folder's programs know where the library is
    have readelf || continue
    case $program in
    *static) check "$program does not need libdqt.so" sh -c "! readelf -d '$tmp/build/$program' | grep -q libdqt" ;;
    *) check "$program uses libdqt.so.$major" sh -c "readelf -d '$tmp/build/$program' | grep -q 'NEEDED.*libdqt.so.$major]'" ;;
    esac
done

# Which versions may be asked for: cmake runs the version file alone, in a script.
cat >"$tmp/version.cmake" <<END
set(PACKAGE_FIND_VERSION "\${WANTED}")
string(REPLACE "." ";" parts "\${WANTED}")
list(GET parts 0 PACKAGE_FIND_VERSION_MAJOR)
set(CMAKE_SIZEOF_VOID_P \${POINTER})
include("$prefix/lib/cmake/dqt/dqtConfigVersion.cmake")
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
check "a project that asks for more stops" refused configure refused "$major.$((minor + 1))"
check "a range of versions is accepted" configure range "$major.0...<$((major + 1))"
check "a range that ends before is refused" refused configure norange "0.0...0.0.1"
finish
