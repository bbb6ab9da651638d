//! Pods, services and cuts.

use std::collections::HashSet;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_netlink::nft::Protocol;
use weft_sandbox::fabric::ServicePort;
use weft_sandbox::fault::{self, Island};
use weft_sandbox::pod::{Pod, WEFT};

use crate::lab::{LONG, LOST, Lab, ask, at};

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn service(at: &str, protocol: Protocol, endpoints: &[SocketAddr]) -> ServicePort {
    let at = address(at);
    ServicePort {
        name: "test/service".into(),
        address: at.ip(),
        protocol,
        port: at.port(),
        node_port: None,
        endpoints: endpoints.to_vec(),
    }
}

pub async fn pods_reach_each_other(lab: &Lab) {
    let (a, _serving_a) = lab.server("a", 0).await;
    let (b, _serving_b) = lab.server("b", 1).await;
    for v4 in [true, false] {
        let expected = format!("b {}", at(&a, v4, 0).ip());
        assert_eq!(ask(&a, at(&b, v4, 8080)).await, Some(expected));
        assert!(ask(&b, at(&b, v4, 8080)).await.unwrap().starts_with("b "));
        // From the sandbox itself, as probes come.
        let mut answer = String::new();
        TcpStream::connect(at(&a, v4, 8080))
            .await
            .unwrap()
            .read_to_string(&mut answer)
            .await
            .unwrap();
        assert!(answer.starts_with("a "), "{answer}");
    }
    // Loopback is each pod's own, and a command inside sees the same as a connection from outside.
    assert_eq!(ask(&a, address("127.0.0.1:8080")).await.unwrap(), "a 127.0.0.1");
    let to = at(&b, false, 8080).to_string();
    let (code, said) = lab.shell(&a, |_| {}, &format!("{WEFT} ask {to}")).await;
    assert_eq!((code, said), (0, format!("b {}", at(&a, false, 0).ip())));
    // A pod reaches the sandbox's own addresses: API server, DNS.
    let listener = TcpListener::bind("10.96.0.10:53").await.unwrap();
    let (dialled, accepted) = tokio::join!(a.connect(address("10.96.0.10:53")), listener.accept());
    dialled.unwrap();
    assert_eq!(accepted.unwrap().1.ip(), at(&a, true, 0).ip());
    a.destroy(&lab.fabric).await.unwrap();
    b.destroy(&lab.fabric).await.unwrap();
}

pub async fn services(lab: &Lab) {
    let (a, _serving_a) = lab.server("a", 0).await;
    let (b, _serving_b) = lab.server("b", 1).await;
    let client = lab.pod("client", 2).await;
    let v4 = [at(&a, true, 8080), at(&b, true, 8080)];
    let v6 = [at(&b, false, 8080)];
    let mut all = vec![
        service("10.96.0.7:80", Protocol::Tcp, &v4),
        service("[fd00:10:96::7]:80", Protocol::Tcp, &v6),
        service("10.96.0.8:80", Protocol::Tcp, &v4[..1]),
        service("[fd00:10:96::8]:80", Protocol::Tcp, &v6),
        service("10.96.0.9:80", Protocol::Tcp, &[]),
    ];
    all[0].node_port = Some(30080);
    all[1].node_port = Some(30080);
    lab.fabric.set_services(&all).unwrap();

    let mut answered = HashSet::new();
    for _ in 0..40 {
        answered.insert(ask(&client, address("10.96.0.7:80")).await.unwrap());
    }
    let caller = at(&client, true, 0).ip();
    assert_eq!(
        answered,
        HashSet::from([format!("a {caller}"), format!("b {caller}")])
    );
    let caller = at(&client, false, 0).ip();
    assert_eq!(
        ask(&client, address("[fd00:10:96::7]:80")).await,
        Some(format!("b {caller}"))
    );
    assert!(ask(&client, address("10.0.0.1:30080")).await.is_some());
    assert_eq!(
        ask(&client, address("[fd00:10::1]:30080")).await,
        Some(format!("b {caller}"))
    );

    // From the sandbox itself.
    for to in ["10.96.0.8:80", "[fd00:10:96::8]:80", "10.0.0.1:30080"] {
        let mut answer = String::new();
        let asked = async {
            TcpStream::connect(to)
                .await
                .unwrap()
                .read_to_string(&mut answer)
                .await
                .unwrap();
        };
        tokio::time::timeout(LONG, asked).await.unwrap();
        assert!(!answer.is_empty());
    }
    // A pod that is its own endpoint.
    assert!(ask(&a, address("10.96.0.8:80")).await.unwrap().starts_with("a "));
    assert!(
        ask(&b, address("[fd00:10:96::8]:80"))
            .await
            .unwrap()
            .starts_with("b ")
    );
    // No endpoint, no such port, no such service: refused, not left waiting.
    for to in [
        "10.96.0.9:80",
        "10.96.0.7:81",
        "10.96.7.7:80",
        "[fd00:10:96::77]:80",
    ] {
        let refused = tokio::time::timeout(LONG, client.connect(address(to)))
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
        let refused = tokio::time::timeout(LONG, TcpStream::connect(to))
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(
            refused.kind(),
            std::io::ErrorKind::ConnectionRefused,
            "{to} from the sandbox"
        );
    }
    lab.fabric.set_services(&[]).unwrap();
    destroy(lab, [a, b, client]).await;
}

pub async fn service_changes_spare_connections(lab: &Lab) {
    let server = lab.pod("server", 0).await;
    let client = lab.pod("client", 1).await;
    let socket = server.socket(true).unwrap();
    socket.bind(at(&server, true, 9000)).unwrap();
    let listener = socket.listen(8).unwrap();
    let there = service("10.96.0.20:80", Protocol::Tcp, &[at(&server, true, 9000)]);
    lab.fabric.set_services(std::slice::from_ref(&there)).unwrap();
    let (mut near, far) = tokio::join!(client.connect(address("10.96.0.20:80")), listener.accept());
    let (near, mut far) = (near.as_mut().unwrap(), far.unwrap().0);
    for services in [vec![], vec![there.clone(), there]] {
        lab.fabric.set_services(&services).unwrap();
        near.write_all(b"still").await.unwrap();
        let mut heard = [0; 5];
        tokio::time::timeout(LONG, far.read_exact(&mut heard))
            .await
            .unwrap()
            .unwrap();
    }
    lab.fabric.set_services(&[]).unwrap();
    destroy(lab, [server, client]).await;
}

pub async fn udp_service(lab: &Lab) {
    let server = lab.pod("server", 0).await;
    let client = lab.pod("client", 1).await;
    let script = |code: &str| format!("import socket as s\nu = s.socket(s.AF_INET, s.SOCK_DGRAM)\n{code}");
    // The answering side, made in the pod's network.
    let serve = script(
        "u.bind(('0.0.0.0', 5300))\nprint('up', flush=True)\nwhile True:\n d, a = u.recvfrom(99)\n u.sendto(d, a)",
    );
    let _serving = lab.run(&server, &["python3", "-c", &serve]).await;
    crate::lab::wait_for(async || std::fs::read_to_string(lab.log(&server)).unwrap().contains("up")).await;
    let all = [
        service("10.96.0.30:53", Protocol::Udp, &[at(&server, true, 5300)]),
        service("10.96.0.31:53", Protocol::Udp, &[]),
    ];
    lab.fabric.set_services(&all).unwrap();
    let ask = script(
        "u.settimeout(9)\nu.connect(('10.96.0.30', 53))\nu.send(b'hello')\nprint(u.recv(99).decode())",
    );
    let (code, said) = lab
        .shell(
            &client,
            |c| c.argv = ["python3", "-c", &ask].map(String::from).into(),
            "",
        )
        .await;
    assert_eq!((code, said.as_str()), (0, "hello\n"));
    let here = tokio::net::UdpSocket::bind("0.0.0.0:0").await.unwrap();
    here.connect("10.96.0.30:53").await.unwrap();
    here.send(b"hi").await.unwrap();
    let mut heard = [0; 2];
    tokio::time::timeout(LONG, here.recv(&mut heard))
        .await
        .unwrap()
        .unwrap();
    // Without endpoints: port unreachable.
    let ask = script(
        "u.settimeout(9)\nu.connect(('10.96.0.31', 53))\nu.send(b'hello')\ntry:\n u.recv(9)\n\
         except ConnectionRefusedError:\n print('refused')",
    );
    let (code, said) = lab
        .shell(
            &client,
            |c| c.argv = ["python3", "-c", &ask].map(String::from).into(),
            "",
        )
        .await;
    assert_eq!((code, said.as_str()), (0, "refused\n"));
    lab.fabric.set_services(&[]).unwrap();
    destroy(lab, [server, client]).await;
}

pub async fn partition_and_heal(lab: &Lab) {
    let (a, _serving_a) = lab.server("a", 1).await;
    let (b, _serving_b) = lab.server("b", 2).await;
    let (c, _serving_c) = lab.server("c", 2).await;
    let dns = TcpListener::bind("10.96.0.10:53").await.unwrap();

    // An established connection stalls while the cut lasts and goes on afterwards.
    let socket = b.socket(true).unwrap();
    socket.bind(at(&b, true, 9000)).unwrap();
    let listener = socket.listen(8).unwrap();
    let (near, far) = tokio::join!(a.connect(at(&b, true, 9000)), listener.accept());
    let (mut near, mut far) = (near.unwrap(), far.unwrap().0);

    let networks = ["10.244.2.0/24", "fd00:10:244:2::/64"].map(|n| n.parse().unwrap());
    let mut island = Island {
        name: "node-2".into(),
        networks: networks.to_vec(),
        cut_probes: false,
    };
    fault::partition(&[island.clone()]).unwrap();
    near.write_all(b"later").await.unwrap();
    for v4 in [true, false] {
        assert_eq!(ask(&a, at(&b, v4, 8080)).await, None);
        assert_eq!(ask(&b, at(&a, v4, 8080)).await, None);
        assert!(ask(&b, at(&c, v4, 8080)).await.is_some(), "on the same node");
        assert!(probe(at(&b, v4, 8080)).await, "the sandbox's probes");
    }
    assert!(
        tokio::time::timeout(LOST, b.connect(dns.local_addr().unwrap()))
            .await
            .is_err()
    );
    assert!(
        tokio::time::timeout(LONG, a.connect(dns.local_addr().unwrap()))
            .await
            .unwrap()
            .is_ok()
    );
    let mut heard = [0; 5];
    assert!(
        tokio::time::timeout(LOST, far.read_exact(&mut heard))
            .await
            .is_err()
    );

    island.cut_probes = true;
    fault::partition(&[island]).unwrap();
    assert!(!probe(at(&b, true, 8080)).await);

    fault::partition(&[]).unwrap();
    tokio::time::timeout(LONG, far.read_exact(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&heard, b"later");
    assert!(ask(&a, at(&b, false, 8080)).await.is_some());
    destroy(lab, [a, b, c]).await;
}

/// Connects from the sandbox itself.
async fn probe(to: SocketAddr) -> bool {
    tokio::time::timeout(LOST, TcpStream::connect(to))
        .await
        .is_ok_and(|c| c.is_ok())
}

async fn destroy<const N: usize>(lab: &Lab, pods: [Pod; N]) {
    for pod in pods {
        pod.destroy(&lab.fabric).await.unwrap();
    }
}
