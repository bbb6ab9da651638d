//! Who called, in the metrics of whoever was called: by the caller's certificate, so that nobody has to know its pod.

use crate::mesh::{Mesh, until};
use crate::suite::Test;
use crate::town::{CLIENT, SERVER};

/// The tests of this file.
pub const TESTS: &[Test] = &[("callers::have_names_behind_no_service", have_names)];

/// Nothing leads to the client's pod: no Service selects it.
fn have_names(mesh: &Mesh) {
    let page = || mesh.page(SERVER, 15020, "/metrics");
    let line = |metric: &str, label: &str| {
        let page = page();
        let mut lines = page.lines().filter(|line| line.starts_with(metric));
        let found = lines.find(|line| {
            line.contains("reporter=\"destination\"")
                && line.contains("source_principal=\"spiffe://cluster.local/ns/shop/sa/client\"")
                && line.contains(label)
        });
        found.map(str::to_owned)
    };
    for url in ["http://server/named", "http://server:81/named"] {
        mesh.curl(CLIENT, &[url]).ok();
    }
    let mut conn = mesh.connect(CLIENT, "server", 7000);
    conn.send("hello\n");
    assert!(conn.line().contains("hello"));
    drop(conn);
    for metric in ["istio_requests_total", "istio_tcp_connections_opened_total"] {
        let found = until(&format!("{metric} of the client's"), || {
            line(metric, "source_workload=\"client\"").ok_or_else(page)
        });
        for label in [
            "source_app=\"client\"",
            "source_canonical_service=\"client\"",
            "source_workload_namespace=\"shop\"",
        ] {
            assert!(found.contains(label), "{found}");
        }
        assert_eq!(line(metric, "source_app=\"unknown\""), None);
    }
}
