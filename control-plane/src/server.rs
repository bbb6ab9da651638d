//! The whole control plane, put together. Enters: settings. Leaves: when the process is told to stop, or a part of it can't go
//! on. Never: a port that answers before it has something true to say; see `/readyz`.

use crate::ca::{Current, Reviewer, Signer, keep, publish};
use crate::debug::Applied;
use crate::ingest;
use crate::ingest::kube::lease::Leases;
use crate::ingest::kube::status::StatusWriter;
use crate::ingest::kube::trust::Cluster;
use crate::lead::{self, Leadership};
use crate::listen;
use crate::mesh::{Change, Settings as MeshSettings, Store};
use crate::metrics::Metrics;
use crate::operate::{self, Debug, Pages};
use crate::report;
use crate::settings::Settings;
use crate::status;
use crate::tls;
use crate::validate;
use crate::xds::service::Stop;
use crate::xds::{Discovery, Sessions, catalog};
use anyhow::Context as _;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::server::{Router, Server};
use weft_proto::wire::discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use weft_proto::wire::v1::certificate_authority_server::CertificateAuthorityServer;

/// Changes that wait for the store; the watches wait when it is full.
const CHANGES: usize = 1024;
/// A peer that is silent this long is asked for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// And is dead when none comes within this.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest request of a configuration stream, bytes: the versions that a resuming sidecar brings along.
const MAX_DISCOVERY_REQUEST: usize = 16 * 1024 * 1024;
/// Largest signing request with its envelope, bytes.
const MAX_SIGN_REQUEST: usize = 64 * 1024;
/// How long a stopping control plane goes on while the cluster learns that it isn't ready; at most half of the drain.
const NOTICE: Duration = Duration::from_secs(1);
/// Beyond the drain, for connections to close.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Runs a control plane until SIGTERM or SIGINT.
///
/// # Errors
/// When a port can't be bound, the API server can't be found, the certificate authority can't be used, or a part ends.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("can't wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't wait for SIGINT")?;
    let told = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    // Another part of the same process may have installed it already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = ingest::kube::client().await.context(
        "no Kubernetes API server: neither a service account in this pod nor a kubeconfig names one that can be used",
    )?;
    run_until(settings, client, told).await
}

/// Runs a control plane on an API server until `told` resolves.
///
/// # Errors
/// As [`run`].
pub async fn run_until(
    settings: Settings,
    client: kube::Client,
    told: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::new());
    let sessions = Arc::new(Sessions::default());
    let (stop, stopping) = watch::channel(false);
    let (close, closing) = watch::channel(false);
    let (publish_catalog, catalogs) = watch::channel(None);
    let (lead, leadership) = watch::channel(Leadership::default());
    let (wait, waiting) = watch::channel(String::new());
    let (changes, taken) = mpsc::channel(CHANGES);
    let source = ingest::kube::Told::default();
    let mut tasks: JoinSet<&'static str> = JoinSet::new();
    tokio::pin!(told);

    let pages = Pages {
        metrics: metrics.clone(),
        catalogs: catalogs.clone(),
        sessions: sessions.clone(),
        stopping: stopping.clone(),
        authority: waiting,
        missing: source.missing.subscribe(),
        leadership: leadership.clone(),
    };
    let http = bind(settings.http_listen, "metrics and health").await?;
    let router = operate::public(pages.clone());
    tasks.spawn(async move {
        operate::serve(http, router).await;
        "metrics and health"
    });
    let election = tokio::spawn(lead::run(
        Leases::new(client.clone(), &settings.namespace),
        replica(&settings),
        lead,
        changes.clone(),
        stopping,
    ));

    tasks.spawn({
        let (mut leadership, metrics) = (leadership.clone(), metrics.clone());
        async move {
            loop {
                metrics
                    .leader
                    .set(i64::from(leadership.borrow_and_update().leads));
                if leadership.changed().await.is_err() {
                    return "leadership";
                }
            }
        }
    });

    let cluster = Cluster::new(client.clone(), &settings.namespace);
    let authority = tokio::select! {
        authority = keep::load_or_create(&cluster, &settings.trust_domain, leadership.clone(), &wait) => authority,
        () = &mut told => {
            give_back(&stop, election).await;
            return Ok(());
        }
    };
    let current = Current::new(authority);

    let mut mesh = MeshSettings::new(settings.trust_domain.clone());
    mesh.root_namespace = settings.namespace.as_str().into();
    let (store, meshes) = Store::new(mesh);
    tasks.spawn({
        let (current, changes, domain) = (current.clone(), changes.clone(), settings.trust_domain.clone());
        async move {
            let mut authorities = current.subscribe();
            while authorities.changed().await.is_ok() {
                let bundle = authorities.borrow_and_update().bundle(&domain);
                if changes.send(Change::Trust(bundle)).await.is_err() {
                    break;
                }
            }
            "roots"
        }
    });
    tasks.spawn(async move {
        store.run(taken).await;
        "store"
    });
    let (routes, reader) = (source.routes.clone(), client.clone());
    let applied = Applied::new(
        client.clone(),
        source.seen.clone(),
        changes.clone(),
        catalogs.clone(),
    );
    tasks.spawn({
        let (client, meshes, changes) = (client.clone(), meshes.clone(), changes.clone());
        async move {
            ingest::kube::secrets::run(client, meshes, changes).await;
            "Secrets"
        }
    });
    tasks.spawn(async move {
        ingest::kube::run(reader, changes, source).await;
        "watches"
    });
    tasks.spawn({
        let (meshes, metrics, sessions) = (meshes.clone(), metrics.clone(), sessions.clone());
        async move {
            catalog::run(meshes, publish_catalog, sessions, metrics).await;
            "translation"
        }
    });
    tasks.spawn({
        let (cluster, current, leadership, metrics) = (
            cluster.clone(),
            current.clone(),
            leadership.clone(),
            metrics.clone(),
        );
        async move {
            keep::run(cluster, current, leadership, metrics).await;
            "authority"
        }
    });
    tasks.spawn({
        let (cluster, current, meshes, leadership, metrics) = (
            cluster.clone(),
            current.clone(),
            meshes.clone(),
            leadership.clone(),
            metrics.clone(),
        );
        async move {
            publish::run(cluster, current, meshes, leadership, metrics).await;
            "root publication"
        }
    });
    tasks.spawn({
        let (writer, meshes) = (StatusWriter::new(client), meshes.clone());
        async move {
            status::run(writer, routes, meshes, leadership).await;
            "status"
        }
    });

    tasks.spawn({
        let meshes = meshes.clone();
        async move {
            report::run(meshes).await;
            "findings"
        }
    });

    let debug = bind(settings.debug_listen, "debug pages").await?;
    let router = operate::debug(Debug {
        pages,
        current: current.clone(),
        cluster: cluster.clone(),
        trust_domain: settings.trust_domain.clone(),
        ttl: settings.certificate_ttl,
        applied,
    });
    tasks.spawn(async move {
        operate::serve(debug, router).await;
        "debug pages"
    });

    let identity = tls::issue(current.get(), &settings, SystemTime::now())?;
    let (configs, config) = watch::channel(identity.config.clone());
    tasks.spawn({
        let (current, settings) = (current.clone(), settings.clone());
        async move {
            tls::renew(current, settings, identity, configs).await;
            "own certificate"
        }
    });
    let listener = bind(settings.listen, "configuration and certificates").await?;
    let (accepted, connections) = mpsc::channel(64);
    let (domain, counted) = (settings.trust_domain.clone(), metrics.clone());
    tokio::spawn(listen::accept(
        listener,
        config,
        domain,
        counted,
        accepted,
        closing.clone(),
    ));

    let signer = Signer::new(
        current,
        Reviewer::Cluster(cluster),
        meshes,
        settings.trust_domain.clone(),
        settings.certificate_ttl,
        metrics.clone(),
    );
    let discovery = Discovery::new(
        catalogs,
        sessions,
        metrics,
        Stop::new(closing.clone(), settings.drain).at_age(settings.stream_age),
    );
    let grpc = grpc(discovery, signer);
    let server = serve(grpc, ReceiverStream::new(connections), closing);
    tokio::pin!(server);
    tracing::info!(address = %settings.listen, trust_domain = %settings.trust_domain, "the control plane runs");

    tokio::select! {
        ended = &mut server => {
            ended.context("the configuration port stopped")?;
            anyhow::bail!("the configuration port stopped");
        }
        Some(ended) = tasks.join_next() => {
            anyhow::bail!("a part of the control plane ended: {}", ended.context("it panicked")?);
        }
        () = &mut told => {}
    }
    tracing::info!("stopping: sidecars go on with what they have, and reconnect elsewhere");
    // Not ready first, so that no new sidecar is sent here; another replica leads.
    let notice = tokio::time::sleep(NOTICE.min(settings.drain / 2));
    tokio::join!(notice, give_back(&stop, election));
    close.send_replace(true);
    match tokio::time::timeout(settings.drain + LAST_WORDS, server).await {
        Ok(ended) => ended.context("the configuration port didn't stop well")?,
        Err(_) => tracing::warn!("some connections were still open; they are closed now"),
    }
    Ok(())
}

/// The name of this replica in elections.
fn replica(settings: &Settings) -> String {
    match settings.replica.as_str() {
        "" => format!("control-plane-{:016x}", rand::random::<u64>()),
        name => name.to_owned(),
    }
}

/// Says that the control plane stops, and waits until the Lease is given back.
async fn give_back(stop: &watch::Sender<bool>, election: JoinHandle<()>) {
    stop.send_replace(true);
    if tokio::time::timeout(2 * NOTICE, election).await.is_err() {
        tracing::warn!("the API server doesn't answer: another replica leads when the Lease has run out");
    }
}

async fn bind(address: std::net::SocketAddr, what: &str) -> anyhow::Result<tokio::net::TcpListener> {
    let bound = listen::bind(address).await;
    bound.with_context(|| {
        format!("can't listen on {address} for {what}; is another control plane running here?")
    })
}

/// The two services and the validating webhook, with their bounds.
pub fn grpc(discovery: Discovery, signer: Signer) -> Router {
    let webhook = validate::router(signer.meshes.clone(), signer.metrics.clone());
    let discovery =
        AggregatedDiscoveryServiceServer::new(discovery).max_decoding_message_size(MAX_DISCOVERY_REQUEST);
    let signer = CertificateAuthorityServer::new(signer).max_decoding_message_size(MAX_SIGN_REQUEST);
    let services = Routes::new(discovery).add_service(signer).into_axum_router();
    Server::builder()
        .accept_http1(true) // API servers call webhooks so, and only so
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(64)
        .http2_max_header_list_size(32 * 1024)
        .http2_max_pending_accept_reset_streams(Some(20))
        .add_routes(Routes::from(services.merge(webhook)))
}

/// Serves connections until `stopping` is true and the last stream has ended.
///
/// # Errors
/// When the transport can't go on.
pub async fn serve<S>(
    grpc: Router,
    connections: ReceiverStream<io::Result<listen::Connection<S>>>,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stopped = async move {
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    grpc.serve_with_incoming_shutdown(connections, stopped).await
}
