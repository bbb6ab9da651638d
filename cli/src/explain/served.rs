//! A request that the mesh has served: what the sidecars on its way remember of it.
//!
//! Enters: a request id. Leaves: what each of them decided, in the order of the way. Never: a query, a header or a body: they are not kept.

use crate::reach::{Door, Reach};
use crate::status;
use anyhow::Context as _;
use serde::Serialize;
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
    // Whoever waits for another takes longer, so that the longest is the first on the way. (Sidecars are asked one after the other: when a
    // request began can't be compared as finely.)
    found.sort_by_key(|one| {
        (
            std::cmp::Reverse(one.served.micros),
            one.served.direction == "inbound",
            one.pod.clone(),
        )
    });
    Ok(found)
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
