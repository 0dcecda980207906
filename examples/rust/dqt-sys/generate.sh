#!/bin/sh
# Makes src/bindings.rs from the header with bindgen 0.73 (cargo install bindgen-cli; it needs libclang, in Debian
# libclang-dev). Enumerations travel as int32_t, so their constants are i32 here.
# usage: dqt-sys/generate.sh [HEADER]
cd "$(dirname "$0")" || exit 1
bindgen "${1:-../../../include/dqt.h}" --allowlist-item 'dqt_.*|DQT_.*' --default-enum-style consts --no-prepend-enum-name \
    --no-doc-comments --formatter=prettyplease --use-core --rust-target 1.77 --rust-edition 2021 --merge-extern-blocks |
    sed 's/^\(pub type _bindgen_ty_[0-9]* = \)::core::ffi::c_uint;/\1i32;/' >src/bindings.rs
