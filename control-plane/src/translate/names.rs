//! Names and addresses of all Services, in shares that everybody gets.

use super::Items;
use crate::mesh::{Mesh, ServiceType};
use std::collections::{BTreeMap, BTreeSet};
use weft_proto::model::Names;
use weft_proto::model::names::{self, Named, Network};
use weft_proto::resource::Resource;

/// What the last shares were made of.
pub(super) struct Last<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) endpoints: &'a Items,
    pub(super) names: &'a Items,
}

/// Every share that isn't empty. With the last ones, they are made again only when something in them may be different.
pub(super) fn names(mesh: &Mesh, endpoints: &Items, last: Option<Last<'_>>) -> Items {
    if let Some(last) = &last
        && last.mesh.settings == mesh.settings
        && last.mesh.services.same(&mesh.services)
        && (last.mesh.pods.same(&mesh.pods) || networks(last.mesh) == networks(mesh))
        && last
            .endpoints
            .differing(endpoints)
            .all(|name| plain(last.endpoints, name) == plain(endpoints, name))
    {
        return last.names.clone();
    }
    let mut shards: BTreeMap<u8, (Vec<_>, Vec<Network>)> = BTreeMap::new();
    for service in mesh.services.values() {
        if service.service_type == ServiceType::ExternalName {
            continue;
        }
        let (namespace, name) = (&*service.name.namespace, &*service.name.name);
        let plain = plain(endpoints, &service.name.to_string());
        let named = Named {
            namespace,
            name,
            plain,
        };
        let shard = shards.entry(names::shard(namespace, name)).or_default();
        shard.0.push((named, service.addresses.as_slice()));
    }
    for network in networks(mesh) {
        shards.entry(network.shard()).or_default().1.push(network);
    }
    let shards = shards.into_iter().filter_map(|(shard, (services, networks))| {
        match Names::new(shard, services, networks) {
            Ok(names) => Some(Resource::Names(names)),
            Err(error) => {
                // 65,536 Services of which 1/256 are here: 16 million in the mesh.
                tracing::error!(shard, %error, "names can't be told");
                None
            }
        }
    });
    Items::from_resources(shards, last.map(|last| last.names))
}

/// Whether a Service has endpoints and none of them a sidecar.
fn plain(endpoints: &Items, name: &str) -> bool {
    let endpoints = match endpoints.get(name).map(|item| item.resource()) {
        Some(Resource::Endpoints(endpoints)) => &endpoints.endpoints,
        _ => return false,
    };
    !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.identity.is_none())
}

/// Networks in which there are pods with a sidecar.
fn networks(mesh: &Mesh) -> BTreeSet<Network> {
    let pods = mesh.pods.values().filter(|pod| super::pods::callable(pod));
    pods.flat_map(|pod| pod.addresses.iter().map(|address| Network::of(*address)))
        .collect()
}
