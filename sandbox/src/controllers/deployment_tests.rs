use super::*;

fn deployment(replicas: i64, image: &str) -> Value {
    json!({"metadata": {"name": "web", "uid": "d"}, "spec": {"replicas": replicas,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": image}]}}}})
}

/// Carries out one plan as the other controllers would, with every pod of the new template ready or not.
fn carry_out(sets: &mut Vec<Arc<Value>>, steps: Vec<Step>, ready: bool) {
    for step in steps {
        match step {
            Step::Create(set) => sets.push(Arc::new(*set)),
            Step::Scale(name, to) => {
                for set in sets.iter_mut().filter(|s| object::name(s) == name) {
                    let mut new = (**set).clone();
                    new["spec"]["replicas"] = to.into();
                    *set = Arc::new(new);
                }
            }
            Step::Revise(name, revision) => {
                for set in sets.iter_mut().filter(|s| object::name(s) == name) {
                    let mut new = (**set).clone();
                    new["metadata"]["annotations"][REVISION] = revision.to_string().into();
                    *set = Arc::new(new);
                }
            }
            Step::Delete(name) => sets.retain(|s| object::name(s) != name),
        }
    }
    for set in sets.iter_mut() {
        let mut new = (**set).clone();
        let had = available(&new);
        new["status"]["availableReplicas"] = if ready {
            replicas(&new)
        } else {
            had.min(replicas(&new))
        }
        .into();
        *set = Arc::new(new);
    }
}

fn roll(wanted: i64, d: &Value, sets: &mut Vec<Arc<Value>>, ready: bool) -> usize {
    for round in 0..50 {
        let steps = plan(d, sets, |_| false);
        if steps.is_empty() {
            return round;
        }
        carry_out(sets, steps, ready);
        let (total, up): (i64, i64) = (
            sets.iter().map(|s| replicas(s)).sum(),
            sets.iter().map(|s| available(s)).sum(),
        );
        assert!(
            total <= wanted + share(Some(&"25%".into()), wanted, true),
            "{total} pods in all"
        );
        if round > 0 {
            assert!(
                up >= wanted - share(Some(&"25%".into()), wanted, false),
                "{up} available"
            );
        }
    }
    panic!("it never ends");
}

#[test]
fn rolls_within_its_bounds() {
    for wanted in [1, 2, 3, 4, 10] {
        let mut sets = Vec::new();
        roll(wanted, &deployment(wanted, "1"), &mut sets, true);
        assert_eq!(sets.iter().map(|s| replicas(s)).collect::<Vec<_>>(), [wanted]);
        roll(wanted, &deployment(wanted, "2"), &mut sets, true);
        assert_eq!(sets.iter().map(|s| replicas(s)).sum::<i64>(), wanted);
        assert_eq!(sets.len(), 2, "the old one stays for a way back");
        roll(wanted, &deployment(wanted, "1"), &mut sets, true);
        assert_eq!(replicas(&sets[0]), wanted, "the old one is used again");
    }
}

#[test]
fn a_template_that_never_gets_ready_stops_the_roll() {
    let mut sets = Vec::new();
    roll(4, &deployment(4, "1"), &mut sets, true);
    roll(4, &deployment(4, "bad"), &mut sets, false);
    assert_eq!(available(&sets[0]), 3);
    assert_eq!(replicas(&sets[1]), 2);
}

#[test]
fn scaling_and_recreate() {
    let mut sets = Vec::new();
    roll(4, &deployment(4, "1"), &mut sets, true);
    assert_eq!(
        plan(&deployment(1, "1"), &sets, |_| false),
        [Step::Scale(object::name(&sets[0]).to_owned(), 1)]
    );
    let mut recreate = deployment(4, "2");
    recreate["spec"]["strategy"] = json!({"type": "Recreate"});
    assert_eq!(
        plan(&recreate, &sets, |_| true),
        [Step::Scale(object::name(&sets[0]).to_owned(), 0)]
    );
    let steps = plan(&recreate, &sets, |_| true);
    carry_out(&mut sets, steps, true);
    assert_eq!(plan(&recreate, &sets, |_| true), [], "old pods still end");
    assert!(matches!(
        plan(&recreate, &sets, |_| false).as_slice(),
        [Step::Create(_)]
    ));
}

#[test]
fn shares() {
    assert_eq!(share(Some(&json!("25%")), 1, true), 1);
    assert_eq!(share(Some(&json!("25%")), 1, false), 0);
    assert_eq!(share(Some(&json!("25%")), 10, true), 3);
    assert_eq!(share(Some(&json!(2)), 10, true), 2);
    assert_eq!(share(None, 10, true), 0);
}

#[test]
fn restart_annotation_makes_another_template() {
    let mut restarted = deployment(1, "1");
    restarted["spec"]["template"]["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/restartedAt": "now"});
    assert_ne!(template_hash(&deployment(1, "1")), template_hash(&restarted));
}
