//! `weft install` and `weft upgrade`: the mesh's own parts, in a cluster.
//!
//! Enters: values and a kubeconfig. Leaves: the charts' objects in force, and parts that are ready. Never: a change before the
//! checks have passed; an object that another tool made.

pub mod apply;
pub mod kinds;
pub mod plan;
pub mod wait;

use crate::api_server::{ApiServer, Refused, Which};
use crate::check;
use crate::render;
use anyhow::{Context as _, bail};
use clap::Args;
use plan::{RECORD, Values};
use serde_json::{Value, json};
use std::time::Duration;
use weft_proto::model::annotations::{CONTROL_PLANE, SYSTEM_NAMESPACE};

/// Install Weft in a cluster
#[derive(Args, Debug)]
pub struct Install {
    #[command(flatten)]
    options: Options,
}

/// Change an installation: another version, other values
#[derive(Args, Debug)]
pub struct Upgrade {
    #[command(flatten)]
    options: Options,
    /// Begin with the defaults, not with the values of the installation
    #[arg(long)]
    reset_values: bool,
}

/// What both take.
#[derive(Args, Debug)]
struct Options {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    values: Values,
    /// Print the manifests, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Don't look first whether the cluster is fit for it
    #[arg(long)]
    skip_checks: bool,
    /// Take back fields that somebody else has changed
    #[arg(long)]
    force_conflicts: bool,
    /// Don't wait until everything is ready
    #[arg(long)]
    no_wait: bool,
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

/// An installation that is there.
struct Installed {
    values: Value,
}

/// `weft install`.
pub fn install(args: &Install) -> anyhow::Result<()> {
    let options = &args.options;
    let values = options.values.on(json!({}))?;
    if options.dry_run {
        return print(&plan::objects(&values)?);
    }
    block_on(async {
        let api = options.which.connect().await?;
        if find(&api).await?.is_some() {
            bail!(
                "Weft is installed already: use weft upgrade (its values are kept; --reset-values begins anew)"
            );
        }
        go(&api, options, &values).await?;
        println!("\n{}", render::notes(&values)?.trim_end());
        Ok(())
    })
}

/// `weft upgrade`.
pub fn upgrade(args: &Upgrade) -> anyhow::Result<()> {
    let options = &args.options;
    block_on(async {
        let api = options.which.connect().await?;
        let installed = find(&api)
            .await?
            .context("Weft isn't installed here: use weft install")?;
        let base = if args.reset_values {
            json!({})
        } else {
            installed.values
        };
        let values = options.values.on(base)?;
        if options.dry_run {
            return print(&plan::objects(&values)?);
        }
        go(&api, options, &values).await
    })
}

/// Runs on a runtime of its own.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

fn print(objects: &[Value]) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    for object in objects {
        write!(out, "---\n{}", render::yaml(object))?;
    }
    Ok(())
}

/// The installation of `weft install`, if there is one.
async fn find(api: &ApiServer) -> anyhow::Result<Option<Installed>> {
    let root = format!("namespaces/{SYSTEM_NAMESPACE}");
    let record = match api.get(&format!("/api/v1/{root}/configmaps/{RECORD}")).await {
        Ok(record) => Some(record),
        Err(Refused::Missing(_)) => None,
        Err(error) => bail!("{error}"),
    };
    if let Some(record) = record {
        return Ok(Some(Installed {
            values: plan::recorded(&record),
        }));
    }
    match api
        .get(&format!("/apis/apps/v1/{root}/deployments/{CONTROL_PLANE}"))
        .await
    {
        Err(Refused::Missing(_)) => Ok(None),
        Err(error) => bail!("{error}"),
        Ok(found) => match plan::made_by(&found) {
            render::MANAGED_BY => Ok(Some(Installed { values: json!({}) })),
            "Helm" => bail!("Weft was installed by Helm here: use helm upgrade, or helm uninstall it first"),
            _ => bail!("deployment/{CONTROL_PLANE} is there and was not installed by weft: remove it first"),
        },
    }
}

/// Checks, applies, takes away what is no longer part of it, and waits.
async fn go(api: &ApiServer, options: &Options, values: &Value) -> anyhow::Result<()> {
    let objects = plan::objects(values)?;
    if !options.skip_checks {
        let report = check::before(api, &objects).await;
        print!("{}", report.problems());
        if report.stands_in_the_way() {
            bail!("nothing was changed: the cluster isn't fit for it yet (--skip-checks tries nevertheless)");
        }
    }
    let mut say = |line: String| println!("{line}");
    apply::apply(api, &objects, options.force_conflicts, &mut say).await?;
    let superfluous = apply::superfluous(apply::installed(api).await?, &objects);
    apply::delete(api, &superfluous, &mut say).await?;
    if !options.no_wait {
        wait::ready(api, Duration::from_secs(options.timeout), &mut say).await?;
    }
    Ok(())
}
