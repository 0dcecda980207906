#!/bin/sh
# dqt.h alone, under every compiler and language that is here, with all warnings; and what bindings cannot read is not in it.
. "$(dirname "$0")/common"
LC_ALL=C
export LC_ALL
printf '#include "dqt.h"\n#include "dqt.h"\nint user(void);\nint user(void) { return DQT_OK; }\n' >"$tmp/user.c"
cp "$tmp/user.c" "$tmp/user.cpp"
common="-Iinclude -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Wcast-align -Werror -fsyntax-only"
for compiler in "$CC" gcc clang; do
    if ! have "${compiler%% *}"; then
        skip "no $compiler"
        continue
    fi
    for standard in c99 c11 c17 c2x; do
        check "$compiler -std=$standard" $compiler -std=$standard $common -Wstrict-prototypes -Wmissing-prototypes "$tmp/user.c"
    done
done
for compiler in "$CXX" g++ clang++; do
    if ! have "${compiler%% *}"; then
        skip "no $compiler"
        continue
    fi
    for standard in c++98 c++03 c++11 c++14 c++17 c++20 c++2b; do
        check "$compiler -std=$standard" $compiler -std=$standard $common -Wold-style-cast -Wzero-as-null-pointer-constant "$tmp/user.cpp"
    done
done

# Declarations only, comments and system headers gone; what is behind them is DQT_INIT, which bindings have no use for.
sed '/^} .* extern "C" /,$d' include/dqt.h | without_comments | grep -v '^#' >"$tmp/plain"
check "dqt.h has declarations" test "$(grep -c DQT_API "$tmp/plain")" -gt 50
grep -nE '(^|[^A-Za-z_])(union|long|unsigned|short|bool|_Bool|va_list|inline|__int128|double complex)([^A-Za-z_]|$)|\.\.\.|[A-Za-z0-9_]+ *: *[0-9]+ *;' \
    "$tmp/plain" >"$tmp/awkward"
empty "unions, bit-fields, varargs, inline functions or types whose width is not fixed" "$tmp/awkward"

# Arguments come in one order: objects, inputs, options, outputs. Initialisers and the release of host bytes have only one.
order() {
    tr '\n' ' ' <"$1" | sed 's/  */ /g; s/DQT_API/\n&/g; s/;/;\n/g' | grep '^DQT_API' | grep -v '_init(\|_free(' >"$tmp/functions"
    awk '{
        arguments = $0
        sub(/^[^(]*\(/, "", arguments)
        sub(/\).*/, "", arguments)
        count = split(arguments, argument, /, /)
        reached = 0
        for (i = 1; i <= count; i++) {
            kind = 2
            if (argument[i] ~ /^(const )?dqt_(context|tensor|layer|tape|llama|updater|session|sampler) \*(const \*)?[a-z]/) kind = 1
            else if (argument[i] ~ /^size_t num_layers$/ && reached == 1) kind = 1
            else if (argument[i] ~ /^const .*_options \*/) kind = 3
            else if (argument[i] ~ /\*/ && argument[i] !~ /^const |user_data$/) kind = 4
            if (kind < reached) { print; break }
            reached = kind
        }
    }' "$tmp/functions"
}
order "$tmp/plain" >"$tmp/disorder"
check "there are functions whose arguments have an order" test "$(wc -l <"$tmp/functions")" -gt 100
empty "functions whose arguments are in another order" "$tmp/disorder"
sed 's/size_t vocab, size_t hidden, const dqt_layer_options \*options/const dqt_layer_options *options, size_t vocab, size_t hidden/' \
    "$tmp/plain" >"$tmp/planted"
check "another order is found" test "$(order "$tmp/planted" | grep -c dqt_embedding_create)" -eq 1

# No name of the interface is a keyword of C++, Rust, Zig, Python, Go, Java, C#, Swift or JavaScript, which bindings would have to
# escape. Only `out`, C#'s, is allowed to arguments, whose names callers do not write.
keywords="abstract actor addrspace alias align alignas alignof allowzero and and_eq any anyframe anytype as asm assert associatedtype
async await base become bitand bitor bool boolean box break byte callconv case cast catch chan char char16_t char32_t char8_t
checked class co_await co_return co_yield compl comptime concept const const_cast consteval constexpr constinit continue convenience
crate decimal decltype def default defer deinit del delegate delete do double dyn dynamic dynamic_cast elif else enum errdefer error
event except explicit export extends extension extern fallthrough false fileprivate final finally fixed float fn for foreach friend
from func function get global go goto guard if impl implements implicit import in indirect init inline inout instanceof int interface
internal is lambda lazy let linksection lock long loop macro map match mod module move mut mutable mutating namespace native new nil
noalias noexcept noinline none None nonlocal nosuspend not not_eq null nullptr object opaque open operator or or_eq orelse out
override package packed params pass postfix precedencegroup prefix priv private protected protocol pub public raise range readonly
ref register reinterpret_cast repeat required requires resume rethrow return sbyte sealed select self Self set short signed sizeof
some stackalloc static static_assert static_cast strictfp string struct subscript super suspend switch synchronized template test
this thread_local threadlocal throw throws trait transient True False true try type typealias typedef typeid typename typeof uint
ulong unchecked union unowned unreachable unsafe unsigned unsized use using usingnamespace ushort var virtual void volatile wchar_t
weak where while willSet with xor xor_eq yield"
printf '%s\n' $keywords | sort -u >"$tmp/keywords"
c_words="char const double enum extern float int struct typedef void"
tr -cs 'A-Za-z0-9_' '\n' <"$tmp/plain" | grep '^[A-Za-z_]' | sort -u >"$tmp/names"
check "dqt.h has names" test "$(wc -l <"$tmp/names")" -gt 400
printf '%s\n' $c_words out | sort | comm -13 - "$tmp/names" | comm -12 - "$tmp/keywords" >"$tmp/clashes"
empty "names that are keywords elsewhere" "$tmp/clashes"
sed -n 's/^dqt_[a-z_]*\.\([a-z0-9_]*\) .*/\1/p' docs/symbols-in-versions | sort -u >"$tmp/fields"
check "the list of symbols has fields" test "$(wc -l <"$tmp/fields")" -gt 100
comm -12 "$tmp/fields" "$tmp/keywords" >"$tmp/clashes"
empty "fields that are keywords elsewhere" "$tmp/clashes"

# Every enumerator is given a value, so that none moves when one is added.
tr '\n' ' ' <"$tmp/plain" | grep -o 'enum {[^}]*}' | tr '{,' '\n\n' | grep -E 'DQT_' | grep -v '=' >"$tmp/unpinned"
empty "enumerators without a value" "$tmp/unpinned"

# Structs that grow begin with struct_size; dqt_tensor_override never does.
tr '\n' ' ' <"$tmp/plain" | grep -o 'typedef struct dqt_[a-z_]* { *[^;]*;' | grep -v '{ *uint32_t struct_size;' |
    grep -v '^typedef struct dqt_tensor_override ' >"$tmp/unsized"
empty "structs that do not begin with struct_size" "$tmp/unsized"

# Every function says since when it is there, in its own comment or one before it.
check "functions say since when" test "$(grep -c 'Since [0-9]*\.[0-9]*' include/dqt.h)" -gt 40
finish
