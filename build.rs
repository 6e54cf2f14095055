//! What the library's link needs.

use std::env;

/// pgrx finds the extension's SQL in a section of the library that a linker may throw away. `cargo pgrx` has the linker
/// keep it by a flag for all crates, with which dependencies are compiled apart from those of the unit tests' program,
/// which cannot be linked that way. Here the flag is the library's alone, and the two share what they depend on.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_UNIX").is_ok()
        && env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("macos")
    {
        println!("cargo:rustc-cdylib-link-arg=-Wl,--no-gc-sections");
    }
}
