//! `weft check`: what is wrong in a cluster, and what to do about it.
//!
//! Enters: a kubeconfig. Leaves: findings, and exit code 1 where something does not work. Never: a change.

mod after;
mod before;
mod clock;
mod facts;
mod finding;
mod gateways;
mod pods;
mod rights;

pub use finding::{Finding, Level, Report};

use crate::api_server::{ApiServer, Which};
use crate::install::{block_on, plan};
use crate::render::Release;
use clap::{Args, ValueEnum};
use facts::Facts;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::SystemTime;

/// Find what is wrong with an installation, or with a cluster before one
#[derive(Args, Debug)]
pub struct Check {
    #[command(flatten)]
    which: Which,
    /// Before an installation: whether the cluster is fit for it
    #[arg(long)]
    pre: bool,
    /// How the findings are printed
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// How findings are printed.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Text,
    Json,
}

/// `weft check`.
pub fn run(args: &Check) -> anyhow::Result<ExitCode> {
    let report = block_on(async {
        let api = args.which.connect().await?;
        if args.pre {
            let objects = plan::objects(&Release::Mesh, &json!({}), &json!({}))?;
            return Ok(before(&api, &Release::Mesh, &objects).await);
        }
        Ok(installed(&api).await)
    })?;
    match args.output {
        Output::Text => print!("{}", report.text()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(if report.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Whether a cluster is fit for an installation of `objects`.
pub async fn before(api: &ApiServer, release: &Release, objects: &[Value]) -> Report {
    if let Release::Gateway(gateway) = release {
        let findings = gateways::before(api, gateway, objects).await;
        return Report { findings };
    }
    let facts = Facts::gather(api).await;
    let mut findings = about_the_cluster(&facts);
    if !findings
        .iter()
        .any(|finding| finding.level == Level::Error && finding.check == "api")
    {
        findings.extend(before::rights(api, objects).await);
    }
    Report { findings }
}

/// What is wrong with an installation.
async fn installed(api: &ApiServer) -> Report {
    let facts = Facts::gather(api).await;
    let mut findings = about_the_cluster(&facts);
    if !findings
        .iter()
        .any(|finding| finding.level == Level::Error && finding.check == "api")
    {
        findings.extend(after::deployments(&facts));
        findings.extend(rights::installed(&facts, &facts::wanted_rights()));
        findings.extend(after::webhook(&facts));
        findings.extend(after::roots(&facts));
        findings.extend(pods::sidecars(&facts));
        findings.extend(after::plaintext(&facts));
        findings.extend(gateways::installed(api).await);
    }
    Report { findings }
}

/// The checks that make sense before and after.
fn about_the_cluster(facts: &Facts) -> Vec<Finding> {
    let mut findings = before::version(facts);
    if findings.iter().any(|finding| finding.check == "api") {
        return findings;
    }
    findings.extend(clock::skew(facts, SystemTime::now()));
    findings.extend(before::nodes(facts));
    findings.extend(before::gateway_api(facts));
    findings.extend(before::pod_security(facts));
    findings.extend(before::other_meshes(facts));
    findings
}
