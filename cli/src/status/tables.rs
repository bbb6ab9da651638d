//! The tables of `weft status`, for people. Pure.
//!
//! Enters: what runs, and how the mesh does. Leaves: text. Never: a column that depends on the terminal.

use super::collect::{Report, Sidecar, Standing};
use std::fmt::Write as _;
use weft_sandbox::control::Status as State;

/// Nodes, pods and services for people.
pub fn sandbox(state: &State) -> String {
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

/// Replicas of the control plane, sidecars, and what they refuse.
pub fn mesh(report: &Report) -> String {
    let mut out = String::new();
    let replicas = report.control_planes.iter().map(|replica| {
        let state = match &replica.problem {
            _ if replica.terminating => "stopping".to_owned(),
            Some(problem) => problem.clone(),
            None => String::new(),
        };
        vec![
            replica.pod.clone(),
            replica.node.clone(),
            replica.sidecars.to_string(),
            state,
        ]
    });
    columns(
        &mut out,
        &["CONTROL PLANE", "NODE", "SIDECARS", ""],
        replicas.collect(),
    );
    if report.control_planes.is_empty() {
        out.push_str("no control plane runs; sidecars go on with what they have\n");
    }
    out.push('\n');
    let sidecars = report.sidecars.iter().map(|sidecar| {
        vec![
            sidecar.namespace.clone(),
            sidecar.pod.clone(),
            standing(sidecar),
            sidecar.replica.clone().unwrap_or_else(|| "-".to_owned()),
            sidecar.held.to_string(),
            behind(sidecar),
            sidecar.note.clone(),
        ]
    });
    columns(
        &mut out,
        &[
            "NAMESPACE",
            "POD",
            "SIDECAR",
            "CONNECTED TO",
            "HOLDS",
            "NOT ACKNOWLEDGED",
            "",
        ],
        sidecars.collect(),
    );
    if !report.refused.is_empty() {
        out.push('\n');
        let refused = report.refused.iter().map(|refused| {
            vec![
                refused.namespace.clone(),
                refused.pod.clone(),
                refused.kind.clone(),
                refused.name.clone(),
                refused.field.clone(),
                refused.reason.clone(),
            ]
        });
        columns(
            &mut out,
            &["NAMESPACE", "POD", "REFUSES", "RESOURCE", "FIELD", "REASON"],
            refused.collect(),
        );
    }
    out
}

fn standing(sidecar: &Sidecar) -> String {
    match sidecar.standing {
        Standing::InSync => "in sync",
        Standing::Behind => "behind",
        Standing::Refuses => "refuses",
        Standing::NotConnected => "not connected",
        Standing::Starting => "starting",
        Standing::NoSidecar => "none",
    }
    .to_owned()
}

fn behind(sidecar: &Sidecar) -> String {
    match sidecar.unacknowledged {
        0 => "-".to_owned(),
        count => format!("{count} for {:.1} s", sidecar.behind_seconds),
    }
}

/// Rows under a head, each column as wide as its longest cell.
pub fn columns(out: &mut String, head: &[&str], rows: Vec<Vec<String>>) {
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
    if rows.is_empty() {
        line(vec!["(none)"]);
    }
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
