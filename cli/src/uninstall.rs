//! `weft uninstall`: takes away what `weft install` made.
//!
//! Enters: a kubeconfig. Leaves: a cluster without Weft's own parts. Never: an object that something else made; the root of all
//! identities, unless it is asked for.

use crate::api_server::{ApiServer, Refused, Which, escaped};
use crate::install::apply::{delete, installed};
use crate::install::block_on;
use crate::install::kinds::title;
use crate::install::plan::{MANAGED_BY_LABEL, PART_OF_LABEL, made_by};
use crate::render::{GatewayName, MANAGED_BY, Release};
use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use weft_proto::model::annotations::{
    APP_KUBERNETES_COMPONENT, CA_CONFIG_MAP, CONTROL_PLANE, GATEWAY_COMPONENT, PROXY_CONTAINER,
    SYSTEM_NAMESPACE,
};

/// How long its pods may take to stop: the control plane's grace period and some more.
const STOPPING: Duration = Duration::from_secs(120);

/// Remove an installation
#[derive(Args, Debug)]
pub struct Uninstall {
    #[command(flatten)]
    which: Which,
    /// A gateway instead of the mesh
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "purge")]
    gateway: Option<GatewayName>,
    /// Remove it; without this, what would be removed is printed
    #[arg(long)]
    yes: bool,
    /// Remove the mesh's root, its copies in every namespace, and the namespace too: no sidecar that runs is trusted any more
    #[arg(long)]
    purge: bool,
}

/// `weft uninstall`.
pub fn run(args: &Uninstall) -> anyhow::Result<()> {
    block_on(async {
        let api = args.which.connect().await?;
        if let Some(name) = &args.gateway {
            return gateway(&api, name, args.yes).await;
        }
        let mut objects = installed(&api, &Release::Mesh).await?;
        let namespace = objects.iter().position(|object| object["kind"] == "Namespace");
        let namespace = namespace.map(|at| objects.remove(at));
        let left = if args.purge {
            left_behind(&api).await?
        } else {
            Vec::new()
        };
        if objects.is_empty() && left.is_empty() && (namespace.is_none() || !args.purge) {
            bail!(
                "there is no installation of weft in {} (Helm's are removed by helm uninstall)",
                api.title()
            );
        }
        let mut namespace = namespace.filter(|_| args.purge);
        // An authority that somebody brought is not ours to delete.
        let brought = format!("/api/v1/namespaces/{SYSTEM_NAMESPACE}/secrets/cacerts");
        if namespace.is_some() && api.get(&brought).await.is_ok() {
            println!("namespace/{SYSTEM_NAMESPACE} is kept: it holds your secret/cacerts");
            namespace = None;
        }
        if !args.yes {
            for object in objects.iter().chain(namespace.iter()) {
                println!("{}", title(object));
            }
            for (_, title) in &left {
                println!("{title}");
            }
            println!("\nNothing was removed: add --yes to remove these.");
            return Ok(());
        }
        let mut say = |line: String| println!("{line}");
        delete(&api, &objects, &mut say).await?;
        if args.purge {
            stopped(&api).await?;
            for (path, title) in left_behind(&api).await? {
                match api.delete(&path).await {
                    Ok(()) => println!("{title} deleted"),
                    Err(Refused::Missing(_)) => {}
                    Err(error) => bail!("{title} can't be deleted: {error}"),
                }
            }
            delete(&api, namespace.as_slice(), &mut say).await?;
        } else {
            println!(
                "\nsecret/weft-ca is kept in {SYSTEM_NAMESPACE}: an installation after this one goes on with the same identities (--purge removes it)."
            );
        }
        let gateways = gateways(&api).await.unwrap_or_default();
        if !gateways.is_empty() {
            println!(
                "gateways are left, and serve what they know until their certificates expire: {} (weft uninstall --gateway, or helm uninstall)",
                gateways.join(", ")
            );
        }
        let sidecars = sidecars(&api).await.unwrap_or_default();
        if sidecars > 0 {
            println!(
                "{sidecars} pods still have a sidecar, and go on with what it knows until its certificate expires; restart them: kubectl rollout restart"
            );
        }
        Ok(())
    })
}

/// Takes a gateway away; its namespace stays.
async fn gateway(api: &ApiServer, name: &GatewayName, yes: bool) -> anyhow::Result<()> {
    let objects = installed(api, &Release::Gateway(name.clone())).await?;
    if objects.is_empty() {
        bail!(
            "there is no gateway {name} of weft in {} (Helm's are removed by helm uninstall)",
            api.title()
        );
    }
    if yes {
        return delete(api, &objects, &mut |line| println!("{line}")).await;
    }
    for object in &objects {
        println!("{}", title(object));
    }
    println!("\nNothing was removed: add --yes to remove these.");
    Ok(())
}

/// The gateways of the cluster, whoever installed them.
async fn gateways(api: &ApiServer) -> Result<Vec<String>, Refused> {
    let selector = escaped(&format!(
        "{PART_OF_LABEL}=weft,{APP_KUBERNETES_COMPONENT}={GATEWAY_COMPONENT}"
    ));
    let path = format!("/apis/apps/v1/deployments?labelSelector={selector}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = |found: &Value| {
        let metadata = &found["metadata"];
        format!("{}/{}", text(&metadata["namespace"]), text(&metadata["name"]))
    };
    Ok(api.list(&path).await?.iter().map(name).collect())
}

/// What Weft's parts themselves made: paths and names.
async fn left_behind(api: &ApiServer) -> anyhow::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let selector = escaped(&format!(
        "{PART_OF_LABEL}=weft,{MANAGED_BY_LABEL}={CONTROL_PLANE}"
    ));
    let maps = format!("/api/v1/configmaps?labelSelector={selector}");
    for map in api.list(&maps).await.context("ConfigMaps can't be listed")? {
        if map["metadata"]["name"] == CA_CONFIG_MAP {
            let namespace = map["metadata"]["namespace"].as_str().unwrap_or_default();
            found.push((
                format!("/api/v1/namespaces/{namespace}/configmaps/{CA_CONFIG_MAP}"),
                format!("configmap/{CA_CONFIG_MAP} of {namespace}"),
            ));
        }
    }
    let root = format!("namespaces/{SYSTEM_NAMESPACE}");
    let secret = format!("/api/v1/{root}/secrets/weft-ca");
    match api.get(&secret).await {
        Ok(object) if made_by(&object) == CONTROL_PLANE => found.push((secret, "secret/weft-ca".to_owned())),
        // Brought by somebody, or not there.
        Ok(_) | Err(Refused::Missing(_)) => {}
        Err(error) => bail!("secret/weft-ca can't be read: {error}"),
    }
    let lease = format!("/apis/coordination.k8s.io/v1/{root}/leases/{CONTROL_PLANE}");
    if api.get(&lease).await.is_ok() {
        found.push((lease, format!("lease/{CONTROL_PLANE}")));
    }
    Ok(found)
}

/// Waits until no pod of Weft's own is left that could make things anew.
async fn stopped(api: &ApiServer) -> anyhow::Result<()> {
    let deadline = Instant::now() + STOPPING;
    let selector = escaped(&format!("{PART_OF_LABEL}=weft,{MANAGED_BY_LABEL}={MANAGED_BY}"));
    let path = format!("/api/v1/namespaces/{SYSTEM_NAMESPACE}/pods?labelSelector={selector}");
    loop {
        let pods = api.list(&path).await.map_err(anyhow::Error::from)?;
        let Some(pod) = pods.first() else { return Ok(()) };
        if Instant::now() >= deadline {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            bail!(
                "pod {name} has not stopped after {} s; try again when it has",
                STOPPING.as_secs()
            );
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// How many pods have a sidecar.
async fn sidecars(api: &ApiServer) -> Result<usize, Refused> {
    let has_sidecar = |pod: &Value| {
        let containers = pod["spec"]["initContainers"].as_array().into_iter().flatten();
        containers
            .into_iter()
            .any(|container| container["name"] == PROXY_CONTAINER)
    };
    Ok(api
        .list("/api/v1/pods")
        .await?
        .iter()
        .filter(|pod| has_sidecar(pod))
        .count())
}
