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

/// The charts of the mesh, in the order in which they are installed.
pub static MESH: [Chart; 2] = [
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
        "templates/ingressclass.yaml",
        "templates/injector.yaml",
        "templates/networkpolicy.yaml",
        "templates/podmonitor.yaml",
        "templates/scaling.yaml",
        "templates/webhooks.yaml",
    ),
];

/// The chart of a gateway.
pub static GATEWAY: [Chart; 1] = [chart!("weft-gateway":
    "Chart.yaml",
    "values.yaml",
    "values.schema.json",
    "templates/NOTES.txt",
    "templates/_helpers.tpl",
    "templates/deployment.yaml",
    "templates/networkpolicy.yaml",
    "templates/podmonitor.yaml",
    "templates/scaling.yaml",
    "templates/secrets.yaml",
    "templates/service.yaml",
    "templates/serviceaccount.yaml",
)];
