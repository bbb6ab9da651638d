use super::table::Table;
use std::sync::Arc;
use weft_proto::model::{
    Gateway, HostPattern, Listener, ListenerProtocol, Origin, RouteRule, ServerCertificate, VirtualHost,
};

fn listener(name: &str) -> Listener {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["shop.test".to_owned()]).unwrap();
    let leaf = params.self_signed(&key).unwrap();
    Listener {
        origin: Origin::object("Gateway", "shop", "front"),
        name: name.into(),
        port: 443,
        bind: 8443,
        protocol: ListenerProtocol::Https,
        host: HostPattern::Exact(format!("{name}.test").into()),
        certificates: vec![ServerCertificate {
            origin: Origin::object("Secret", "shop", name),
            chain: vec![leaf.der().to_vec().into()],
            key: key.serialize_der().into(),
        }],
        hosts: Vec::new(),
        connections: Vec::new(),
    }
}

#[test]
fn what_is_the_same_is_kept() {
    let mut gateway = Gateway {
        listeners: vec![listener("shop"), listener("blog")],
    };
    let first = Table::compile(&gateway, None).unwrap();
    gateway.listeners[0].hosts = vec![VirtualHost {
        host: HostPattern::Any,
        rules: vec![RouteRule::default()],
    }];
    let second = Table::compile(&gateway, Some(&first)).unwrap();
    let site = |table: &Table, host: &str| table.port(8443).unwrap().site(host).unwrap().clone();
    let (before, after) = (site(&first, "shop.test"), site(&second, "shop.test"));
    assert!(!Arc::ptr_eq(&before, &after), "other rules");
    let both = (before.tls.as_ref().unwrap(), after.tls.as_ref().unwrap());
    assert!(Arc::ptr_eq(both.0, both.1), "the same certificate");
    assert!(Arc::ptr_eq(
        &site(&first, "blog.test"),
        &site(&second, "blog.test")
    ));
    gateway.listeners[1].certificates = listener("blog").certificates;
    let third = Table::compile(&gateway, Some(&second)).unwrap();
    assert!(!Arc::ptr_eq(
        &site(&second, "blog.test"),
        &site(&third, "blog.test")
    ));
    assert!(third.port(443).is_none());
    assert!(third.port(8443).unwrap().site("other.test").is_none());
}
