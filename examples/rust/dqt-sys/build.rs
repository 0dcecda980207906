//! Finds libdqt or builds it. In this order: the folder DQT_LIB_DIR; lib/ of the tree that these crates are in; pkg-config;
//! and, where there is none, the C sources of that tree, by make. Programs must start as they are, so the shared library is
//! taken only where it is found again: in a folder that was named or is the tree's own, as a run path, or where the system
//! looks. Else, and with the feature `static`, the archive is linked.
use std::{env, fs, path::Path, path::PathBuf, process::Command};

/// The soname is what programs ask the system for.
fn system_has(folder: &Path) -> bool {
    let listed = Command::new("/sbin/ldconfig").arg("-p").output().map(|out| out.stdout).unwrap_or_default();
    String::from_utf8_lossy(&listed).lines().any(|line| {
        line.trim_start().starts_with("libdqt.so.") && line.split("=> ").nth(1).is_some_and(|file| Path::new(file).starts_with(folder))
    })
}

fn pkg_config() -> Option<PathBuf> {
    let tool = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let out = Command::new(tool).args(["--libs-only-L", "dqt"]).output().ok()?;
    let flags = String::from_utf8(out.stdout).ok()?;
    let folder = flags.split_whitespace().find_map(|f| f.strip_prefix("-L")).unwrap_or("/usr/lib");
    out.status.success().then(|| folder.into())
}

/// Builds the archive in OUT_DIR; nothing is written into the tree. CC_<target>, CC and DQT_OPENMP=0 may be set.
fn build(tree: &Path) -> PathBuf {
    let out = PathBuf::from(env::var("OUT_DIR").unwrap());
    let target = env::var("TARGET").unwrap().replace('-', "_");
    let compiler = env::var(format!("CC_{target}")).or_else(|_| env::var("CC")).unwrap_or_else(|_| "cc".into());
    let mut make = Command::new("make");
    make.current_dir(tree).args(["-s", "install-static"]);
    make.arg(format!("CC={compiler}")).arg(format!("B={}", out.join("build").display()));
    make.arg(format!("libdir={}", out.join("lib").display())).arg("DESTDIR=");
    make.arg(format!("OPENMP={}", env::var("DQT_OPENMP").unwrap_or_else(|_| "1".into())));
    // What another make or cargo has set for itself; cargo's own jobs are shared.
    make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").env("MAKEFLAGS", env::var("CARGO_MAKEFLAGS").unwrap_or_default());
    let done = make.status().is_ok_and(|status| status.success());
    assert!(done, "libdqt: make failed in {}; needed are a C compiler, make and binutils", tree.display());
    for path in ["src", "include", "Makefile"] {
        println!("cargo:rerun-if-changed={}", tree.join(path).display());
    }
    out.join("lib")
}

/// Links the archive, and the OpenMP that it was built with.
fn link_archive(folder: &Path) {
    let archive = folder.join("libdqt.a");
    let bytes = fs::read(&archive).unwrap_or_else(|e| panic!("libdqt: {}: {e}", archive.display()));
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=static=dqt");
    for (symbol, library) in [(&b"GOMP_parallel"[..], "gomp"), (&b"__kmpc_fork_call"[..], "omp")] {
        if bytes.windows(symbol.len()).any(|w| w == symbol) {
            println!("cargo:rustc-link-lib=dylib={library}");
        }
    }
    println!("cargo:rustc-link-lib=dylib=m");
}

/// Links the shared library. Crates that build programs read DEP_DQT_LIB_DIRS and pass it on as their run path.
fn link_shared(folder: &Path, run_path: bool) {
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=dylib=dqt");
    if run_path {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
        println!("cargo:lib_dirs={}", folder.display());
    }
}

fn main() {
    for name in ["DQT_LIB_DIR", "DQT_OPENMP", "CC", "PKG_CONFIG", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "PKG_CONFIG_SYSROOT_DIR"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let archive = env::var("CARGO_FEATURE_STATIC").is_ok();
    let tree = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../..");
    if let Ok(folder) = env::var("DQT_LIB_DIR") {
        let folder = PathBuf::from(folder);
        return if archive { link_archive(&folder) } else { link_shared(&folder, true) };
    }
    if tree.join("lib/libdqt.so").exists() && !archive {
        return link_shared(&tree.join("lib").canonicalize().unwrap(), true);
    }
    match pkg_config() {
        Some(folder) if !archive && system_has(&folder) => link_shared(&folder, false),
        Some(folder) if folder.join("libdqt.a").exists() => link_archive(&folder),
        Some(folder) if !archive => link_shared(&folder, true),
        _ if tree.join("src").exists() => link_archive(&build(&tree.canonicalize().unwrap())),
        _ => panic!("libdqt: set DQT_LIB_DIR to its folder, or PKG_CONFIG_PATH to the folder of dqt.pc"),
    }
}
