//! The charts of `deploy/helm`, built into the program.

use super::Chart;

macro_rules! chart {
    ($name:literal: $($path:literal),+ $(,)?) => {
        Chart {
            name: $name,
            files: &[$(($path, include_str!(concat!("../../../deploy/helm/", $name, "/", $path)))),+],
        }
    };
}

/// Every chart, in the order in which they are installed.
pub const CHARTS: [Chart; 2] = [
    chart!("weft-base":
        "Chart.yaml",
        "values.yaml",
        "values.schema.json",
        "templates/NOTES.txt",
        "templates/_helpers.tpl",
        "templates/control-plane-rbac.yaml",
        "templates/injector-rbac.yaml",
        "templates/priorityclass.yaml",
        "templates/serviceaccounts.yaml",
    ),
    chart!("weft-control-plane":
        "Chart.yaml",
        "values.yaml",
        "values.schema.json",
        "templates/NOTES.txt",
        "templates/_helpers.tpl",
        "templates/control-plane.yaml",
        "templates/injector.yaml",
        "templates/networkpolicy.yaml",
        "templates/podmonitor.yaml",
        "templates/scaling.yaml",
        "templates/webhooks.yaml",
    ),
];
