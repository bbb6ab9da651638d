//! What a gateway serves: model to wire and back, and what is refused.

#![allow(clippy::unwrap_used)] // A test panics to say that it failed.

use std::sync::Arc;
use weft_proto::model::*;
use weft_proto::resource::{Kind, Resource};
use weft_proto::wire::v1;

fn listener(name: &str, port: u16, protocol: ListenerProtocol, host: &str) -> Listener {
    let certificate = ServerCertificate {
        origin: Origin::default(),
        chain: vec![Arc::from([1, 2, 3])],
        key: Arc::from([4]),
    };
    Listener {
        origin: Origin::default(),
        name: name.into(),
        port,
        bind: port + 8_000,
        protocol,
        host: HostPattern::parse(host).unwrap(),
        certificates: match protocol {
            ListenerProtocol::Https => vec![certificate],
            _ => Vec::new(),
        },
        hosts: vec![VirtualHost {
            host: HostPattern::parse(host).unwrap(),
            rules: vec![RouteRule::default()],
        }],
        connections: vec![ConnectionRule::default()],
    }
}

fn gateway() -> Gateway {
    Gateway {
        listeners: vec![
            listener("http", 80, ListenerProtocol::Http, ""),
            listener("shop", 443, ListenerProtocol::Https, "*.shop.test"),
            listener("passed", 443, ListenerProtocol::Tls, "db.shop.test"),
            listener("tcp", 5_432, ListenerProtocol::Tcp, ""),
        ],
    }
}

#[test]
fn round_trip() {
    let mut gateway = gateway();
    let label = gateway.listeners[1].host.clone().of_one_label();
    gateway.listeners[1].hosts.push(VirtualHost {
        host: label.clone(),
        rules: Vec::new(),
    });
    gateway.listeners.push(Listener {
        host: label,
        ..gateway.listeners[1].clone()
    });
    let resource = Resource::Gateway(gateway);
    assert_eq!(resource.name(), "self");
    assert_eq!(Resource::decode(Kind::Gateway, resource.encode()), Ok(resource));
}

#[test]
fn refusals_name_the_field() {
    type Spoil = fn(&mut v1::Gateway);
    let cases: [(&str, Spoil); 9] = [
        ("listeners[0].port", |wire| wire.listeners[0].port = 0),
        ("listeners[0].bind", |wire| wire.listeners[0].bind = 70_000),
        ("listeners[0].protocol", |wire| wire.listeners[0].protocol = 9),
        ("listeners[0].hostname", |wire| {
            wire.listeners[0].hostname = "*x".into()
        }),
        ("listeners[1].certificates", |wire| {
            wire.listeners[1].certificates.clear()
        }),
        ("listeners[1].certificates[0].chain", |wire| {
            wire.listeners[1].certificates[0].chain.clear()
        }),
        ("listeners[1].certificates[0].key", |wire| {
            wire.listeners[1].certificates[0].key.clear()
        }),
        ("listeners[3].bind", |wire| wire.listeners[3].bind = 8_080),
        ("listeners[2].bind", |wire| {
            wire.listeners[2].protocol = v1::ListenerProtocol::Tcp.into()
        }),
    ];
    for (field, spoil) in cases {
        let mut wire = v1::Gateway::from(&gateway());
        spoil(&mut wire);
        assert_eq!(Gateway::try_from(wire).unwrap_err().field, field);
    }
}

#[test]
fn a_key_is_never_printed() {
    let text = format!("{:?}", gateway());
    assert!(text.contains("ServerCertificate("), "{text}");
    assert!(!text.contains("key"), "{text}");
}
