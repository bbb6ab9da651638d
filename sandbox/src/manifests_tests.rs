use super::*;

fn text(yaml: &str) -> Loaded {
    load_text(Path::new("m.yaml"), yaml)
}

#[test]
fn order_lines_and_lists() {
    let loaded = text(
        "# a comment\n---\nkind: Deployment\napiVersion: apps/v1\nmetadata: {name: web, namespace: shop}\n---\n\
         apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: web}}\n\
         - {apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n--- # last\n\n---\n",
    );
    assert_eq!(loaded.problems, []);
    let titles: Vec<_> = loaded
        .documents
        .iter()
        .map(|d| (d.title(), d.place.line))
        .collect();
    assert_eq!(
        titles,
        [
            ("Namespace shop".to_owned(), 7),
            ("Service web".to_owned(), 7),
            ("Deployment shop/web".to_owned(), 3)
        ]
    );
}

#[test]
fn a_bad_document_stops_nothing() {
    let loaded = text(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: ok\n---\napiVersion: v1\nkind: Service\nmetadata:\n  \
         name: bad\n spec: [\n---\n- 1\n---\nkind: Pod\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: 1}\n",
    );
    assert_eq!(loaded.documents.len(), 1);
    let places: Vec<_> = loaded
        .problems
        .iter()
        .map(|p| (p.place.line, p.object.clone(), p.field.clone()))
        .collect();
    assert_eq!(places.len(), 4, "{places:?}");
    assert!((6..=11).contains(&places[0].0), "{places:?}");
    assert_eq!(places[0].1.as_deref(), Some("Service bad"));
    assert_eq!(places[1].0, 12);
    assert_eq!(places[2].2.as_deref(), Some("apiVersion"));
    assert_eq!(places[3].2.as_deref(), Some("metadata.name"));
}

#[test]
fn unknown_and_double() {
    let loaded = text(
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: j}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n\
         ---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n",
    );
    assert_eq!(loaded.documents.len(), 1);
    assert!(loaded.problems[0].warning);
    assert!(
        loaded.problems[0]
            .to_string()
            .starts_with("m.yaml:1: CronJob j: kind: the sandbox does not run CronJob")
    );
    assert!(loaded.problems[1].reason.contains("m.yaml:5"));
    assert!(loaded.has_errors());
}

#[test]
fn definitions_make_kinds_known() {
    let loaded = text(
        "apiVersion: x.io/v1\nkind: Thing\nmetadata: {name: t}\n---\napiVersion: apiextensions.k8s.io/v1\n\
         kind: CustomResourceDefinition\nmetadata: {name: things.x.io}\nspec: {group: x.io, scope: Namespaced, \
         names: {kind: Thing, plural: things}, versions: [{name: v1, served: true, storage: true}]}\n",
    );
    assert_eq!(loaded.problems, []);
    assert_eq!(loaded.documents.len(), 2);
}

#[test]
fn anchors_are_followed_and_bombs_are_not() {
    let loaded = text("apiVersion: v1\nkind: ConfigMap\nmetadata: &m {name: c}\nx: *m\n");
    assert_eq!(loaded.documents[0].object["x"]["name"], "c");
    let mut bomb =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..12 {
        let aliases = vec![format!("*a{}", i - 1); 10].join(",");
        bomb.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
    }
    assert!(text(&bomb).has_errors());
}

#[test]
fn folders_and_missing_files() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(
        dir.path().join("sub/a.yml"),
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n",
    )
    .unwrap();
    std::fs::write(dir.path().join("notes.txt"), "no").unwrap();
    assert_eq!(load(&[dir.path().to_owned()]).documents.len(), 1);
    let missing = load(&[dir.path().join("none.yaml")]);
    assert!(missing.problems[0].to_string().contains("cannot be opened"));
}
