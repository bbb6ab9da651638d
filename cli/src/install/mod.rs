//! `weft install` and `weft upgrade`: the mesh's own parts, or a gateway, in a cluster.
//!
//! Enters: values and a kubeconfig. Leaves: the charts' objects in force, and parts that are ready. Never: a change before the
//! checks have passed; an object that another tool made.

pub mod apply;
pub mod kinds;
pub mod plan;
pub mod wait;

use crate::api_server::{ApiServer, Refused, Which};
use crate::check;
use crate::render::{self, GatewayName, Release};
use anyhow::{Context as _, bail};
use clap::Args;
use plan::Values;
use serde_json::{Value, json};
use std::time::Duration;
use weft_proto::model::annotations::CONTROL_PLANE;

/// Install Weft in a cluster, or a gateway beside it
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
    /// A gateway instead of the mesh: where it runs, and the name of its Deployment, its Service and its service account
    #[arg(long, value_name = "NAMESPACE/NAME")]
    gateway: Option<GatewayName>,
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

impl Options {
    fn release(&self) -> Release {
        self.gateway.clone().map_or(Release::Mesh, Release::Gateway)
    }
}

/// An installation that is there.
struct Installed {
    values: Value,
}

/// `weft install`.
pub fn install(args: &Install) -> anyhow::Result<()> {
    let options = &args.options;
    let release = options.release();
    let values = options.values.on(&release, json!({}))?;
    if options.dry_run {
        return print(&plan::objects(&release, &json!({}), &values)?);
    }
    block_on(async {
        let api = options.which.connect().await?;
        if find(&api, &release).await?.is_some() {
            bail!(
                "{} is installed already: use weft upgrade (its values are kept; --reset-values begins anew)",
                title(&release)
            );
        }
        go(&api, options, &release, &values).await?;
        println!("\n{}", render::notes(&release, &values)?.trim_end());
        Ok(())
    })
}

/// `weft upgrade`.
pub fn upgrade(args: &Upgrade) -> anyhow::Result<()> {
    let options = &args.options;
    let release = options.release();
    block_on(async {
        let api = options.which.connect().await?;
        let installed = find(&api, &release)
            .await?
            .with_context(|| format!("{} isn't installed here: use weft install", title(&release)))?;
        let base = if args.reset_values {
            json!({})
        } else {
            installed.values
        };
        let values = options.values.on(&release, base)?;
        if options.dry_run {
            return print(&plan::objects(
                &release,
                &inherited(&api, &release).await,
                &values,
            )?);
        }
        go(&api, options, &release, &values).await
    })
}

/// What people call it.
fn title(release: &Release) -> String {
    match release {
        Release::Mesh => "Weft".to_owned(),
        Release::Gateway(gateway) => format!("the gateway {gateway}"),
    }
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

/// The values that an installation was made with, if its record is there.
async fn recorded(api: &ApiServer, release: &Release) -> Result<Option<Value>, Refused> {
    let (namespace, name) = (release.namespace(), plan::record_name(release));
    match api
        .get(&format!("/api/v1/namespaces/{namespace}/configmaps/{name}"))
        .await
    {
        Ok(record) => Ok(Some(plan::recorded(&record))),
        Err(Refused::Missing(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The installation of `weft install`, if there is one.
async fn find(api: &ApiServer, release: &Release) -> anyhow::Result<Option<Installed>> {
    if let Some(values) = recorded(api, release).await? {
        return Ok(Some(Installed { values }));
    }
    let (namespace, name) = match release {
        Release::Mesh => (release.namespace(), CONTROL_PLANE),
        Release::Gateway(GatewayName { namespace, name }) => (namespace.as_str(), name.as_str()),
    };
    match api
        .get(&format!(
            "/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
        ))
        .await
    {
        Err(Refused::Missing(_)) => Ok(None),
        Err(error) => bail!("{error}"),
        Ok(found) => match plan::made_by(&found) {
            render::MANAGED_BY => Ok(Some(Installed { values: json!({}) })),
            "Helm" => bail!(
                "{} was installed by Helm here: use helm upgrade, or helm uninstall it first",
                title(release)
            ),
            _ => bail!("deployment/{name} is there and was not installed by weft: remove it first"),
        },
    }
}

/// The values that a gateway has of the mesh, as far as they are known.
async fn inherited(api: &ApiServer, release: &Release) -> Value {
    match release {
        Release::Mesh => json!({}),
        // Where Helm installed the mesh, or its values may not be read, the gateway's own values have to say it.
        Release::Gateway(_) => match recorded(api, &Release::Mesh).await {
            Ok(Some(values)) => plan::inherited(&values),
            Ok(None) | Err(_) => json!({}),
        },
    }
}

/// Checks, applies, takes away what is no longer part of it, and waits.
async fn go(api: &ApiServer, options: &Options, release: &Release, values: &Value) -> anyhow::Result<()> {
    let objects = plan::objects(release, &inherited(api, release).await, values)?;
    if !options.skip_checks {
        let report = check::before(api, release, &objects).await;
        print!("{}", report.problems());
        if report.stands_in_the_way() {
            bail!("nothing was changed: the cluster isn't fit for it yet (--skip-checks tries nevertheless)");
        }
    }
    let mut say = |line: String| println!("{line}");
    apply::apply(api, &objects, options.force_conflicts, &mut say).await?;
    let superfluous = apply::superfluous(apply::installed(api, release).await?, &objects);
    apply::delete(api, &superfluous, &mut say).await?;
    if options.no_wait {
        return Ok(());
    }
    let patience = Duration::from_secs(options.timeout);
    match release {
        Release::Mesh => wait::ready(api, patience, &mut say).await,
        Release::Gateway(gateway) => wait::gateway(api, gateway, patience, &mut say).await,
    }
}
