//! How the echo's pods are told to behave, what they have seen, and many requests to them on one connection.
//!
//! Enters: pods and what is asked of them. Leaves: who answered what. Never: a behaviour that outlives its value.

use crate::mesh::Mesh;

/// How a pod answers from now on; the usual way again when dropped.
pub struct Behaviour<'a> {
    mesh: &'a Mesh,
    pod: String,
}

impl<'a> Behaviour<'a> {
    /// As the query of the echo's `/echo/behaviour` says: `status=503`, `delay=100`.
    pub fn of(mesh: &'a Mesh, namespace: &str, pod: &str, query: &str) -> Self {
        let behaviour = Self {
            mesh,
            pod: format!("{namespace}/{pod}"),
        };
        behaviour.set(query);
        behaviour
    }

    /// From now on it is another one.
    pub fn set(&self, query: &str) {
        let url = format!("http://127.0.0.1:8080/echo/behaviour?{query}");
        self.mesh.curl(&self.pod, &["-X", "PUT", &url]).ok();
    }
}

impl Drop for Behaviour<'_> {
    fn drop(&mut self) {
        let url = "http://127.0.0.1:8080/echo/behaviour";
        drop(self.mesh.curl(&self.pod, &["-X", "PUT", url]));
    }
}

/// Requests that a pod's application has had.
pub fn seen(mesh: &Mesh, namespace: &str, pod: &str) -> u64 {
    let pod = format!("{namespace}/{pod}");
    let answer = mesh.curl(&pod, &["http://127.0.0.1:8080/echo/seen"]);
    answer.ok().body.trim().parse().unwrap()
}

/// What came back on one request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Got {
    /// Status of the answer.
    pub status: u16,
    /// The pod that answered; empty: none did.
    pub pod: String,
}

/// So many requests, one after the other on one connection of `caller` to port 80. `start`: `GET /path`.
pub fn ask(mesh: &Mesh, caller: &str, host: &str, start: &str, count: usize) -> Vec<Got> {
    let mut conn = mesh.connect(caller, host, 80);
    let one = |_| {
        conn.send(format!(
            "{start} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n"
        ));
        let head = conn.read_until("\r\n\r\n").to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .map_or(0, |length| length.trim().parse().unwrap());
        let body: serde_json::Value = serde_json::from_slice(&conn.exactly(length)).unwrap_or_default();
        Got {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            pod: body["pod"].as_str().unwrap_or_default().to_owned(),
        }
    };
    (0..count).map(one).collect()
}
