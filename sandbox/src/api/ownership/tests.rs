use super::*;
use crate::api::kinds::Kinds;
use crate::api::tokens::Caller;

fn config(replicas: Option<u32>, env: &[(&str, &str)]) -> Value {
    let env: Vec<Value> = env.iter().map(|(n, v)| json!({"name": n, "value": v})).collect();
    let mut config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"a": "1"}},
        "spec": {"template": {"spec": {"containers": [{"name": "main", "image": "x", "env": env}]}}}});
    if let Some(replicas) = replicas {
        config["spec"]["replicas"] = replicas.into();
    }
    config
}

fn by(current: &mut Value, config: &Value, manager: &str, force: bool) -> Result<(), Refusal> {
    let kind = Kinds::default().by_key("deployments.apps").unwrap();
    let how = Write {
        manager,
        ..Write::by(&Caller::Admin)
    };
    let asked = Patching {
        style: Style::Apply,
        force,
        how,
    };
    apply(current, config, &kind, &asked, "apps/v1")
}

fn managers(of: &Value) -> Vec<&str> {
    object::list(of, "/metadata/managedFields")
        .iter()
        .filter_map(|m| m["manager"].as_str())
        .collect()
}

#[test]
fn what_is_given_up_goes_and_what_others_own_stays() {
    let mut live = config(Some(1), &[("A", "1"), ("B", "2")]);
    let kind = Kinds::default().by_key("deployments.apps").unwrap();
    let first = Write {
        manager: "one",
        ..Write::by(&Caller::Admin)
    };
    let set = live.clone();
    own(&mut live, &set, &kind, &first, "apps/v1");
    // Another owner adds its own.
    let other = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "annotations": {"n": "m"}},
        "spec": {"template": {"spec": {"containers": [{"name": "main", "env": [{"name": "C", "value": "3"}]}]}}}});
    by(&mut live, &other, "two", false).unwrap();
    assert_eq!(managers(&live), ["one", "two"]);
    // The first gives up its replicas and one variable.
    by(&mut live, &config(None, &[("A", "1")]), "one", false).unwrap();
    assert!(live["spec"].get("replicas").is_none());
    let env = live.pointer("/spec/template/spec/containers/0/env").unwrap();
    assert_eq!(
        env,
        &json!([{"name": "A", "value": "1"}, {"name": "C", "value": "3"}])
    );
    assert_eq!(live["metadata"]["annotations"], json!({"n": "m"}));
    // Nothing new: nothing changes.
    let before = live.clone();
    by(&mut live, &config(None, &[("A", "1")]), "one", false).unwrap();
    assert_eq!(live, before);
}

#[test]
fn conflicts_are_named_and_can_be_forced() {
    let mut live = config(Some(1), &[]);
    by(&mut live, &config(Some(1), &[]), "one", false).unwrap();
    let refused = by(&mut live, &config(Some(2), &[]), "two", false).unwrap_err();
    assert_eq!(refused.reason, "Conflict");
    assert!(
        refused
            .message
            .contains("conflict with \"one\" using apps/v1: .spec.replicas"),
        "{refused}"
    );
    assert_eq!(live["spec"]["replicas"], 1);
    by(&mut live, &config(Some(2), &[]), "two", true).unwrap();
    assert_eq!(live["spec"]["replicas"], 2);
    let refused = by(&mut live, &config(Some(1), &[]), "one", false).unwrap_err();
    assert!(refused.message.contains("\"two\""));
}

#[test]
fn an_update_takes_what_it_changes() {
    let kind = Kinds::default().by_key("deployments.apps").unwrap();
    let mut live = config(Some(1), &[("A", "1")]);
    by(&mut live, &config(Some(1), &[("A", "1")]), "one", true).unwrap();
    let before = live.clone();
    live["spec"]["replicas"] = 5.into();
    let how = Write {
        manager: "editor",
        ..Write::by(&Caller::Admin)
    };
    follow(&before, &mut live, &kind, &how);
    let refused = by(&mut live, &config(Some(1), &[("A", "1")]), "one", false).unwrap_err();
    assert!(refused.message.contains("conflict with \"editor\""), "{refused}");
    // Without the field there is no conflict, and it stays as the editor has it.
    by(&mut live, &config(None, &[("A", "1")]), "one", false).unwrap();
    assert_eq!(live["spec"]["replicas"], 5);
}

#[test]
fn sets_survive_being_written() {
    let kind = Kinds::default().by_key("services").unwrap();
    let service = json!({"metadata": {"name": "x", "finalizers": ["a/b"], "labels": {"k": "v"}},
        "spec": {"ports": [{"port": 80, "targetPort": 1}, {"port": 80, "protocol": "UDP"}], "selector": {}}});
    let set = fields::of(&service, &kind, Part::Main);
    assert_eq!(fields::read(&fields::write(&set)), set);
    let printed: Vec<String> = set.iter().map(|p| fields::print(p)).collect();
    assert!(
        printed.contains(&".spec.ports[port=80,protocol=\"TCP\"].targetPort".to_owned()),
        "{printed:?}"
    );
    assert!(printed.contains(&".metadata.finalizers[=\"a/b\"]".to_owned()));
}
