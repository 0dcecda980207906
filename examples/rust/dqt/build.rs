//! Tests and examples find the library where dqt-sys has found it.
fn main() {
    for folder in std::env::var("DEP_DQT_LIB_DIRS").unwrap_or_default().split(':').filter(|f| !f.is_empty()) {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
