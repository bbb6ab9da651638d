//! The Lease that replicas elect their leader with, and those of other installations in the cluster.
//!
//! Enters: records. Leaves: the same, read back. Never: a reading of the times in them: other machines' clocks aren't trusted.

use super::trust::ClusterError;
use crate::lead::Record;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use weft_proto::model::annotations::CONTROL_PLANE;

/// Name of the Lease, in the control plane's namespace.
pub const LEASE: &str = CONTROL_PLANE;

/// The API server, as far as elections need it.
#[derive(Clone)]
pub struct Leases {
    client: Client,
    namespace: String,
}

/// The Lease as it is now.
#[derive(Clone, Debug)]
pub struct Held {
    /// What it says.
    pub record: Record,
    object: Lease,
}

/// Another installation's Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Its namespace.
    pub namespace: String,
    /// What it says.
    pub record: Record,
    /// When it was made, seconds since the epoch by the API server's clock.
    pub created: i64,
}

impl Held {
    /// When it was made, seconds since the epoch by the API server's clock.
    pub fn created(&self) -> Option<i64> {
        let created = self.object.metadata.creation_timestamp.as_ref();
        created.map(|time| time.0.as_second())
    }
}

impl Leases {
    /// Uses a client; the Lease is in `namespace`.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
        }
    }

    /// The control plane's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn own(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Reads the Lease; `None` when there is none.
    ///
    /// # Errors
    /// When the API server can't be reached or refuses.
    pub async fn read(&self) -> Result<Option<Held>, ClusterError> {
        match self.own().get(LEASE).await {
            Ok(object) => Ok(Some(Held {
                record: record(&object),
                object,
            })),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(self.failed("read", "get", &error)),
        }
    }

    /// Writes a record if the Lease is still as it was read. `false`: somebody else was faster.
    ///
    /// # Errors
    /// When the API server can't be reached or refuses.
    pub async fn write(
        &self,
        before: Option<&Held>,
        record: &Record,
        now: SystemTime,
    ) -> Result<bool, ClusterError> {
        let time = Timestamp::try_from(now).ok().map(MicroTime);
        let old = before
            .and_then(|held| held.object.spec.clone())
            .unwrap_or_default();
        let mut lease = before.map_or_else(|| self.fresh(), |held| held.object.clone());
        lease.metadata.managed_fields = None;
        let same = before.is_some_and(|held| held.record.holder == record.holder);
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(record.holder.clone()),
            lease_duration_seconds: i32::try_from(record.lasts.as_secs().max(1)).ok(),
            renew_time: time.clone(),
            acquire_time: if same { old.acquire_time.clone() } else { time },
            lease_transitions: Some(
                old.lease_transitions.unwrap_or(0) + i32::from(before.is_some() && !same),
            ),
            ..old
        });
        let parameters = PostParams {
            field_manager: Some(CONTROL_PLANE.to_owned()),
            ..PostParams::default()
        };
        let (verb, written) = match before {
            Some(_) => ("update", self.own().replace(LEASE, &parameters, &lease).await),
            None => ("create", self.own().create(&parameters, &lease).await),
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(self.failed("write", verb, &error)),
        }
    }

    /// Leases of the same name in other namespaces.
    ///
    /// # Errors
    /// When the API server can't be reached or refuses.
    pub async fn others(&self) -> Result<Vec<Other>, ClusterError> {
        let all: Api<Lease> = Api::all(self.client.clone());
        let parameters = ListParams::default().fields(&format!("metadata.name={LEASE}"));
        let list = all.list(&parameters).await;
        let list = list.map_err(|error| {
            ClusterError::new(&format!(
                "can't look for other installations of Weft in this cluster: {error}"
            ))
        })?;
        let others = list.items.into_iter().filter_map(|lease| {
            let namespace = lease.metadata.namespace.clone()?;
            let same = lease.metadata.name.as_deref() == Some(LEASE) && namespace != self.namespace;
            let created = lease.metadata.creation_timestamp.as_ref();
            let created = created.map_or(0, |time| time.0.as_second());
            same.then(|| Other {
                record: record(&lease),
                created,
                namespace,
            })
        });
        Ok(others.collect())
    }

    fn fresh(&self) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(LEASE.to_owned()),
                namespace: Some(self.namespace.clone()),
                labels: Some(BTreeMap::from([(
                    "app.kubernetes.io/part-of".to_owned(),
                    "weft".to_owned(),
                )])),
                ..ObjectMeta::default()
            },
            spec: None,
        }
    }

    fn failed(&self, what: &str, verb: &str, error: &kube::Error) -> ClusterError {
        let namespace = &self.namespace;
        let hint = match error {
            kube::Error::Api(status) if status.code == 403 => format!(
                "; add the rule {{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [{verb}]}} to the Role \
                 {CONTROL_PLANE} of namespace {namespace}"
            ),
            _ => String::new(),
        };
        ClusterError::new(&format!(
            "can't {what} the Lease {namespace}/{LEASE}: {error}{hint}"
        ))
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.unwrap_or(0);
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        lasts: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        renewed: spec.renew_time.map(|time| time.0.to_string()).unwrap_or_default(),
    }
}
