//! The `weft` that is tested.
//!
//! Enters: where this test binary lies. Leaves: the path of `weft` from the same build. Never: another one that happens to be in
//! `PATH`.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Names another binary to be tested, for example a release build.
const OVERRIDE: &str = "WEFT_BINARY";

/// `target/PROFILE/weft`; built first where it is missing.
pub fn weft() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os(OVERRIDE) {
            return path.into();
        }
        let own = std::env::current_exe().unwrap();
        let directory = own.parent().and_then(|deps| deps.parent()).unwrap();
        let path = directory.join("weft");
        if !path.is_file() {
            let profile = match directory.file_name().and_then(|name| name.to_str()) {
                Some("debug") | None => "dev",
                Some(profile) => profile,
            };
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let built = Command::new(cargo)
                .args(["build", "--quiet", "--package", "weft-cli", "--profile", profile])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .unwrap();
            assert!(
                built.success() && path.is_file(),
                "{} could not be built",
                path.display()
            );
        }
        path
    })
}
