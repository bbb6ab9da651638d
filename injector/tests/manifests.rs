//! Manifests in (`manifests/*.yaml`), the injected text and what was said about it out (`*.out`).
//! `UPDATE_GOLDEN=1 cargo test` writes the latter anew.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test may panic")]

use std::fmt::Write as _;
use std::path::Path;

use weft_injector::manifest::inject;
use weft_injector::{Settings, Template};

#[test]
fn manifests_become_what_they_should() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests");
    let settings = Settings {
        template: Template {
            image: "weft.dev/weft:test".into(),
            ..Template::default()
        },
        ..Settings::default()
    };
    let mut seen = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let injected = inject(&text, "default", &settings);
        let mut got = String::new();
        for outcome in &injected.outcomes {
            writeln!(got, "# {}: {}: {}", outcome.line, outcome.object, outcome.what).unwrap();
            for warning in &outcome.warnings {
                writeln!(got, "# {}: warning: {warning}", outcome.line).unwrap();
            }
        }
        if !injected.is_refused() {
            got.push_str(&injected.text);
            let again = inject(&injected.text, "default", &settings);
            assert_eq!(again.text, injected.text, "{file:?}: twice is once");
        }
        let golden = file.with_extension("out");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &got).unwrap();
        }
        let wanted = std::fs::read_to_string(&golden).unwrap();
        assert_eq!(
            got, wanted,
            "{file:?}: run with UPDATE_GOLDEN=1 if the change is meant"
        );
        seen += 1;
    }
    assert_eq!(seen, 2);
}
