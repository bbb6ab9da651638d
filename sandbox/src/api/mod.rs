//! The Kubernetes API, served from memory.
//!
//! In: requests (over HTTPS from pods and `kubectl`, or direct calls from the sandbox's own controllers). Out: objects,
//! lists, watches, tokens, refusals. Never: anything on disk, a lock held over an await, a claim to serve what it
//! does not.
//!
//! In order of travel: `serve` → `route` → `rbac` → `verbs`, `change`, `delete` (→ `defaults` → `admission` → `validate` →
//! `services`) → `store` → `table`.

pub mod admission;
pub mod allocate;
mod apply;
pub mod authority;
pub mod change;
pub mod defaults;
mod definitions;
mod delete;
mod discovery;
pub mod events;
mod immutable;
pub mod kinds;
pub mod object;
mod openapi;
mod ownership;
mod pages;
pub mod patch;
pub mod rbac;
pub mod refusal;
mod review;
pub mod route;
mod scale;
pub mod selector;
pub mod serve;
pub(crate) mod services;
pub mod store;
pub mod table;
pub mod tokens;
pub mod validate;
pub mod verbs;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

pub use kinds::{Kind, Kinds};
pub use refusal::Refusal;
pub use store::{Change, Event, Store};

/// Everything behind the API: one per sandbox, shared by its server and its controllers.
#[derive(Debug)]
pub struct Api {
    /// The objects.
    pub store: Arc<Store>,
    /// The kinds served.
    pub kinds: Kinds,
    /// Signs and checks tokens.
    pub tokens: tokens::Tokens,
    /// Signs the API's serving certificate.
    pub authority: authority::Authority,
    allocator: Mutex<allocate::Allocator>,
    logs: PathBuf,
    pages: pages::Pages,
}

/// Names that the API's certificate carries.
const NAMES: &[&str] = &[
    "kubernetes.default.svc.cluster.local",
    "kubernetes.default.svc",
    "kubernetes.default",
    "kubernetes",
    "localhost",
];

impl Api {
    /// An empty cluster whose containers' logs are in `logs`.
    ///
    /// # Errors
    /// A sentence, where no keys or certificates can be made.
    pub fn new(logs: PathBuf) -> Result<Arc<Self>, String> {
        let api = Arc::new(Self {
            store: Arc::new(Store::default()),
            kinds: Kinds::default(),
            tokens: tokens::Tokens::new()?,
            authority: authority::Authority::new("weft-sandbox").map_err(|e| e.to_string())?,
            allocator: Mutex::default(),
            logs,
            pages: pages::Pages::default(),
        });
        definitions::seed(&api);
        Ok(api)
    }

    /// A serving certificate for the API.
    ///
    /// # Errors
    /// A sentence, where it can't be made.
    pub fn certificate(&self) -> Result<authority::Leaf, String> {
        let addresses = [
            IpAddr::V4(allocate::API_V4),
            IpAddr::V6(allocate::API_V6),
            IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ];
        self.authority.serve(NAMES, &addresses).map_err(|e| e.to_string())
    }

    /// A kubeconfig for the admin.
    #[must_use]
    pub fn kubeconfig(&self, server: &str) -> String {
        use base64::Engine as _;
        let ca = base64::engine::general_purpose::STANDARD.encode(self.authority.certificate());
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: weft\nclusters:\n- name: weft\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {ca}\ncontexts:\n- name: weft\n  context: {{cluster: weft, user: admin}}\nusers:\n\
             - name: admin\n  user:\n    token: {}\n",
            self.tokens.admin()
        )
    }

    /// Where a container's log is.
    #[must_use]
    pub fn log_path(&self, namespace: &str, pod: &str, container: &str) -> PathBuf {
        self.logs.join(format!("{namespace}_{pod}_{container}.log"))
    }
}
