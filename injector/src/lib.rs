//! The admission webhook: an AdmissionReview in, a JSON patch out.
//!
//! In: what the Kubernetes API server asks about every pod that is created in a labelled namespace, and (offline) a
//! manifest. Out: the same pod with interception and sidecar, or a refusal that names field and reason. Never: a question to
//! the API server while a pod waits, a change of anything but the pod in question, or a pod that is let through uninjected
//! because something went wrong here.
//!
//! The way through it:
//! - [`server`]: HTTPS, graceful end; [`review`] reads a body within bounds; [`metrics`] counts.
//! - [`cache`]: answers that are given again, to pods of one template.
//! - [`keeping`]: where the [`certificate`] comes from: [`authority`] asks for it, [`renew`] says when, [`bundle`] keeps the
//!   webhook configurations' `caBundle` right; [`follow`] watches one object.
//! - [`json`]: JSON that is read once and never copied.
//! - [`admit`]: the bytes of an AdmissionReview to a request, and a verdict back to bytes.
//! - [`pod`]: the shape of a pod, checked once.
//! - [`decide`]: inject, leave alone or refuse, and why.
//! - [`overrides`]: what the pod's annotations ask for; [`selection`] reads lists, [`quantity`] Kubernetes quantities.
//! - [`called`]: what the pod is called in metrics.
//! - [`probes`]: the application's probes and hooks, sent by way of the sidecar.
//! - [`containers`]: the containers and volumes that are put in.
//! - [`patch`]: the pod as it should be; [`hash`] tells whether it is already; [`diff`]: the JSON patch that gets there.
//! - [`verdict`]: the stages above, one after the other.
//! - [`validate`]: what is said about a workload before it has pods.
//! - [`offline`]: the same for one object of a manifest; [`manifest`]: for its text (`weft inject -f`); [`ordered`] keeps the
//!   order of fields.
//! - [`settings`]: what an operator can set.

pub mod server;
pub mod threads;
pub mod review;
pub mod cache;
pub mod keeping;
pub mod certificate;
pub mod authority;
pub mod renew;
pub mod bundle;
pub mod follow;
pub mod metrics;
pub mod json;
pub mod admit;
pub mod pod;
pub mod decide;
pub mod overrides;
pub mod selection;
pub mod quantity;
pub mod called;
pub mod probes;
pub mod containers;
pub mod patch;
pub mod hash;
pub mod diff;
pub mod verdict;
pub mod validate;
pub mod offline;
pub mod manifest;
pub mod ordered;
pub mod settings;

pub use decide::{Decision, Refusal};
pub use offline::inject_manifest;
pub use server::{run, run_until};
pub use settings::{Certificate, Settings, Template};
