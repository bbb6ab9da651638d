//! Model to wire and back is the identity; bytes from outside never panic and never pass unchecked.

#![allow(clippy::unwrap_used)] // A test panics to say that it failed.

use proptest::prelude::*;
use std::sync::Arc;
use weft_proto::model::*;
use weft_proto::resource::{Kind, Resource, version};

fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-z][a-z0-9-]{0,12}".prop_map(Into::into)
}

fn origin() -> impl Strategy<Value = Origin> {
    (
        text(),
        text(),
        text(),
        text(),
        proptest::option::of((text(), 1u32..500)),
    )
        .prop_map(|(kind, namespace, name, rule, file)| Origin {
            kind,
            namespace,
            name,
            rule,
            line: file.as_ref().map_or(0, |f| f.1),
            file: file.map(|f| f.0),
        })
}

fn matcher() -> impl Strategy<Value = StringMatch> {
    (0..6, text()).prop_map(|(kind, text)| match kind {
        0 => StringMatch::Exact(text),
        1 => StringMatch::Prefix(text),
        2 => StringMatch::Suffix(text),
        3 => StringMatch::PathPrefix(text),
        4 => StringMatch::Regex(text),
        _ => StringMatch::Present,
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let source = (
        proptest::collection::vec(matcher(), 0..3),
        proptest::collection::vec(matcher(), 0..3),
    )
        .prop_map(|(principals, not_namespaces)| Source {
            principals,
            not_namespaces,
            ip_blocks: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/64".parse().unwrap()],
            ..Default::default()
        });
    let operation = (
        proptest::collection::vec(1u16.., 0..3),
        proptest::collection::vec(matcher(), 0..3),
    )
        .prop_map(|(ports, paths)| Operation {
            ports,
            paths,
            ..Default::default()
        });
    let rule = (
        origin(),
        proptest::collection::vec(source, 0..3),
        proptest::collection::vec(operation, 0..3),
        proptest::option::of(text()),
    )
        .prop_map(|(origin, from, to, unsupported)| PolicyRule {
            origin,
            from,
            to,
            unsupported,
        });
    (origin(), any::<bool>(), proptest::collection::vec(rule, 0..4)).prop_map(|(origin, allow, rules)| {
        Policy {
            origin,
            action: if allow { Action::Allow } else { Action::Deny },
            rules,
        }
    })
}

fn endpoints() -> impl Strategy<Value = Endpoints> {
    let endpoint = (
        text(),
        any::<[u8; 4]>(),
        any::<[u8; 16]>(),
        1u16..,
        1u16..,
        0usize..3,
        1u32..100,
        any::<bool>(),
    )
        .prop_map(
            |(pod, four, six, port, target, health, weight, meshed)| Endpoint {
                workload: Workload {
                    pod,
                    ..Default::default()
                },
                addresses: vec![four.into(), six.into()],
                ports: vec![(port, target)],
                locality: Locality::new("eu", "eu-1", "node"),
                health: [Health::Ready, Health::Draining, Health::Unready][health],
                weight,
                identity: meshed.then(|| "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()),
                labels: Vec::new(),
                hint_zones: Vec::new(),
                hint_nodes: Vec::new(),
                hostname: "".into(),
            },
        );
    (text(), proptest::collection::vec(endpoint, 0..5)).prop_map(|(name, endpoints)| Endpoints {
        service: ServiceName::new("shop", &name),
        endpoints,
    })
}

proptest! {
    #[test]
    fn round_trip(policy in policy(), endpoints in endpoints()) {
        for resource in [Resource::Policy(policy), Resource::Endpoints(endpoints)] {
            let bytes = resource.encode();
            prop_assert_eq!(version(&bytes), version(&resource.encode()));
            prop_assert_eq!(Resource::decode(resource.kind(), bytes), Ok(resource));
        }
    }

    #[test]
    fn any_bytes_are_a_resource_or_a_refusal(kind in 0usize..Kind::ALL.len(), bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Resource::decode(Kind::ALL[kind], bytes.into());
    }
}

#[test]
fn refusals_name_the_field() {
    use weft_proto::wire::v1;
    let mut wire = v1::Endpoints::from(&Endpoints {
        service: ServiceName::new("shop", "cart"),
        endpoints: vec![Endpoint {
            workload: Workload::default(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            ports: vec![(80, 8080)],
            locality: Locality::default(),
            health: Health::Ready,
            weight: 1,
            identity: None,
            labels: Vec::new(),
            hint_zones: Vec::new(),
            hint_nodes: Vec::new(),
            hostname: "".into(),
        }],
    });
    wire.endpoints[0].ports[0].target_port = 70_000;
    let refusal = Endpoints::try_from(wire.clone()).unwrap_err();
    assert_eq!(refusal.field, "endpoints[0].ports[0].target_port");
    wire.endpoints[0].addresses = vec![vec![1, 2, 3].into()];
    assert_eq!(
        Endpoints::try_from(wire.clone()).unwrap_err().field,
        "endpoints[0].addresses[0]"
    );
    wire.endpoints[0].addresses = vec![vec![1, 2, 3, 4].into()];
    wire.endpoints[0].ports.clear();
    wire.endpoints[0].identity = "spiffe://x".into();
    assert_eq!(
        Endpoints::try_from(wire.clone()).unwrap_err().field,
        "endpoints[0].identity"
    );
    wire.endpoints[0].identity.clear();
    wire.endpoints[0].weight = 0;
    assert_eq!(
        Endpoints::try_from(wire).unwrap_err().field,
        "endpoints[0].weight"
    );

    let mut route = v1::Routes::from(&Routes {
        service: ServiceName::new("shop", "cart"),
        rules: vec![RouteRule::default()],
        connections: Vec::new(),
        pods: Vec::new(),
    });
    route.rules[0].request_headers = Some(v1::HeaderChanges {
        set: vec![v1::Header {
            name: "a".into(),
            value: "x\ny".into(),
        }],
        ..Default::default()
    });
    assert_eq!(
        Routes::try_from(route).unwrap_err().field,
        "rules[0].request_headers.set[0].value"
    );
}
