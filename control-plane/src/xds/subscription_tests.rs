//! The delta protocol of one kind, request by request.

use super::subscription::{
    BadRequest, MAX_NAME, MAX_NAMES, Outcome, REJECTED_TYPE_URL, RESPONSE_SIZE, Subscription,
};
use super::view::Layered;
use crate::translate::Items;
use std::sync::Arc;
use tokio::time::Instant;
use weft_proto::model::{Origin, Service, ServiceName};
use weft_proto::resource::{Kind, Resource};
use weft_proto::wire::discovery::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status};
use weft_proto::wire::v1;

/// A kind of which everything can be had; what is inside doesn't matter here.
const KIND: Kind = Kind::Policy;

fn service(name: &str, generation: usize) -> Resource {
    let name = ServiceName::new("shop", name);
    let hostnames = vec![format!("{}.shop.{generation}", name.name).into()];
    let origin = Origin::object("Service", "shop", &name.name);
    Resource::Service(Service {
        name,
        hostnames,
        addresses: vec![],
        ports: vec![],
        origin,
        traffic: Vec::new(),
        subsets: Vec::new(),
    })
}

fn items(list: &[(&str, usize)]) -> Items {
    Items::from_resources(
        list.iter().map(|(name, generation)| service(name, *generation)),
        None,
    )
}

fn version(items: &Items, name: &str) -> String {
    items[name].wire().version.to_string()
}

fn request() -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: KIND.type_url().into(),
        ..Default::default()
    }
}

fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    let names = names.iter().map(ToString::to_string).collect();
    DeltaDiscoveryRequest {
        resource_names_subscribe: names,
        ..request()
    }
}

fn start(request: &DeltaDiscoveryRequest) -> Subscription {
    Subscription::start(KIND, request).unwrap()
}

fn respond(subscription: &mut Subscription, items: &Items, nonce: &str) -> Option<DeltaDiscoveryResponse> {
    subscription.respond(Layered::of(items), Instant::now, || nonce.to_owned())
}

fn ack(subscription: &mut Subscription, nonce: &str) -> Outcome {
    subscription
        .request(&DeltaDiscoveryRequest {
            response_nonce: nonce.into(),
            ..request()
        })
        .unwrap()
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect()
}

#[test]
fn a_wildcard_gets_everything_then_what_changes() {
    let first = items(&[("a", 1), ("b", 1)]);
    let mut sub = start(&request());
    let response = respond(&mut sub, &first, "1").unwrap();
    assert_eq!(names(&response), ["shop/a", "shop/b"]);
    assert_eq!(
        (response.nonce.as_str(), response.type_url.as_str()),
        ("1", KIND.type_url())
    );
    assert_eq!(response.resources[0].version, version(&first, "shop/a"));
    assert!(matches!(ack(&mut sub, "1"), Outcome::Acked(_)));
    assert_eq!(respond(&mut sub, &first, "2"), None);
    let second = items(&[("a", 2), ("b", 1), ("c", 1)]);
    for name in ["shop/a", "shop/c"] {
        sub.changed(&name.into(), Instant::now());
    }
    assert_eq!(
        names(&respond(&mut sub, &second, "2").unwrap()),
        ["shop/a", "shop/c"]
    );
    ack(&mut sub, "2");
    let third = items(&[("a", 2), ("c", 1)]);
    sub.changed(&"shop/b".into(), Instant::now());
    let response = respond(&mut sub, &third, "3").unwrap();
    assert!(response.resources.is_empty());
    assert_eq!(response.removed_resources, ["shop/b"]);
}

#[test]
fn the_bytes_are_shared_by_all() {
    let all = items(&[("a", 1)]);
    let response = |mut sub: Subscription| {
        respond(&mut sub, &all, "1")
            .unwrap()
            .resources
            .remove(0)
            .resource
            .unwrap()
    };
    let (one, two) = (response(start(&request())), response(start(&request())));
    assert_eq!(one.type_url, KIND.type_url());
    assert_eq!(one.value.as_ptr(), two.value.as_ptr());
    assert_eq!(one.value.as_ptr(), all["shop/a"].wire().bytes.as_ptr());
}

#[test]
fn nothing_at_all_is_said_once() {
    let mut sub = start(&request());
    let response = respond(&mut sub, &Items::default(), "1").unwrap();
    assert!(response.resources.is_empty() && response.removed_resources.is_empty());
    ack(&mut sub, "1");
    assert_eq!(respond(&mut sub, &Items::default(), "2"), None);
}

#[test]
fn names_get_what_they_name_and_learn_what_is_not_there() {
    let all = items(&[("a", 1), ("b", 1)]);
    let mut sub = start(&subscribe(&["shop/a", "shop/none"]));
    let response = respond(&mut sub, &all, "1").unwrap();
    assert_eq!(names(&response), ["shop/a"]);
    assert_eq!(response.removed_resources, ["shop/none"]);
    ack(&mut sub, "1");
    // What nobody asked for is not sent, whatever changes.
    sub.changed(&"shop/b".into(), Instant::now());
    assert_eq!(respond(&mut sub, &all, "2"), None);
    // It appears.
    let more = items(&[("a", 1), ("none", 1)]);
    sub.changed(&"shop/none".into(), Instant::now());
    assert_eq!(names(&respond(&mut sub, &more, "2").unwrap()), ["shop/none"]);
    ack(&mut sub, "2");
    // Asked for again, it is sent again.
    sub.request(&subscribe(&["shop/a"])).unwrap();
    assert_eq!(names(&respond(&mut sub, &more, "3").unwrap()), ["shop/a"]);
    ack(&mut sub, "3");
    let gone = DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec!["shop/a".into()],
        ..request()
    };
    sub.request(&gone).unwrap();
    sub.changed(&"shop/a".into(), Instant::now());
    assert_eq!(respond(&mut sub, &items(&[("a", 9), ("none", 1)]), "4"), None);
    assert_eq!((sub.names(), sub.held()), (1, 1));
}

#[test]
fn a_resumed_stream_gets_the_difference_only() {
    let all = items(&[("a", 1), ("b", 2), ("c", 1)]);
    let mut resumed = request();
    resumed.initial_resource_versions = [
        ("shop/a".to_owned(), version(&all, "shop/a")),
        ("shop/b".to_owned(), version(&items(&[("b", 1)]), "shop/b")),
        ("shop/gone".to_owned(), "whatever".to_owned()),
    ]
    .into();
    let mut sub = start(&resumed);
    let response = respond(&mut sub, &all, "1").unwrap();
    assert_eq!(names(&response), ["shop/b", "shop/c"]);
    assert_eq!(response.removed_resources, ["shop/gone"]);
    // With nothing new, one empty response says so.
    resumed.initial_resource_versions = all
        .iter()
        .map(|(name, item)| (name.to_string(), item.wire().version.to_string()))
        .collect();
    let mut sub = start(&resumed);
    let response = respond(&mut sub, &all, "1").unwrap();
    assert!(response.resources.is_empty() && response.removed_resources.is_empty());
    // The same by name.
    resumed.resource_names_subscribe = vec!["shop/a".into(), "shop/c".into()];
    resumed
        .initial_resource_versions
        .retain(|name, _| name != "shop/b");
    let mut sub = start(&resumed);
    assert!(respond(&mut sub, &all, "1").unwrap().resources.is_empty());
}

#[test]
fn one_response_waits_at_most_and_the_newest_state_follows() {
    let mut sub = start(&request());
    respond(&mut sub, &items(&[("a", 1)]), "1").unwrap();
    for generation in 2..5 {
        sub.changed(&"shop/a".into(), Instant::now());
        assert_eq!(respond(&mut sub, &items(&[("a", generation)]), "x"), None);
    }
    // A nonce of another response acknowledges nothing.
    assert_eq!(ack(&mut sub, "0"), Outcome::Subscribed);
    assert!(sub.behind());
    ack(&mut sub, "1");
    let newest = items(&[("a", 4)]);
    let response = respond(&mut sub, &newest, "2").unwrap();
    assert_eq!(response.resources[0].version, version(&newest, "shop/a"));
    ack(&mut sub, "2");
    assert!(!sub.behind());
}

#[test]
fn a_refused_resource_is_remembered_and_holds_nothing_up() {
    let all = items(&[("a", 1), ("bad", 1)]);
    let mut sub = start(&request());
    respond(&mut sub, &all, "1").unwrap();
    let rejected = v1::Rejected {
        type_url: KIND.type_url().into(),
        name: "shop/bad".into(),
        field: "ports[0].port".into(),
        reason: "must be 1 to 65535".into(),
    };
    let detail = Any {
        type_url: REJECTED_TYPE_URL.into(),
        value: prost::Message::encode_to_vec(&rejected).into(),
    };
    let error = Status {
        code: 3,
        message: "1 of 2 refused".into(),
        details: vec![detail],
    };
    let nack = DeltaDiscoveryRequest {
        response_nonce: "1".into(),
        error_detail: Some(error),
        ..request()
    };
    assert_eq!(sub.request(&nack).unwrap(), Outcome::Nacked);
    let remembered = sub.rejected();
    assert_eq!(
        (remembered[0].name.as_str(), remembered[0].field.as_str()),
        ("shop/bad", "ports[0].port")
    );
    assert_eq!(remembered[0].version, version(&all, "shop/bad"));
    // The refused version isn't sent again; others go on.
    assert_eq!(respond(&mut sub, &all, "2"), None);
    let next = items(&[("a", 2), ("bad", 1)]);
    sub.changed(&"shop/a".into(), Instant::now());
    assert_eq!(names(&respond(&mut sub, &next, "2").unwrap()), ["shop/a"]);
    ack(&mut sub, "2");
    assert_eq!(sub.rejected().len(), 1);
    // A new version is, and the refusal is forgotten.
    let fixed = items(&[("a", 2), ("bad", 2)]);
    sub.changed(&"shop/bad".into(), Instant::now());
    assert_eq!(names(&respond(&mut sub, &fixed, "3").unwrap()), ["shop/bad"]);
    assert!(sub.rejected().is_empty());
}

#[test]
fn a_large_state_comes_in_bounded_pieces() {
    let long = "x".repeat(10_000);
    let list: Vec<_> = (0..400).map(|n| format!("{n:03}{long}")).collect();
    let all = Items::from_resources(list.iter().map(|name| service(name, 1)), None);
    let mut sub = start(&request());
    let (mut seen, mut pieces) = (0, 0);
    while let Some(response) = respond(&mut sub, &all, "n") {
        let size: usize = response
            .resources
            .iter()
            .map(|r| r.resource.as_ref().unwrap().value.len())
            .sum();
        assert!(size < RESPONSE_SIZE + 100_000);
        seen += response.resources.len();
        pieces += 1;
        ack(&mut sub, "n");
    }
    assert_eq!(seen, 400);
    assert!(pieces > 1 && !sub.behind());
}

#[test]
fn a_wildcard_can_be_taken_back() {
    let all = items(&[("a", 1), ("b", 1)]);
    let mut sub = start(&subscribe(&["*", "shop/a"]));
    assert_eq!(respond(&mut sub, &all, "1").unwrap().resources.len(), 2);
    ack(&mut sub, "1");
    sub.request(&DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec!["*".into()],
        ..request()
    })
    .unwrap();
    for name in ["shop/a", "shop/b"] {
        sub.changed(&name.into(), Instant::now());
    }
    assert_eq!(
        names(&respond(&mut sub, &items(&[("a", 2), ("b", 2)]), "2").unwrap()),
        ["shop/a"]
    );
}

#[test]
fn what_a_stream_may_ask_for_is_bounded() {
    let refused = |request: &DeltaDiscoveryRequest| Subscription::start(KIND, request).unwrap_err();
    assert_eq!(refused(&subscribe(&[""])), BadRequest::Name);
    assert_eq!(
        refused(&subscribe(&[&"x".repeat(MAX_NAME + 1)])),
        BadRequest::Name
    );
    let many: Vec<_> = (0..=MAX_NAMES).map(|n| n.to_string()).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(refused(&subscribe(&many)), BadRequest::Names);
    let mut sub = start(&subscribe(&many[1..]));
    assert_eq!(sub.request(&subscribe(&["one more"])), Err(BadRequest::Names));
}

#[test]
fn what_a_sidecar_says_is_bounded() {
    let mut sub = start(&request());
    respond(&mut sub, &items(&[("a", 1)]), "1").unwrap();
    let error = Status {
        code: 3,
        message: "é".repeat(10_000),
        details: vec![],
    };
    let nack = DeltaDiscoveryRequest {
        response_nonce: "1".into(),
        error_detail: Some(error),
        ..request()
    };
    sub.request(&nack).unwrap();
    let name: Arc<str> = "shop/a".into();
    assert!(sub.rejected()[0].reason.len() <= 1024 && sub.rejected()[0].name.is_empty());
    sub.changed(&name, Instant::now());
    assert!(respond(&mut sub, &items(&[("a", 2)]), "2").is_some());
}

#[test]
fn what_is_given_by_name_is_not_given_as_a_whole() {
    let all = items(&[("a", 1), ("b", 1)]);
    for kind in Kind::ALL.into_iter().filter(|kind| kind.on_demand()) {
        let refused = Subscription::start(kind, &subscribe(&["*"])).unwrap_err();
        assert_eq!(refused, BadRequest::Wildcard);
        // Nothing yet: answered, so that the other side knows that it has everything.
        let mut sub = Subscription::start(kind, &request()).unwrap();
        let response = respond(&mut sub, &all, "1").unwrap();
        assert!(response.resources.is_empty() && response.removed_resources.is_empty());
        ack(&mut sub, "1");
        assert_eq!(sub.request(&subscribe(&["*"])), Err(BadRequest::Wildcard));
        // One is there, one isn't, and both are answered.
        sub.request(&subscribe(&["shop/a", "shop/z"])).unwrap();
        let response = respond(&mut sub, &all, "2").unwrap();
        assert_eq!(names(&response), ["shop/a"]);
        assert_eq!(response.removed_resources, ["shop/z"]);
        ack(&mut sub, "2");
        // What others have doesn't wake this one.
        sub.changed(&"shop/b".into(), Instant::now());
        assert_eq!(respond(&mut sub, &items(&[("a", 1), ("b", 2)]), "3"), None);
        // What was given up isn't told any more, not even that it is gone.
        let mut given_up = request();
        given_up.resource_names_unsubscribe = vec!["shop/a".into()];
        sub.request(&given_up).unwrap();
        sub.changed(&"shop/a".into(), Instant::now());
        assert_eq!(respond(&mut sub, &items(&[]), "4"), None);
        assert_eq!(sub.held(), 0);
    }
}
