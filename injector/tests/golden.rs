//! Pods in (`golden/*.yaml`), decision and patch out (`golden/*.json`). `UPDATE_GOLDEN=1 cargo test` writes the latter anew.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test may panic")]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use weft_injector::Template;
use weft_injector::containers::Parts;
use weft_injector::decide::Decision;
use weft_injector::diff::diff;
use weft_injector::json::Json;
use weft_injector::verdict::judge;

#[test]
fn pods_become_what_they_should() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut seen = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut template = Template {
            image: "weft.dev/weft:test".into(),
            ..Template::default()
        };
        if name == "socket-mark" {
            template.socket_mark = Some(1337);
        }
        let parts = Parts::new(template);
        let pod: Value = serde_saphyr::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let json = Json::from(&pod);
        let verdict = judge(&json, "shop", None, &parts);
        let new = verdict.changed.as_ref().unwrap_or(&json);
        let (outcome, reason) = verdict.decision.labels();
        let message = match &verdict.decision {
            Decision::Refuse(refusal) => json!(refusal.to_string()),
            _ => Value::Null,
        };
        let patch = diff(&json, new);
        let got = json!({"decision": outcome, "reason": reason, "message": message,
            "warnings": verdict.warnings, "patch": patch});

        let mut patched = pod.clone();
        let patch: json_patch::Patch = serde_json::from_value(got["patch"].clone()).unwrap();
        json_patch::patch(&mut patched, &patch).unwrap();
        let patched = Json::from(&patched);
        assert_eq!(patched, *new, "{name}: the patch leads to the pod");
        let again = judge(&patched, "shop", None, &parts);
        assert_eq!(
            again.changed.unwrap_or(patched.share()),
            patched,
            "{name}: twice is once"
        );

        let golden = file.with_extension("json");
        if update {
            let text = serde_json::to_string_pretty(&sorted(&got)).unwrap();
            std::fs::write(&golden, text + "\n").unwrap();
        }
        let wanted: Value = serde_json::from_str(&std::fs::read_to_string(&golden).unwrap()).unwrap();
        assert_eq!(
            got, wanted,
            "{name}: run with UPDATE_GOLDEN=1 if the change is meant"
        );
        seen += 1;
    }
    assert_eq!(seen, 9);
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let map: BTreeMap<&String, Value> = map.iter().map(|(key, value)| (key, sorted(value))).collect();
            json!(map)
        }
        Value::Array(list) => list.iter().map(sorted).collect(),
        other => other.clone(),
    }
}
