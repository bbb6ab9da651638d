//! The sandbox's side of the control socket.
//!
//! Enters: connections of the sandbox's owner. Leaves: what was asked for. Never: a request longer than its bound; one
//! request that holds up another.

use super::report;
use super::{Applied, Exec, Fault, LONGEST_REQUEST, Reply, Request};
use crate::api::verbs::{Deletion, Part};
use crate::api::{Refusal, admission, kinds, object, serve};
use crate::kubelet::PodContext;
use crate::sandbox::Sandbox;
use serde_json::{Value, json};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UnixListener, UnixStream};

/// How long a connection into a pod may take.
const DIAL: Duration = Duration::from_secs(10);

/// Answers, for ever.
pub async fn run(sandbox: Arc<Sandbox>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let sandbox = Arc::clone(&sandbox);
                tokio::spawn(async move {
                    if let Err(error) = converse(&sandbox, stream).await {
                        tracing::debug!("a control connection broke: {error}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!("the control socket cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn reply(stream: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

async fn converse(sandbox: &Arc<Sandbox>, stream: UnixStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    (&mut reader)
        .take(LONGEST_REQUEST as u64 + 1)
        .read_line(&mut line)
        .await?;
    let early = reader.buffer().to_vec();
    let mut stream = reader.into_inner();
    let request = match serde_json::from_str::<Request>(&line) {
        Ok(request) => request,
        Err(error) => {
            return reply(
                &mut stream,
                &Reply::Error(format!("this request is not understood: {error}")),
            )
            .await;
        }
    };
    match request {
        Request::Logs {
            namespace,
            pod,
            container,
            follow,
        } => match log(sandbox, &namespace, &pod, container.as_deref()) {
            Ok(path) => {
                reply(&mut stream, &Reply::Ok(Value::Null)).await?;
                send_log(stream, serve::follow(path, None, follow)).await
            }
            Err(why) => reply(&mut stream, &Reply::Error(why)).await,
        },
        Request::Dial {
            namespace,
            target,
            port,
        } => match dial(sandbox, &namespace, &target, port).await {
            Ok(mut inside) => {
                reply(&mut stream, &Reply::Ok(Value::Null)).await?;
                inside.write_all(&early).await?;
                tokio::io::copy_bidirectional(&mut stream, &mut inside)
                    .await
                    .map(drop)
            }
            Err(why) => reply(&mut stream, &Reply::Error(why)).await,
        },
        Request::Shutdown => {
            sandbox.stop().await;
            sandbox.remove();
            let answered = reply(&mut stream, &Reply::Ok(Value::Null)).await;
            sandbox.end();
            answered
        }
        other => {
            let answer = match answer(sandbox, other).await {
                Ok(value) => Reply::Ok(value),
                Err(why) => Reply::Error(why),
            };
            reply(&mut stream, &answer).await
        }
    }
}

async fn answer(sandbox: &Arc<Sandbox>, request: Request) -> Result<Value, String> {
    match request {
        Request::Apply { objects } => Ok(json!(apply(sandbox, objects).await)),
        Request::Delete { objects } => Ok(json!(delete(sandbox, objects))),
        Request::Get {
            kind,
            namespace,
            name,
        } => get(sandbox, &kind, namespace.as_deref(), name.as_deref()),
        Request::Status => serde_json::to_value(report::status(sandbox)).map_err(|e| e.to_string()),
        Request::Exec {
            namespace,
            pod,
            container,
        } => {
            let exec = exec(sandbox, &namespace, &pod, container.as_deref())?;
            serde_json::to_value(exec).map_err(|e| e.to_string())
        }
        Request::Fault(fault) => self::fault(sandbox, fault).map(|()| Value::Null),
        Request::Restart {
            namespace,
            deployment,
        } => restart(sandbox, &namespace, &deployment).map(|()| Value::Null),
        Request::Kubeconfig { server } => Ok(sandbox.api.kubeconfig(&server).into()),
        Request::Logs { .. } | Request::Dial { .. } | Request::Shutdown => {
            Err("not a request with one answer".to_owned())
        }
    }
}

fn title(object: &Value) -> String {
    let (kind, name) = (object["kind"].as_str().unwrap_or_default(), object::name(object));
    match object::namespace(object) {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    }
}

/// Applies in order; nodes first, then the mesh's own parts, then the rest.
async fn apply(sandbox: &Sandbox, objects: Vec<Value>) -> Vec<Applied> {
    let mut outcomes: Vec<Option<Applied>> = objects.iter().map(|_| None).collect();
    let is_node = |object: &Value| object["kind"] == "Node" && object["apiVersion"] == "v1";
    for (object, outcome) in objects.iter().zip(&mut outcomes).filter(|(o, _)| is_node(o)) {
        *outcome = Some(apply_one(sandbox, object).await);
    }
    let installed = sandbox.install().await;
    let mut waited = false;
    for (object, outcome) in objects.iter().zip(&mut outcomes).filter(|(o, _)| !is_node(o)) {
        if !waited && waits_for_webhooks(object) {
            sandbox.webhooks_ready().await;
            waited = true;
        }
        *outcome = Some(apply_one(sandbox, object).await);
    }
    let mut outcomes: Vec<Applied> = outcomes.into_iter().flatten().collect();
    if let (Err(refusal), Some(first)) = (installed, outcomes.first_mut()) {
        first
            .messages
            .push(format!("the mesh's own parts could not be installed: {refusal}"));
    }
    outcomes
}

/// What no webhook is asked about does not wait for them; the webhooks' own parts may need it.
fn waits_for_webhooks(object: &Value) -> bool {
    let plain = [
        "ConfigMap",
        "CustomResourceDefinition",
        "Namespace",
        "Secret",
        "Service",
        "ServiceAccount",
    ];
    !plain.iter().any(|kind| object["kind"] == *kind)
}

async fn apply_one(sandbox: &Sandbox, object: &Value) -> Applied {
    let before = find(sandbox, object).ok().map(|(_, _, version)| version);
    match sandbox.apply(object.clone()).await {
        Ok(written) => {
            let version = object::string(&written.object, "/metadata/resourceVersion").map(str::to_owned);
            let outcome = match (written.created, before.flatten() == version) {
                (true, _) => "created",
                (false, true) => "unchanged",
                (false, false) => "configured",
            };
            Applied {
                object: title(&written.object),
                outcome: outcome.to_owned(),
                messages: written.warnings,
            }
        }
        Err(refusal) => Applied {
            object: title(object),
            outcome: "refused".to_owned(),
            messages: vec![refusal.to_string()],
        },
    }
}

/// The kind, the namespace, and the version of what is there now.
fn find(sandbox: &Sandbox, object: &Value) -> Result<(Arc<kinds::Kind>, String, Option<String>), String> {
    let (version, word) = (
        object["apiVersion"].as_str().unwrap_or_default(),
        object["kind"].as_str().unwrap_or_default(),
    );
    let kind = sandbox
        .api
        .kinds
        .by_type(version, word)
        .ok_or_else(|| kinds::unsupported(version, word))?;
    let namespace = match object::namespace(object) {
        _ if !kind.namespaced => "",
        "" => "default",
        namespace => namespace,
    };
    let there = sandbox
        .api
        .store
        .get(&kind.key(), namespace, object::name(object));
    let there = there.and_then(|o| object::string(&o, "/metadata/resourceVersion").map(str::to_owned));
    Ok((kind, namespace.to_owned(), there))
}

fn delete(sandbox: &Sandbox, objects: Vec<Value>) -> Vec<Applied> {
    let one = |object: &Value| {
        let (outcome, messages) = match find(sandbox, object) {
            Ok((kind, namespace, _)) => {
                match sandbox
                    .api
                    .delete(&kind, &namespace, object::name(object), &Deletion::default())
                {
                    Ok(_) => ("deleted", Vec::new()),
                    Err(refusal) => ("refused", vec![refusal.to_string()]),
                }
            }
            Err(why) => ("refused", vec![why]),
        };
        Applied {
            object: title(object),
            outcome: outcome.to_owned(),
            messages,
        }
    };
    let mut outcomes: Vec<Applied> = objects.iter().rev().map(one).collect();
    // As they were asked for.
    outcomes.reverse();
    outcomes
}

fn get(sandbox: &Sandbox, word: &str, namespace: Option<&str>, name: Option<&str>) -> Result<Value, String> {
    let kind = sandbox
        .api
        .kinds
        .by_word(word)
        .ok_or_else(|| format!("there is no kind {word:?} here"))?;
    let namespace = namespace.filter(|_| kind.namespaced);
    let (mut found, _) = sandbox.api.store.list(&kind.key(), namespace);
    if let Some(name) = name {
        found.retain(|o| object::name(o) == name);
        if found.is_empty() {
            return Err(format!("{} {name:?} not found", kind.plural));
        }
    }
    Ok(found.iter().map(|o| (**o).clone()).collect())
}

/// The container that is meant: the one that is named, the pod's own default, the first.
fn container_of(pod: &Value, asked: Option<&str>) -> Result<String, String> {
    let lists = ["/spec/containers", "/spec/initContainers"];
    let names: Vec<&str> = lists
        .iter()
        .flat_map(|l| object::list(pod, l))
        .filter_map(|c| c["name"].as_str())
        .collect();
    let annotated = pod
        .pointer("/metadata/annotations/kubectl.kubernetes.io~1default-container")
        .and_then(Value::as_str);
    let chosen = asked
        .or(annotated)
        .or_else(|| names.first().copied())
        .unwrap_or_default();
    if names.contains(&chosen) {
        return Ok(chosen.to_owned());
    }
    Err(format!(
        "pod {} has no container {chosen:?}; it has {}",
        object::name(pod),
        names.join(", ")
    ))
}

/// The pod that is meant: by name, or any of a Deployment, a ready one if there is one.
fn pod_of(sandbox: &Sandbox, namespace: &str, word: &str) -> Result<Arc<Value>, String> {
    let api = &sandbox.api;
    let missing = |what: &str, name: &str| format!("{what} {namespace}/{name} does not exist");
    let deployment = word
        .strip_prefix("deployment/")
        .or_else(|| word.strip_prefix("deploy/"));
    let Some(name) = deployment else {
        let name = word.strip_prefix("pod/").unwrap_or(word);
        return api
            .store
            .get("pods", namespace, name)
            .ok_or_else(|| missing("pod", name));
    };
    let owner = api
        .store
        .get("deployments.apps", namespace, name)
        .ok_or_else(|| missing("Deployment", name))?;
    let sets = api.store.list("replicasets.apps", Some(namespace)).0;
    let uids: Vec<&str> = sets
        .iter()
        .filter(|s| object::controller_uid(s) == Some(object::uid(&owner)))
        .map(|s| object::uid(s))
        .collect();
    let mut pods = api.store.list("pods", Some(namespace)).0;
    pods.retain(|p| {
        object::controller_uid(p).is_some_and(|u| uids.contains(&u)) && !object::is_terminating(p)
    });
    pods.sort_by_key(|p| !object::is_true(p, "Ready"));
    pods.into_iter()
        .next()
        .ok_or_else(|| format!("Deployment {namespace}/{name} has no pod"))
}

fn log(
    sandbox: &Sandbox,
    namespace: &str,
    pod: &str,
    container: Option<&str>,
) -> Result<std::path::PathBuf, String> {
    let pod = pod_of(sandbox, namespace, pod)?;
    let container = container_of(&pod, container)?;
    Ok(sandbox.api.log_path(namespace, object::name(&pod), &container))
}

async fn send_log(
    mut stream: UnixStream,
    mut pieces: tokio::sync::mpsc::Receiver<bytes::Bytes>,
) -> io::Result<()> {
    let mut byte = [0];
    loop {
        tokio::select! {
            piece = pieces.recv() => match piece {
                Some(piece) => stream.write_all(&piece).await?,
                None => return stream.shutdown().await,
            },
            // The caller says nothing more; its end is all that can come.
            gone = stream.read(&mut byte) => if gone? == 0 { return Ok(()) },
        }
    }
}

fn running(sandbox: &Sandbox, namespace: &str, name: &str) -> Result<Arc<PodContext>, String> {
    let running = sandbox.nodes.running().get(namespace, name);
    running.ok_or_else(|| format!("pod {namespace}/{name} does not run"))
}

fn exec(sandbox: &Sandbox, namespace: &str, pod: &str, container: Option<&str>) -> Result<Exec, String> {
    let pod = pod_of(sandbox, namespace, pod)?;
    let container = container_of(&pod, container)?;
    let context = running(sandbox, namespace, object::name(&pod))?;
    let live = context.container(&container).ok_or_else(|| {
        let others = context.containers().join(", ");
        format!(
            "container {container} of pod {} does not run; running: {others}",
            object::name(&pod)
        )
    })?;
    Ok(Exec {
        container_pid: live.handle.pid(),
        env: live.env,
    })
}

/// Connects to a port as `kubectl port-forward` does: from inside the pod, to itself.
async fn dial(sandbox: &Sandbox, namespace: &str, target: &str, port: u16) -> Result<TcpStream, String> {
    let service = target
        .strip_prefix("service/")
        .or_else(|| target.strip_prefix("svc/"));
    let (pod, port) = match service {
        None => (
            object::name(&*pod_of(sandbox, namespace, target)?).to_owned(),
            port,
        ),
        Some(name) => {
            let at = admission::endpoint(&sandbox.api, namespace, name, u64::from(port))?;
            let pods = sandbox.api.store.list("pods", Some(namespace)).0;
            match pods.iter().find(|p| sandbox.api.addresses(p).contains(&at.ip())) {
                Some(pod) => (object::name(pod).to_owned(), at.port()),
                // An endpoint that is no pod: the sandbox's own.
                None => {
                    return TcpStream::connect(at)
                        .await
                        .map_err(|e| format!("connect to {at}: {e}"));
                }
            }
        }
    };
    let context = running(sandbox, namespace, &pod)?;
    let inside = context
        .sandbox()
        .ok_or_else(|| format!("pod {namespace}/{pod} does not run"))?;
    let mut failed = String::new();
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    for address in loopback.into_iter().chain(context.addresses.iter().copied()) {
        match tokio::time::timeout(DIAL, inside.connect(SocketAddr::new(address, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if failed.is_empty() => failed = error.to_string(),
            Ok(Err(_)) => {}
            Err(_) => failed = format!("no answer within {} s", DIAL.as_secs()),
        }
    }
    Err(format!(
        "nothing answers on port {port} of pod {namespace}/{pod}: {failed}"
    ))
}

fn fault(sandbox: &Sandbox, fault: Fault) -> Result<(), String> {
    let live = |namespace: &str, pod: &str, container: &str| {
        let context = running(sandbox, namespace, pod)?;
        context
            .container(container)
            .ok_or_else(|| format!("container {container} of pod {namespace}/{pod} does not run"))
    };
    match fault {
        Fault::Kill { namespace, pod } => {
            let context = running(sandbox, &namespace, &pod)?;
            context
                .sandbox()
                .ok_or_else(|| format!("pod {namespace}/{pod} does not run"))?
                .kill();
        }
        Fault::Stop {
            namespace,
            pod,
            container,
        } => live(&namespace, &pod, &container)?.handle.stop_all(),
        Fault::Continue {
            namespace,
            pod,
            container,
        } => live(&namespace, &pod, &container)?.handle.continue_all(),
        Fault::Partition { nodes } => sandbox.partition(&nodes)?,
    }
    Ok(())
}

fn restart(sandbox: &Sandbox, namespace: &str, name: &str) -> Result<(), String> {
    let kind = sandbox
        .api
        .kinds
        .by_key("deployments.apps")
        .ok_or("Deployments are not served")?;
    let edited = sandbox
        .api
        .edit(&kind, namespace, name, Part::Main, |deployment| {
            let template = deployment
                .pointer_mut("/spec/template")
                .ok_or_else(|| Refusal::bad_request("no template"))?;
            object::member(template, "metadata");
            object::member(&mut template["metadata"], "annotations").insert(
                "kubectl.kubernetes.io/restartedAt".into(),
                object::now_micro().into(),
            );
            Ok(())
        });
    edited.map(drop).map_err(|refusal| refusal.to_string())
}
