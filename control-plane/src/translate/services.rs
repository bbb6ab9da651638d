//! Services as callers see them.

use crate::mesh::{DeclaredService, Mesh, ServiceType};
use std::sync::Arc;
use weft_proto::model::{Service, ServicePort};
use weft_proto::resource::Resource;

/// Every Service except aliases of outside names.
pub(super) fn services(mesh: &Mesh) -> impl Iterator<Item = Resource> {
    let services = mesh
        .services
        .values()
        .filter(|service| service.service_type != ServiceType::ExternalName);
    services.map(|declared| Resource::Service(service(mesh, declared)))
}

fn service(mesh: &Mesh, declared: &DeclaredService) -> Service {
    let (name, domain) = (&declared.name, &mesh.settings.cluster_domain);
    let short = format!("{}.{}", name.name, name.namespace).to_ascii_lowercase();
    let hostnames: [Arc<str>; 3] = [
        format!("{short}.svc.{domain}").into(),
        format!("{short}.svc").into(),
        short.into(),
    ];
    let ports = declared.ports.iter().map(|port| ServicePort {
        port: port.port,
        name: port.name.clone(),
        protocol: port.protocol,
    });
    Service {
        name: name.clone(),
        hostnames: hostnames.into(),
        addresses: declared.addresses.clone(),
        ports: ports.collect(),
        origin: declared.origin.clone(),
        traffic: Vec::new(),
        subsets: Vec::new(),
    }
}
