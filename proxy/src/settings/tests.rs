use super::*;

fn with(extra: &[(&str, &str)]) -> Result<Settings, Invalid> {
    let base = [
        ("POD_NAME", "web-1"),
        ("POD_NAMESPACE", "shop"),
        ("INSTANCE_IPS", "10.244.1.2,fd00::2"),
    ];
    Settings::read(|name| {
        extra
            .iter()
            .chain(&base)
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    })
}

#[test]
fn what_the_injector_sets_is_enough() {
    let settings = with(&[]).unwrap();
    assert_eq!(
        settings.control_plane.host.as_ref(),
        "weft-control-plane.weft-system.svc"
    );
    assert_eq!(settings.control_plane.port, 15012);
    assert_eq!(settings.pod.addresses.len(), 2);
    assert_eq!(
        settings.identity().unwrap().to_string(),
        "spiffe://cluster.local/ns/shop/sa/default"
    );
    assert_eq!(settings.ports.inbound, 15006);
    assert!(settings.pod.owns("10.244.1.2".parse().unwrap()));
    assert!(!settings.pod.owns("10.244.1.3".parse().unwrap()));
}

#[test]
fn wrong_values_are_named() {
    for (name, value, wanted) in [
        ("POD_NAME", "", "POD_NAME is not set"),
        (
            "INSTANCE_IPS",
            "10.0.0",
            "INSTANCE_IPS: \"10.0.0\" is no IP address",
        ),
        (
            "WEFT_CONTROL_PLANE",
            "nowhere",
            "WEFT_CONTROL_PLANE: \"nowhere\" is not host:port",
        ),
        ("WEFT_CONTROL_PLANE", "a:0", "is not host:port"),
        (
            "WEFT_TRUST_DOMAIN",
            "Cluster.Local",
            "WEFT_TRUST_DOMAIN: a trust domain has",
        ),
        (
            "WEFT_WORKERS",
            "65",
            "WEFT_WORKERS: \"65\" is not a number from 1 to 64",
        ),
        (
            "WEFT_INBOUND_CONCURRENCY",
            "auto",
            "WEFT_INBOUND_CONCURRENCY: \"auto\" is neither adaptive nor a number from 1 to 100000",
        ),
        ("WEFT_SOCKET_MARK", "0", "WEFT_SOCKET_MARK"),
        ("WEFT_LOG", "loud", "WEFT_LOG: \"loud\""),
        ("WEFT_ACCESS_LOG", "1", "WEFT_ACCESS_LOG"),
        ("WEFT_APP_PROBES", "{", "WEFT_APP_PROBES: not a list"),
        ("POD_NAMESPACE", "a/b", "POD_NAMESPACE"),
    ] {
        let error = with(&[(name, value)]).unwrap_err().to_string();
        assert!(error.contains(wanted), "{name}={value}: {error}");
    }
}

#[test]
fn ipv6_control_plane() {
    let settings = with(&[("WEFT_CONTROL_PLANE", "[fd00::1]:15012")]).unwrap();
    assert_eq!(settings.control_plane.host.as_ref(), "fd00::1");
}
