//! What the mesh can't secure: Services that lead out of it.
//!
//! In: Services and pods. Out: findings about Services of which some pods have no sidecar although their neighbours do. Never: a remark on a
//! namespace that has nothing to do with the mesh.

use crate::mesh::{Diagnostic, Mesh, in_namespace, object};

pub(super) fn find(mesh: &Mesh, findings: &mut Vec<Diagnostic>) {
    for service in mesh
        .services
        .values()
        .filter(|service| !service.selector.is_empty())
    {
        let pods: Vec<_> = in_namespace(&mesh.pods, &service.name.namespace)
            .map(|(_, pod)| pod)
            .filter(|pod| !pod.finished && object::selects(&service.selector, &pod.labels))
            .collect();
        let without = pods.iter().filter(|pod| !pod.meshed).count();
        let meshed = pods.len() - without;
        if without > 0 && meshed > 0 {
            let reason = format!(
                "{without} of its {} pods have no sidecar: requests to them are plain text, and no policy protects them",
                pods.len()
            );
            let finding = Diagnostic::warning("service-half-meshed", &service.origin).at("spec.selector");
            findings.push(
                finding
                    .because(reason)
                    .so("restart the pods that were made before injection was enabled"),
            );
        }
    }
}
