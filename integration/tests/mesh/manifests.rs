//! Manifests with mistakes: each is named with file, object, field and reason, and the rest works.

use crate::mesh::{Mesh, until};
use crate::suite::Alone;
use crate::town::{echo, namespace};

/// The tests of this file.
pub const TESTS: &[Alone] = &[(
    "manifests::mistakes_are_named_and_the_rest_works",
    mistakes_are_named_and_the_rest_works,
)];

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: good, namespace: land}\nspec: {selector: {app: good}, ports: [{name: http, port: 80, targetPort: http}]}\n";

fn mistakes_are_named_and_the_rest_works() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        ("broken.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x\n  y: [\n".to_owned()),
        ("kind.yaml", "apiVersion: example.com/v1\nkind: Frobnicator\nmetadata: {name: odd, namespace: land}\n".to_owned()),
        (
            "field.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: field, namespace: land}\nspec: {selector: {app: good}, ports: [{port: 80, targetport: 8080}]}\n".to_owned(),
        ),
        (
            "value.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: value, namespace: land}\nspec: {selector: {app: good}, ports: [{port: 80000}]}\n".to_owned(),
        ),
        ("nothing.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: nothing, namespace: land}\nspec: {selector: {app: nobody}, ports: [{port: 80}]}\n".to_owned()),
        (
            "route.yaml",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: lost, namespace: land}\nspec:\n  parentRefs: [{group: '', kind: Service, name: good, port: 80}]\n  rules: [{matches: [{path: {type: PathPrefix, value: /lost}}], backendRefs: [{name: good, port: 4711}]}, {backendRefs: [{name: good, port: 80}]}]\n".to_owned(),
        ),
        ("twice.yaml", SERVICE.replace("port: 80,", "port: 81,")),
        ("good.yaml", namespace("land", true) + &echo("land", "good", 1, "") + &echo("land", "caller", 1, "") + "---\n" + SERVICE),
    ];
    for (name, text) in &files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let mesh = Mesh::start_files("manifests", &[folder.path()]);
    let complaints = std::fs::read_to_string(&mesh.complaints).unwrap();
    let line = |words: &[&str]| {
        let found = complaints
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line with {words:?} in:\n{complaints}");
    };
    line(&["broken.yaml:"]);
    line(&["kind.yaml:", "Frobnicator", "example.com/v1"]);
    line(&["field.yaml:", "Service land/field", "targetport"]);
    line(&["value.yaml:", "Service land/value", "spec.ports[0].port", "65535"]);
    line(&["twice.yaml:", "Service land/good", "good.yaml"]);

    // What only shows when all objects are known, the control plane says.
    let control_plane = mesh.pods("weft-system", "weft-control-plane").remove(0);
    for words in [["land/nothing", "selector"], ["land/lost", "4711"]] {
        until(&format!("a finding with {words:?}"), || {
            let log = mesh.log("weft-system", &control_plane.name, "control-plane");
            if log
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
            {
                Ok(())
            } else {
                Err(log)
            }
        });
    }

    // The rest works, and a rule that leads nowhere is an error of its own requests alone.
    let caller = "land/deployment/caller";
    for (path, wanted) in [("/", 200), ("/lost", 500)] {
        until(&format!("{wanted} for {path}"), || {
            let answer = mesh.curl(caller, &[&format!("http://good{path}")]);
            if answer.status == wanted {
                Ok(())
            } else {
                Err(format!("{answer:?}"))
            }
        });
    }
}
