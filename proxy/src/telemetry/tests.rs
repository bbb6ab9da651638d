use super::*;
use std::time::Duration;

fn labels(service: &str) -> EdgeLabels {
    EdgeLabels {
        reporter: Reporter::Source,
        source: Party {
            workload: "web".into(),
            namespace: "shop".into(),
            ..Party::default()
        },
        destination: Party {
            workload: "cart".into(),
            namespace: "shop".into(),
            ..Party::default()
        },
        service: service.into(),
        service_name: "cart".into(),
        service_namespace: "shop".into(),
        security: Security::MutualTls,
    }
}

fn page(telemetry: &Telemetry) -> String {
    let mut page = String::new();
    telemetry.write(&mut page).unwrap();
    page
}

const OK: Outcome = Outcome {
    grpc: false,
    code: 200,
    grpc_status: None,
    flags: "-",
};

#[test]
fn the_standard_names_and_labels() {
    let telemetry = Telemetry::new(false);
    let edge = telemetry.edge(&labels("cart.shop.svc.cluster.local"));
    edge.record(OK, Duration::from_millis(3), 10, 200);
    edge.tcp()
        .opened
        .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let page = page(&telemetry);
    let line = page
        .lines()
        .find(|line| line.starts_with("istio_requests_total{"))
        .unwrap();
    for wanted in [
        r#"reporter="source""#,
        r#"source_workload="web""#,
        r#"source_principal="unknown""#,
        r#"destination_service="cart.shop.svc.cluster.local""#,
        r#"destination_service_name="cart""#,
        r#"request_protocol="http""#,
        r#"response_code="200""#,
        r#"grpc_response_status="""#,
        r#"response_flags="-""#,
        r#"connection_security_policy="mutual_tls""#,
    ] {
        assert!(line.contains(wanted), "{wanted} in {line}");
    }
    assert!(line.ends_with("} 1"), "{line}");
    let bucket = |le: &str| {
        let wanted = format!(r#"le="{le}""#);
        let line = page.lines().find(|line| {
            line.starts_with("istio_request_duration_milliseconds_bucket") && line.contains(&wanted)
        });
        line.unwrap_or_else(|| panic!("no bucket {le}"))
            .rsplit(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        (bucket("1.0"), bucket("5.0"), bucket("+Inf")),
        ("0".into(), "1".into(), "1".into())
    );
    assert!(page.contains("istio_tcp_connections_opened_total{"));
    assert!(page.ends_with("# EOF\n"));
}

#[test]
fn series_are_bounded() {
    let telemetry = Telemetry::new(false);
    for service in 0..3_000 {
        telemetry
            .edge(&labels(&format!("s{service}")))
            .record(OK, Duration::ZERO, 0, 0);
    }
    let edge = telemetry.edge(&labels("s0"));
    for code in 100..1_000 {
        edge.record(Outcome { code, ..OK }, Duration::ZERO, 0, 0);
    }
    for policy in 0..1_000 {
        telemetry.own().denied(&format!("shop/{policy}"));
    }
    let page = page(&telemetry);
    let count = |name: &str| page.lines().filter(|line| line.starts_with(name)).count();
    assert!(count("istio_requests_total") <= series::MAX_SERIES + series::MAX_EDGES);
    assert!(count("istio_requests_total") <= series::MAX_EDGES + series::MAX_OUTCOMES + 2);
    assert!(count("weft_denied_total") <= own::MAX_POLICIES + 1);
    assert!(page.contains(r#"destination_service="other""#));
    assert!(page.contains(r#"response_flags="other""#));
}

#[test]
fn hostile_values_are_escaped_and_cut() {
    let telemetry = Telemetry::new(false);
    let long = format!("a\"\n{}", "é".repeat(1_000));
    telemetry.edge(&labels(&long)).record(OK, Duration::ZERO, 0, 0);
    let page = page(&telemetry);
    assert!(page.lines().all(|line| line.len() < 4_096));
    assert!(page.contains(r#"destination_service="a\"\n"#));
}
