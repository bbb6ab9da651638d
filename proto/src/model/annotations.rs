//! Every name that Weft shares with Kubernetes objects and between its own parts: labels, annotations, ports, paths,
//! users and environment variables.
//!
//! In: nothing. Out: constants. Never: logic, or a name that is written a second time elsewhere.

/// The DNS-like domain of Weft's own labels and annotations.
pub const DOMAIN: &str = "weft.dev";

// --- Labels -----------------------------------------------------------------------------------------------------

/// Namespace label that asks for injection; the only value that does is [`INJECTION_ENABLED`].
pub const NAMESPACE_INJECTION: &str = "weft.dev/injection";
/// The value of [`NAMESPACE_INJECTION`] that asks for injection.
pub const INJECTION_ENABLED: &str = "enabled";
/// Pod label, `"true"` or `"false"`, that overrides the namespace. A label, so that a webhook's objectSelector sees it.
pub const POD_INJECT: &str = "weft.dev/inject";
/// Istio's canonical service name: the label that Istio's and Kiali's dashboards group by.
pub const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
/// Istio's canonical revision, beside [`CANONICAL_NAME`].
pub const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";
/// Recommended application name label of Kubernetes.
pub const APP_KUBERNETES_NAME: &str = "app.kubernetes.io/name";
/// Recommended label of Kubernetes for the instance of an application: a release's name.
pub const APP_KUBERNETES_INSTANCE: &str = "app.kubernetes.io/instance";
/// Recommended label of Kubernetes for the part of an application.
pub const APP_KUBERNETES_COMPONENT: &str = "app.kubernetes.io/component";
/// Recommended application version label of Kubernetes.
pub const APP_KUBERNETES_VERSION: &str = "app.kubernetes.io/version";
/// The customary short application label.
pub const APP: &str = "app";
/// The customary short version label.
pub const VERSION: &str = "version";
/// Label that a Deployment puts on its pods; the suffix of the ReplicaSet's name.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// Region of a node.
pub const TOPOLOGY_REGION: &str = "topology.kubernetes.io/region";
/// Zone of a node.
pub const TOPOLOGY_ZONE: &str = "topology.kubernetes.io/zone";
/// Name of a node, as a label.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// Operating system of a node, as a label and in node selectors.
pub const NODE_OS: &str = "kubernetes.io/os";
/// Network of a cluster or namespace: pods of one network reach one another by address.
pub const TOPOLOGY_NETWORK: &str = "topology.weft.dev/network";
/// Label of an EndpointSlice that names its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

// --- Gateways ---------------------------------------------------------------------------------------------------

/// Pod label that names the Gateway, of the pod's namespace, that it serves (GEP-1762).
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Pod label that names the IngressClass whose Ingresses, of all namespaces, it serves.
pub const INGRESS_CLASS: &str = "weft.dev/ingress-class";
/// Label of every object of a gateway's installation: the gateway's namespace, wherever the object is.
pub const GATEWAY_NAMESPACE: &str = "weft.dev/gateway-namespace";
/// Name of the GatewayClass and of the IngressClass that come with Weft.
pub const GATEWAY_CLASS: &str = "weft";
/// `spec.controllerName` of GatewayClasses that are Weft's.
pub const GATEWAY_CONTROLLER: &str = "weft.dev/gateway-controller";
/// `spec.controller` of IngressClasses that are Weft's.
pub const INGRESS_CONTROLLER: &str = "weft.dev/ingress-controller";
/// `app.kubernetes.io/component` of a gateway's objects.
pub const GATEWAY_COMPONENT: &str = "gateway";

// --- Annotations that Weft writes -------------------------------------------------------------------------------

/// What the injector did to a pod, as JSON: whether it was injected, why, and a hash of what was put in.
pub const STATUS: &str = "weft.dev/status";
/// Whether Prometheus scrapes the pod.
pub const PROMETHEUS_SCRAPE: &str = "prometheus.io/scrape";
/// Port that Prometheus scrapes.
pub const PROMETHEUS_PORT: &str = "prometheus.io/port";
/// Path that Prometheus scrapes.
pub const PROMETHEUS_PATH: &str = "prometheus.io/path";
/// Container that `kubectl exec` and friends take by default.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Container that `kubectl logs` takes by default (the older name).
pub const DEFAULT_LOGS_CONTAINER: &str = "kubectl.kubernetes.io/default-logs-container";
/// Annotation of a mirror pod: a static pod that the kubelet runs from a file and only shows to the API server.
pub const MIRROR_POD: &str = "kubernetes.io/config.mirror";
/// Status annotation of Istio's injector: its presence means that the pod is in another mesh.
pub const ISTIO_STATUS: &str = "sidecar.istio.io/status";
/// Istio's opt-in/opt-out. Never followed (it speaks about Istio's sidecar); the injector warns when it sees it.
pub const ISTIO_INJECT: &str = "sidecar.istio.io/inject";

// --- Annotations that Weft reads from pods ----------------------------------------------------------------------

/// A pod annotation that Weft reads, under its own name and, where the meaning is the same, under Istio's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Weft's name.
    pub weft: &'static str,
    /// Istio's name of the same meaning, read too.
    pub istio: Option<&'static str>,
}

/// Inbound ports that are not intercepted. Comma-separated port numbers.
pub const EXCLUDE_INBOUND_PORTS: Setting = Setting {
    weft: "traffic.weft.dev/excludeInboundPorts",
    istio: Some("traffic.sidecar.istio.io/excludeInboundPorts"),
};
/// The only inbound ports that are intercepted. Comma-separated port numbers, `*` for all (default), empty for none.
pub const INCLUDE_INBOUND_PORTS: Setting = Setting {
    weft: "traffic.weft.dev/includeInboundPorts",
    istio: Some("traffic.sidecar.istio.io/includeInboundPorts"),
};
/// Destination ports of outbound connections that are not intercepted. Comma-separated port numbers.
pub const EXCLUDE_OUTBOUND_PORTS: Setting = Setting {
    weft: "traffic.weft.dev/excludeOutboundPorts",
    istio: Some("traffic.sidecar.istio.io/excludeOutboundPorts"),
};
/// Destination ports that are intercepted whatever [`INCLUDE_OUTBOUND_RANGES`] says. Comma-separated port numbers.
pub const INCLUDE_OUTBOUND_PORTS: Setting = Setting {
    weft: "traffic.weft.dev/includeOutboundPorts",
    istio: Some("traffic.sidecar.istio.io/includeOutboundPorts"),
};
/// Destination ranges that are not intercepted. Comma-separated CIDRs, IPv4 or IPv6.
pub const EXCLUDE_OUTBOUND_RANGES: Setting = Setting {
    weft: "traffic.weft.dev/excludeOutboundIPRanges",
    istio: Some("traffic.sidecar.istio.io/excludeOutboundIPRanges"),
};
/// The only destination ranges that are intercepted. Comma-separated CIDRs, `*` for all (default), empty for none.
pub const INCLUDE_OUTBOUND_RANGES: Setting = Setting {
    weft: "traffic.weft.dev/includeOutboundIPRanges",
    istio: Some("traffic.sidecar.istio.io/includeOutboundIPRanges"),
};
/// CPU request of the sidecar, a Kubernetes quantity.
pub const PROXY_CPU: Setting = Setting {
    weft: "sidecar.weft.dev/proxyCPU",
    istio: Some("sidecar.istio.io/proxyCPU"),
};
/// CPU limit of the sidecar, a Kubernetes quantity.
pub const PROXY_CPU_LIMIT: Setting = Setting {
    weft: "sidecar.weft.dev/proxyCPULimit",
    istio: Some("sidecar.istio.io/proxyCPULimit"),
};
/// Memory request of the sidecar, a Kubernetes quantity.
pub const PROXY_MEMORY: Setting = Setting {
    weft: "sidecar.weft.dev/proxyMemory",
    istio: Some("sidecar.istio.io/proxyMemory"),
};
/// Memory limit of the sidecar, a Kubernetes quantity.
pub const PROXY_MEMORY_LIMIT: Setting = Setting {
    weft: "sidecar.weft.dev/proxyMemoryLimit",
    istio: Some("sidecar.istio.io/proxyMemoryLimit"),
};
/// Log level of the sidecar: off, error, warn, info, debug or trace.
pub const LOG_LEVEL: Setting = Setting {
    weft: "sidecar.weft.dev/logLevel",
    istio: Some("sidecar.istio.io/logLevel"),
};
/// Worker threads of the sidecar, 1 to 64.
pub const WORKERS: Setting = Setting {
    weft: "sidecar.weft.dev/workers",
    istio: None,
};
/// How many requests may wait for the application's answer at once: 1 to 100,000, or `adaptive`.
pub const INBOUND_CONCURRENCY: Setting = Setting {
    weft: "sidecar.weft.dev/inboundConcurrency",
    istio: None,
};
/// Istio's per-pod proxy configuration (YAML). Only `concurrency` is read, as [`WORKERS`].
pub const ISTIO_PROXY_CONFIG: &str = "proxy.istio.io/config";

/// Every annotation that Weft reads from a pod.
pub const SETTINGS: [Setting; 13] = [
    EXCLUDE_INBOUND_PORTS,
    INCLUDE_INBOUND_PORTS,
    EXCLUDE_OUTBOUND_PORTS,
    INCLUDE_OUTBOUND_PORTS,
    EXCLUDE_OUTBOUND_RANGES,
    INCLUDE_OUTBOUND_RANGES,
    PROXY_CPU,
    PROXY_CPU_LIMIT,
    PROXY_MEMORY,
    PROXY_MEMORY_LIMIT,
    LOG_LEVEL,
    WORKERS,
    INBOUND_CONCURRENCY,
];

/// Prefixes of annotations that speak about a sidecar. One that is none of [`SETTINGS`] gets a warning, not silence.
pub const SETTING_PREFIXES: [&str; 5] = [
    "traffic.weft.dev/",
    "sidecar.weft.dev/",
    "traffic.sidecar.istio.io/",
    "sidecar.istio.io/",
    "proxy.istio.io/",
];

// --- Annotations that Weft reads from Services and routes ---------------------------------------------------------

/// How the names of [`OF_SERVICES`] and [`OF_ROUTES`] begin.
pub const TRAFFIC_PREFIX: &str = "traffic.weft.dev/";
/// On a Service: callers ask its pods whether they are well. `path=/healthz port=8080 interval=5s timeout=1s unhealthy=3
/// healthy=2`, each of them optional; without a path a connection is enough.
pub const HEALTH_CHECK: &str = "traffic.weft.dev/healthCheck";
/// On a Service: a pod that is slower than the median of all by this factor gets nothing for a while. `3`, or `2.5`.
pub const OUTLIER_LATENCY_FACTOR: &str = "traffic.weft.dev/outlierLatencyFactor";
/// On a Service: a pod whose success rate is so many standard deviations below the mean gets nothing for a while. `1.9`.
pub const OUTLIER_SUCCESS_RATE: &str = "traffic.weft.dev/outlierSuccessRate";
/// On a Service or route: how many requests each pod takes. `100/s`, or `100/m burst=20`.
pub const RATE_LIMIT: &str = "traffic.weft.dev/rateLimit";
/// The same, of each caller's identity.
pub const RATE_LIMIT_PER_IDENTITY: &str = "traffic.weft.dev/rateLimitPerIdentity";
/// On a route: a safe request without an answer for so long is also sent to another pod. `50ms`.
pub const HEDGE_AFTER: &str = "traffic.weft.dev/hedgeAfter";
/// On a Service, a workload or its pods: how many requests per second each pod can serve, for `weft simulate`. `100`.
pub const CAPACITY: &str = "traffic.weft.dev/capacity";
/// Every one that is read from Services.
pub const OF_SERVICES: [&str; 6] = [
    CAPACITY,
    HEALTH_CHECK,
    OUTLIER_LATENCY_FACTOR,
    OUTLIER_SUCCESS_RATE,
    RATE_LIMIT,
    RATE_LIMIT_PER_IDENTITY,
];
/// Every one that is read from routes.
pub const OF_ROUTES: [&str; 3] = [RATE_LIMIT, RATE_LIMIT_PER_IDENTITY, HEDGE_AFTER];

// --- Ports ------------------------------------------------------------------------------------------------------

/// Admin of the sidecar, on loopback only.
pub const PORT_ADMIN: u16 = 15000;
/// Outbound interception.
pub const PORT_OUTBOUND: u16 = 15001;
/// Inbound interception.
pub const PORT_INBOUND: u16 = 15006;
/// xDS and CA of the control plane, over TLS.
pub const PORT_CONTROL_PLANE: u16 = 15012;
/// Metrics and health of the control plane and of the injector.
pub const PORT_CONTROL_PLANE_METRICS: u16 = 15014;
/// The injector's HTTPS port.
pub const PORT_INJECTOR: u16 = 15017;
/// Metrics of the sidecar.
pub const PORT_METRICS: u16 = 15020;
/// Health of the sidecar and the application's rewritten probes.
pub const PORT_HEALTH: u16 = 15021;
/// DNS of the sidecar, on UDP and TCP.
pub const PORT_DNS: u16 = 15053;
/// Gateway between networks; TLS passed through by SNI.
pub const PORT_GATEWAY: u16 = 15443;
/// Ports inside a pod that belong to the sidecar: an application can't declare one.
pub const SIDECAR_PORTS: [u16; 6] = [
    PORT_ADMIN,
    PORT_OUTBOUND,
    PORT_INBOUND,
    PORT_METRICS,
    PORT_HEALTH,
    PORT_DNS,
];
/// Name of the container port of [`PORT_METRICS`] (at most 15 characters, as Kubernetes asks).
pub const PORT_NAME_METRICS: &str = "http-weft-stats";
/// Path of the sidecar's metrics on [`PORT_METRICS`].
pub const METRICS_PATH: &str = "/metrics";
/// Path of the sidecar's readiness on [`PORT_HEALTH`].
pub const READY_PATH: &str = "/healthz/ready";
/// First segment of rewritten probes on [`PORT_HEALTH`]: `/app-health/<container>/<readyz|livez|startupz>`.
pub const APP_HEALTH_PREFIX: &str = "/app-health/";
/// First segment of rewritten HTTP hooks on [`PORT_HEALTH`]: `/app-lifecycle/<container>/<poststart|prestop>`.
pub const APP_LIFECYCLE_PREFIX: &str = "/app-lifecycle/";

// --- Names of Weft's own objects --------------------------------------------------------------------------------

/// Namespace of Weft's own parts, and of mesh-wide policies.
pub const SYSTEM_NAMESPACE: &str = "weft-system";
/// Namespaces in which no pod is ever injected, besides [`SYSTEM_NAMESPACE`].
pub const KUBERNETES_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// Deployment and Service of the control plane.
pub const CONTROL_PLANE: &str = "weft-control-plane";
/// Deployment and Service of the injector.
pub const INJECTOR: &str = "weft-injector";
/// Where sidecars find the control plane, unless told otherwise.
pub const CONTROL_PLANE_ADDRESS: &str = "weft-control-plane.weft-system.svc:15012";
/// ConfigMap, in every namespace, that holds the mesh's root certificates.
pub const CA_CONFIG_MAP: &str = "weft-ca-root-cert";
/// Key of [`CA_CONFIG_MAP`]: PEM certificates.
pub const CA_CONFIG_MAP_KEY: &str = "root-cert.pem";
/// Trust domain, unless told otherwise.
pub const TRUST_DOMAIN: &str = "cluster.local";
/// Audience of the service-account tokens that sidecars show to the control plane.
pub const TOKEN_AUDIENCE: &str = "weft";
/// Lifetime that is asked for those tokens, in seconds.
pub const TOKEN_SECONDS: u32 = 43_200;

// --- Inside an injected pod -------------------------------------------------------------------------------------

/// Init container that writes the interception rules and exits.
pub const INIT_CONTAINER: &str = "weft-init";
/// The sidecar: an init container with `restartPolicy: Always`.
pub const PROXY_CONTAINER: &str = "weft-proxy";
/// User and group of the sidecar; its own traffic is told apart by this uid.
pub const PROXY_UID: u32 = 1337;
/// Socket mark that tells the sidecar's own traffic apart where a user namespace maps no second uid (1337 again).
pub const SOCKET_MARK: u32 = 0x539;
/// Volume with the projected service-account token.
pub const VOLUME_TOKEN: &str = "weft-token";
/// Volume with the mesh's root certificates.
pub const VOLUME_CA: &str = "weft-ca";
/// Memory-backed volume for the last good snapshot.
pub const VOLUME_STATE: &str = "weft-state";
/// Downward API volume with the pod's labels and annotations.
pub const VOLUME_PODINFO: &str = "weft-podinfo";
/// Mount path of [`VOLUME_TOKEN`].
pub const TOKEN_DIR: &str = "/var/run/secrets/weft/token";
/// Name of the token's file in [`TOKEN_DIR`].
pub const TOKEN_NAME: &str = "token";
/// The token's file.
pub const TOKEN_FILE: &str = "/var/run/secrets/weft/token/token";
/// Mount path of [`VOLUME_CA`].
pub const CA_DIR: &str = "/var/run/secrets/weft/ca";
/// The file of root certificates (PEM).
pub const CA_FILE: &str = "/var/run/secrets/weft/ca/root-cert.pem";
/// Mount path of [`VOLUME_STATE`].
pub const STATE_DIR: &str = "/var/lib/weft";
/// Mount path of [`VOLUME_PODINFO`]; its files are `labels` and `annotations`.
pub const PODINFO_DIR: &str = "/etc/weft/podinfo";

/// Environment variables of the injected containers.
pub mod env {
    /// Pod name (downward API).
    pub const POD_NAME: &str = "POD_NAME";
    /// Pod namespace (downward API).
    pub const POD_NAMESPACE: &str = "POD_NAMESPACE";
    /// Pod uid (downward API).
    pub const POD_UID: &str = "POD_UID";
    /// Comma-separated addresses of the pod (downward API, `status.podIPs`).
    pub const INSTANCE_IPS: &str = "INSTANCE_IPS";
    /// Address of the node (downward API).
    pub const HOST_IP: &str = "HOST_IP";
    /// Name of the node (downward API).
    pub const NODE_NAME: &str = "NODE_NAME";
    /// Service account of the pod (downward API).
    pub const SERVICE_ACCOUNT: &str = "SERVICE_ACCOUNT";
    /// Name of the workload that owns the pod, as in `source_workload` of Istio's metrics.
    pub const WORKLOAD: &str = "WEFT_WORKLOAD";
    /// Canonical name of the application.
    pub const APP: &str = "WEFT_APP";
    /// Canonical version of the application.
    pub const VERSION: &str = "WEFT_VERSION";
    /// `host:port` of the control plane.
    pub const CONTROL_PLANE: &str = "WEFT_CONTROL_PLANE";
    /// The mesh's trust domain.
    pub const TRUST_DOMAIN: &str = "WEFT_TRUST_DOMAIN";
    /// Original probes and hooks, JSON: a list of [`AppProbe`](crate::model::probes::AppProbe).
    pub const APP_PROBES: &str = "WEFT_APP_PROBES";
    /// Declared container ports, JSON: a list of [`AppPort`](crate::model::probes::AppPort).
    pub const APP_PORTS: &str = "WEFT_APP_PORTS";
    /// Decimal socket mark of the sidecar's own traffic. Unset: told apart by uid alone.
    pub const SOCKET_MARK: &str = "WEFT_SOCKET_MARK";
    /// Decimal uid of the sidecar (for `weft init`).
    pub const PROXY_UID: &str = "WEFT_PROXY_UID";
    /// Log level of the sidecar: off, error, warn, info, debug or trace.
    pub const LOG: &str = "WEFT_LOG";
    /// Worker threads of the sidecar. Unset: the sidecar decides.
    pub const WORKERS: &str = "WEFT_WORKERS";
    /// How many requests may wait for the application's answer at once, or `adaptive`. Unset: any number.
    pub const INBOUND_CONCURRENCY: &str = "WEFT_INBOUND_CONCURRENCY";
    /// For `weft init`: comma-separated inbound ports to intercept, `*` or unset for all, empty for none.
    pub const INCLUDE_INBOUND_PORTS: &str = "WEFT_INCLUDE_INBOUND_PORTS";
    /// For `weft init`: comma-separated inbound ports to leave alone.
    pub const EXCLUDE_INBOUND_PORTS: &str = "WEFT_EXCLUDE_INBOUND_PORTS";
    /// For `weft init`: comma-separated destination ports to intercept whatever the included ranges are.
    pub const INCLUDE_OUTBOUND_PORTS: &str = "WEFT_INCLUDE_OUTBOUND_PORTS";
    /// For `weft init`: comma-separated destination ports to leave alone.
    pub const EXCLUDE_OUTBOUND_PORTS: &str = "WEFT_EXCLUDE_OUTBOUND_PORTS";
    /// For `weft init`: comma-separated destination CIDRs to intercept, `*` or unset for all, empty for none.
    pub const INCLUDE_OUTBOUND_RANGES: &str = "WEFT_INCLUDE_OUTBOUND_RANGES";
    /// For `weft init`: comma-separated destination CIDRs to leave alone.
    pub const EXCLUDE_OUTBOUND_RANGES: &str = "WEFT_EXCLUDE_OUTBOUND_RANGES";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_annotation_that_is_read() {
        let page = std::fs::read_to_string("../docs/annotations.md").unwrap();
        let ours = SETTINGS.iter().map(|setting| setting.weft);
        for name in ours.chain(OF_SERVICES).chain(OF_ROUTES) {
            assert!(page.contains(&format!("| `{name}` |")), "{name}");
        }
    }
}
