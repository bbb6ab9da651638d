//! The packaged scenario `multi-region`: manifests that `kubectl apply` would take too.

use std::path::Path;
use weft_sandbox::manifests::{self, Loaded};

/// Where the load comes from.
pub const HOME_REGION: &str = "us-east";
/// And its zone.
pub const HOME_ZONE: &str = "us-east-1a";
/// Namespace of everything.
pub const NAMESPACE: &str = "shop";
/// The nodes that run cart and catalog in the load's region.
pub const CUT_NODES: [&str; 2] = ["us-east-1a-shop", "us-east-1b-shop"];

macro_rules! files {
    ($($name:literal),+) => {
        [$(($name, include_str!(concat!("../../../demo/multi-region/", $name)))),+]
    };
}

const FILES: [(&str, &str); 7] = files!(
    "00-nodes.yaml",
    "10-namespace.yaml",
    "20-web.yaml",
    "30-cart.yaml",
    "40-catalog.yaml",
    "50-route.yaml",
    "60-policy.yaml"
);

/// The objects of the scenario.
pub fn load() -> Loaded {
    let mut all = Loaded::default();
    for (name, text) in FILES {
        let loaded = manifests::load_text(&Path::new("demo/multi-region").join(name), text);
        all.documents.extend(loaded.documents);
        all.problems.extend(loaded.problems);
    }
    all
}

/// What the load calls, as arguments of `weft load`.
pub fn load_arguments() -> Vec<String> {
    let targets = [
        ("--http1", "GET=http://cart.shop/items"),
        ("--http1", "POST=http://cart.shop/items"),
        ("--http1", "GET=http://catalog.shop/items"),
        ("--http2", "GET=http://cart.shop:81/items"),
        ("--http2", "GET=http://catalog.shop:81/items"),
        ("--grpc", "catalog.shop:9090"),
        ("--tcp", "cart.shop:7000"),
        ("--stream", "catalog.shop:7000"),
    ];
    targets
        .iter()
        .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()])
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_scenario_can_be_read() {
        let loaded = super::load();
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        assert!(loaded.documents.len() > 10);
    }
}
