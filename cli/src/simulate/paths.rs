//! Which paths the requests of a mesh that runs ask for: rules of routes go by them, and metrics don't have them.
//!
//! Enters: what sidecars remember of their last requests. Leaves: a few paths of each workload to each Service, and the share of each. Never: a query.

use std::collections::BTreeMap;
use std::time::Duration;
use weft_engine::explain::Stage;
use weft_proto::model::ServiceName;
use weft_proxy::recent::Served;

/// Most paths from one workload to one Service that are told apart: those that are asked for most stand for all.
const MOST: usize = 4;

/// How often each path was asked for, by workload and Service.
#[derive(Debug, Default)]
pub struct Paths(BTreeMap<(ServiceName, ServiceName), BTreeMap<String, u64>>);

impl Paths {
    /// Counts what a workload's sidecar sent within a while.
    pub fn add(&mut self, from: &ServiceName, served: &[Served], within: Duration) {
        for one in served {
            let sent = one.direction != "inbound" && u128::from(one.ago_millis) <= within.as_millis();
            if let Some(to) = service(one).filter(|_| sent && one.path.starts_with('/')) {
                let paths = self.0.entry((from.clone(), to)).or_default();
                *paths.entry(one.path.clone()).or_default() += 1;
            }
        }
    }

    /// Paths and their shares; `/` where nothing is known.
    pub fn of(&self, from: &ServiceName, to: &ServiceName) -> Vec<(String, f64)> {
        let known = self.0.get(&(from.clone(), to.clone()));
        let mut paths: Vec<(&String, u64)> = known
            .into_iter()
            .flatten()
            .map(|(path, count)| (path, *count))
            .collect();
        paths.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        paths.truncate(MOST);
        let all: u64 = paths.iter().map(|(_, count)| count).sum();
        match all {
            0 => vec![("/".to_owned(), 1.0)],
            all => paths
                .into_iter()
                .map(|(path, count)| (path.clone(), count as f64 / all as f64))
                .collect(),
        }
    }
}

/// The Service that a request was for.
fn service(one: &Served) -> Option<ServiceName> {
    let mut steps = one.explanation.steps.iter();
    let named = steps.find(|step| step.stage == Stage::Name)?;
    let origin = named
        .because
        .as_ref()
        .filter(|origin| &*origin.kind == "Service")?;
    Some(ServiceName::new(&origin.namespace, &origin.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn served(direction: &str, service: &str, path: &str, ago: u64) -> Served {
        let because = json!({"kind": "Service", "namespace": "shop", "name": service, "rule": "", "file": null, "line": 0});
        serde_json::from_value(
            json!({"direction": direction, "ago_millis": ago, "method": "GET", "authority": "a", "path": path,
            "code": 200, "flags": "", "micros": 1, "end": {"outcome": "reaches", "what": "x"},
            "steps": [{"stage": "name", "chosen": "x", "because": because}]}),
        )
        .unwrap()
    }

    #[test]
    fn shares_of_what_was_asked_for_lately() {
        let (web, cart) = (ServiceName::new("shop", "web"), ServiceName::new("shop", "cart"));
        let mut paths = Paths::default();
        let mut all = vec![
            served("outbound", "cart", "/items", 10),
            served("outbound", "cart", "/items", 20),
            served("outbound", "cart", "/items", 30),
            served("outbound", "cart", "/orders", 10),
            served("outbound", "cart", "/old", 9_000),
            served("outbound", "catalog", "/other", 10),
            served("inbound", "cart", "/in", 10),
            served("outbound", "cart", "*", 10),
        ];
        paths.add(&web, &all, Duration::from_secs(5));
        let wanted = [("/items".to_owned(), 0.75), ("/orders".to_owned(), 0.25)];
        assert_eq!(paths.of(&web, &cart), wanted);
        assert_eq!(paths.of(&cart, &web), [("/".to_owned(), 1.0)]);
        all = (0..9)
            .map(|i| served("outbound", "web", &format!("/{i}"), 1))
            .collect();
        paths.add(&cart, &all, Duration::from_secs(5));
        assert_eq!(paths.of(&cart, &web).len(), MOST);
        assert!(paths.of(&cart, &web).iter().all(|(_, share)| *share == 0.25));
    }
}
