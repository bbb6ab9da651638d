//! A request that the mesh has served: what the sidecars on its way remember of it.
//!
//! Enters: a request id. Leaves: what each of them decided, in the order of the way. Never: a query, a header or a body: they are not kept.

use crate::reach::{Door, Reach};
use crate::status;
use anyhow::Context as _;
use serde::Serialize;
use std::cmp::Reverse;
use std::fmt::Write as _;
use std::time::Duration;
use weft_engine::explain::text::{Style, render};
use weft_proto::model::annotations::PORT_ADMIN;
use weft_proxy::recent::Served;

/// How long a sidecar may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Sidecars that are asked at once.
const AT_ONCE: usize = 16;

/// What one sidecar remembers.
#[derive(Debug, Serialize)]
pub struct Remembered {
    /// Its pod.
    pod: String,
    #[serde(flatten)]
    served: Served,
}

/// Asks the sidecars of these pods (namespace and name).
pub async fn ask(reach: &Reach, pods: &[(String, String)], id: &str) -> anyhow::Result<Vec<Remembered>> {
    let path = format!("/requests?id={}", escaped(id));
    let mut found = Vec::new();
    let mut silent = Vec::new();
    for some in pods.chunks(AT_ONCE) {
        let mut asked = tokio::task::JoinSet::new();
        for (namespace, pod) in some {
            let (reach, namespace, pod, path) = (reach.clone(), namespace.clone(), pod.clone(), path.clone());
            asked.spawn(async move {
                let door = Door {
                    namespace: &namespace,
                    pod: &pod,
                    port: PORT_ADMIN,
                };
                let page = reach.page(door, &path, PATIENCE).await;
                (format!("{namespace}/{pod}"), page)
            });
        }
        while let Some(answer) = asked.join_next().await {
            match answer? {
                (pod, Ok(page)) => {
                    let served: Vec<Served> = serde_json::from_value(page)?;
                    found.extend(served.into_iter().map(|served| Remembered {
                        pod: pod.clone(),
                        served,
                    }));
                }
                (_, Err(error)) => silent.push(error),
            }
        }
    }
    if found.is_empty()
        && let Some(error) = silent.pop()
    {
        let others = silent.len();
        return Err(error).with_context(|| format!("no sidecar knows it, and {} can't be asked", others + 1));
    }
    Ok(in_order(found))
}

/// The order of the way: who sends before the pod that it went to, what a pod receives before what it sends on.
///
/// Of what isn't connected the longest is first, for whoever waits for another takes longer. (Sidecars are asked one after the other: when a request began
/// can't be compared as finely.)
fn in_order(mut found: Vec<Remembered>) -> Vec<Remembered> {
    let received = |one: &Remembered| one.served.direction == "inbound";
    found.sort_by_key(|one| (Reverse(one.served.micros), received(one), one.pod.clone()));
    let leads_to = |one: &Remembered, other: &Remembered| match received(one) {
        true => !received(other) && other.pod == one.pod,
        false => {
            let next = one
                .served
                .next
                .as_ref()
                .map(|(namespace, pod)| format!("{namespace}/{pod}"));
            received(other) && next.as_ref() == Some(&other.pod)
        }
    };
    let mut ordered = Vec::new();
    while !found.is_empty() {
        let first = found
            .iter()
            .position(|one| !found.iter().any(|other| leads_to(other, one)));
        // A pod that calls itself is on its own way.
        ordered.push(found.remove(first.unwrap_or(0)));
    }
    ordered
}

/// Pods whose sidecar or gateway runs.
pub async fn meshed(reach: &Reach) -> anyhow::Result<Vec<(String, String)>> {
    let pods = status::pods(reach)
        .await?
        .into_iter()
        .filter(|pod| pod.expected());
    Ok(pods.map(|pod| (pod.namespace, pod.name)).collect())
}

/// Whether it reached an application everywhere.
pub fn arrived(found: &[Remembered]) -> bool {
    found.iter().all(|one| one.served.explanation.end.arrives())
}

/// For people.
pub fn text(found: &[Remembered], style: Style) -> String {
    let mut out = String::new();
    for (index, one) in found.iter().enumerate() {
        let served = &one.served;
        if index > 0 {
            out.push('\n');
        }
        let verb = match &*served.direction {
            "inbound" => "received",
            "gateway" => "let in",
            _ => "sent",
        };
        let (millis, ago) = (served.micros as f64 / 1e3, served.ago_millis as f64 / 1e3);
        let _ = writeln!(
            out,
            "{} {verb} {} {}{}: {} after {millis:.1} ms, {ago:.1} s ago\n",
            one.pod, served.method, served.authority, served.path, served.code
        );
        out.push_str(&render(&served.explanation, style));
    }
    out
}

/// As a query may hold it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn remembered(pod: &str, direction: &str, micros: u64, next: Option<&str>) -> Remembered {
        let served = json!({"direction": direction, "ago_millis": 0, "method": "GET", "authority": "a", "path": "/", "code": 200, "flags": "",
            "micros": micros, "steps": [], "end": {"outcome": "reaches", "what": "x"},
            "next": next.map(|pod| ["shop", pod])});
        Remembered {
            pod: format!("shop/{pod}"),
            served: serde_json::from_value(served).unwrap(),
        }
    }

    #[test]
    fn who_sends_comes_first() {
        // The one that received took longer than the one that sent, by the clocks of a busy machine.
        let found = vec![
            remembered("cart", "inbound", 9_000, None),
            remembered("web", "outbound", 1_500, Some("cart")),
            remembered("db", "inbound", 20_000, None),
            remembered("cart", "outbound", 800, Some("db")),
        ];
        let order: Vec<String> = in_order(found)
            .iter()
            .map(|one| format!("{} {}", one.pod, one.served.direction))
            .collect();
        assert_eq!(
            order,
            [
                "shop/web outbound",
                "shop/cart inbound",
                "shop/cart outbound",
                "shop/db inbound"
            ]
        );
    }

    #[test]
    fn a_circle_ends() {
        let found = vec![
            remembered("web", "outbound", 2, Some("web")),
            remembered("web", "inbound", 1, None),
        ];
        assert_eq!(in_order(found).len(), 2);
    }
}
