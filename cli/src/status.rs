//! `weft status`: what runs in a sandbox.

use crate::target::Which;
use clap::Args;
use std::fmt::Write as _;
use weft_sandbox::control::{Status as State, list};

/// Show nodes, pods and services of a sandbox
#[derive(Args, Debug)]
pub struct Status {
    #[command(flatten)]
    which: Which,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Only the names of the sandboxes that run
    #[arg(long)]
    list: bool,
}

/// Prints the tables.
pub fn run(args: &Status) -> anyhow::Result<()> {
    if args.list {
        for sandbox in list() {
            println!("{}", sandbox.name);
        }
        return Ok(());
    }
    let state = args.which.client()?.status()?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&state)?);
    } else {
        print!("{}", tables(&state));
    }
    Ok(())
}

/// Nodes, pods and services for people.
pub fn tables(state: &State) -> String {
    let mut out = String::new();
    let nodes = state.nodes.iter().map(|node| {
        let cut = if node.cut_off { "cut off" } else { "" };
        vec![
            node.name.clone(),
            node.region.clone(),
            node.zone.clone(),
            cut.to_owned(),
        ]
    });
    columns(&mut out, &["NODE", "REGION", "ZONE", ""], nodes.collect());
    out.push('\n');
    let pods = state.pods.iter().map(|pod| {
        vec![
            pod.namespace.clone(),
            pod.name.clone(),
            pod.phase.clone(),
            if pod.ready { "ready" } else { "not ready" }.to_owned(),
            if pod.meshed { "meshed" } else { "-" }.to_owned(),
            pod.restarts.to_string(),
            pod.node.clone(),
            pod.address.clone(),
            pod.message.clone(),
        ]
    });
    columns(
        &mut out,
        &[
            "NAMESPACE",
            "POD",
            "PHASE",
            "READY",
            "MESH",
            "RESTARTS",
            "NODE",
            "ADDRESS",
            "",
        ],
        pods.collect(),
    );
    out.push('\n');
    let services = state.services.iter().map(|service| {
        vec![
            service.namespace.clone(),
            service.name.clone(),
            service.address.clone(),
            service.ports.join(","),
            service.endpoints.to_string(),
        ]
    });
    columns(
        &mut out,
        &["NAMESPACE", "SERVICE", "ADDRESS", "PORTS", "ENDPOINTS"],
        services.collect(),
    );
    out
}

fn columns(out: &mut String, head: &[&str], rows: Vec<Vec<String>>) {
    let width = |column: usize| {
        let longest = rows
            .iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0);
        longest.max(head[column].len())
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(text, "{cell:<width$}  ");
        }
        let _ = writeln!(out, "{}", text.trim_end());
    };
    line(head.to_vec());
    for row in &rows {
        line(row.iter().map(String::as_str).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::columns;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let mut out = String::new();
        columns(
            &mut out,
            &["A", "B"],
            vec![vec!["long".into(), "x".into()], vec!["s".into(), "y".into()]],
        );
        assert_eq!(out, "A     B\nlong  x\ns     y\n");
    }
}
