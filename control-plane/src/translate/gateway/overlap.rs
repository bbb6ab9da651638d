//! HTTPRoutes and GRPCRoutes for the same hosts of one listener: the oldest one is there, the other kind's isn't (Gateway API, GRPCRouteSpec).
//!
//! Enters: routes with their hosts, the oldest first. Leaves: for each whether it may be there, or which one it collides with. Never: a walk
//! through all hosts that were taken before.

use super::Refusal;
use crate::mesh::Route;
use std::collections::BTreeMap;
use std::ops::Bound;
use weft_proto::model::HostPattern;

/// The hosts of one listener that routes have taken.
#[derive(Default)]
pub(super) struct Taken<'a> {
    http: Hosts<'a>,
    grpc: Hosts<'a>,
}

/// Who took a host first, by the host from its end on. Those of a wildcard end with a dot, that of any host is empty: what a wildcard covers begins
/// with it.
type Hosts<'a> = BTreeMap<String, &'a Route>;

/// In which order routes are asked: by age, then by name.
pub(super) fn age(route: &Route) -> (i64, &str, &str, &str) {
    let origin = &route.origin;
    let created = route.created.unwrap_or(i64::MAX);
    (created, &origin.namespace, &origin.name, &origin.kind)
}

impl<'a> Taken<'a> {
    /// Takes hosts of a route, unless an older one of the other kind has some of them.
    pub(super) fn take(&mut self, route: &'a Route, hosts: &[HostPattern]) -> Result<(), Refusal> {
        let (own, others) = match &*route.origin.kind {
            "HTTPRoute" => (&mut self.http, &self.grpc),
            "GRPCRoute" => (&mut self.grpc, &self.http),
            _ => return Ok(()),
        };
        let keys: Vec<String> = hosts.iter().map(key).collect();
        for (key, host) in keys.iter().zip(hosts) {
            if let Some(other) = meeting(others, key) {
                let other = &other.origin;
                let message = format!(
                    "{} {}/{} is older, or the first by name, and for the same host {host}: a listener has one kind of route for a host",
                    other.kind, other.namespace, other.name
                );
                return Err(Refusal {
                    reason: "HostnameConflict",
                    message,
                });
            }
        }
        for key in keys {
            own.entry(key).or_insert(route);
        }
        Ok(())
    }
}

fn key(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(host) | HostPattern::Suffix(host) | HostPattern::Label(host) => {
            host.chars().rev().collect()
        }
        HostPattern::Any => String::new(),
    }
}

/// Whoever has a host that a pattern covers, or a pattern that covers it.
fn meeting<'a>(hosts: &Hosts<'a>, key: &str) -> Option<&'a Route> {
    let wildcard = |key: &str| key.is_empty() || key.ends_with('.');
    let wider = key
        .match_indices('.')
        .map(|(at, _)| &key[..=at])
        .chain([""])
        .find_map(|wider| hosts.get(wider));
    if wider.is_some() || !wildcard(key) {
        return wider.or_else(|| hosts.get(key)).copied();
    }
    let (first, route) = hosts
        .range::<str, _>((Bound::Included(key), Bound::Unbounded))
        .next()?;
    first.starts_with(key).then_some(*route)
}

#[cfg(test)]
mod tests {
    use super::{Taken, age};
    use crate::mesh::{Rates, Route};
    use weft_proto::model::{HostPattern, Origin};

    fn route(kind: &str, name: &str, created: Option<i64>) -> Route {
        Route {
            created,
            generation: None,
            parents: vec![],
            gateways: vec![],
            hosts: vec![],
            rules: vec![],
            connections: vec![],
            rates: Rates::default(),
            origin: Origin::object(kind, "shop", name),
        }
    }

    #[test]
    fn kinds_share_no_host() {
        // (hosts of an HTTPRoute, hosts of a GRPCRoute, whether both may be there)
        for (http, grpc, both) in [
            (&["a.test"][..], &["a.test"][..], false),
            (&["a.test"], &["b.test"], true),
            (&["a.test", "b.test"], &["c.test", "b.test"], false),
            (&["a.test"], &["*"], false),
            (&["*"], &["*"], false),
            (&["*.test"], &["a.test"], false),
            (&["*.test"], &["test"], true),
            (&["*.test"], &["xtest"], true),
            (&["*.a.test"], &["a.test"], true),
            (&["*.a.test"], &["b.c.a.test"], false),
            (&["*.a.test"], &["*.test"], false),
            (&["*.a.test"], &["*.b.test"], true),
            (&["*.a.test"], &["*.xa.test"], true),
            (&["ab.test"], &["b.test"], true),
            (&["x.z.test", "x.a.test"], &["*.a.test"], false),
            (&["x.z.test", "x.b.test"], &["*.a.test"], true),
        ] {
            let parse = |hosts: &[&str]| -> Vec<HostPattern> {
                hosts
                    .iter()
                    .map(|host| HostPattern::parse(host).unwrap())
                    .collect()
            };
            let (first, second) = (route("HTTPRoute", "a", None), route("GRPCRoute", "b", None));
            for (first, hosts, second, others) in
                [(&first, http, &second, grpc), (&second, grpc, &first, http)]
            {
                let mut taken = Taken::default();
                assert_eq!(taken.take(first, &parse(hosts)), Ok(()));
                let found = taken.take(second, &parse(others));
                assert_eq!(found.is_ok(), both, "{hosts:?} {others:?}");
                if let Err(refusal) = found {
                    assert_eq!(refusal.reason, "HostnameConflict");
                    assert!(refusal.message.contains(&format!("shop/{}", first.origin.name)));
                    // What was refused takes nothing.
                    assert_eq!(taken.take(first, &parse(others)), Ok(()));
                }
                // One kind may share.
                assert_eq!(taken.take(first, &parse(hosts)), Ok(()));
            }
        }
    }

    #[test]
    fn the_oldest_goes_first() {
        let mut routes = [
            route("HTTPRoute", "a", None),
            route("HTTPRoute", "c", Some(2)),
            route("GRPCRoute", "b", Some(2)),
            route("HTTPRoute", "z", Some(1)),
        ];
        routes.sort_by(|a, b| age(a).cmp(&age(b)));
        let names: Vec<&str> = routes.iter().map(|route| &*route.origin.name).collect();
        assert_eq!(names, ["z", "b", "c", "a"]);
    }
}
