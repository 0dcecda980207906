//! Finds the shared library: the folder DQT_LIB_DIR; or lib/ of the tree that these crates are in; or pkg-config.
use std::{env, path::Path, path::PathBuf, process::Command};

fn pkg_config() -> Option<Vec<String>> {
    let tool = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let out = Command::new(tool).args(["--libs-only-L", "dqt"]).output().ok()?;
    let flags = String::from_utf8(out.stdout).ok()?;
    out.status
        .success()
        .then(|| flags.split_whitespace().filter_map(|f| f.strip_prefix("-L")).map(String::from).collect())
}

fn main() {
    for name in ["DQT_LIB_DIR", "PKG_CONFIG", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "PKG_CONFIG_SYSROOT_DIR"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let tree: PathBuf = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../../lib");
    let folders = if let Ok(folder) = env::var("DQT_LIB_DIR") {
        vec![folder]
    } else if tree.join("libdqt.so").exists() {
        vec![tree.canonicalize().unwrap().display().to_string()]
    } else {
        pkg_config().expect("libdqt: set DQT_LIB_DIR to its folder, or PKG_CONFIG_PATH to the folder of dqt.pc")
    };
    for folder in &folders {
        println!("cargo:rustc-link-search=native={folder}");
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
    println!("cargo:rustc-link-lib=dylib=dqt");
    // Crates that build programs read this as DEP_DQT_LIB_DIRS and pass it on as the programs' run path.
    println!("cargo:lib_dirs={}", folders.join(":"));
}
