//! Type URLs, resource names and versions: the envelope around the model on the configuration stream.

use crate::convert::Invalid;
use crate::model::{Endpoints, Gateway, Inbound, Names, Pod, Policy, Routes, Service, TrustBundle};
use crate::wire::v1;
use bytes::Bytes;
use prost::Message as _;

/// The kinds of resource that a sidecar subscribes to, in the order in which they should be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Whom to believe; named by trust domain.
    TrustBundle,
    /// The sidecar's own workload; the one resource is named `self`.
    Inbound,
    /// Policies that select the workload; named `namespace/name`.
    Policy,
    /// Names and addresses of all Services, in shares; named by two hexadecimal digits.
    Names,
    /// Services; named `namespace/name`.
    Service,
    /// Endpoints of a Service; named as the Service.
    Endpoints,
    /// Routes of a Service; named as the Service.
    Routes,
    /// Pods with a sidecar; named by an address of theirs.
    Pod,
    /// What the asking pod serves to clients outside the mesh, if it is a gateway; the one resource is named `self`.
    Gateway,
}

/// One resource of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// See [`Kind::TrustBundle`].
    TrustBundle(TrustBundle),
    /// See [`Kind::Inbound`].
    Inbound(Inbound),
    /// See [`Kind::Policy`].
    Policy(Policy),
    /// See [`Kind::Names`].
    Names(Names),
    /// See [`Kind::Service`].
    Service(Service),
    /// See [`Kind::Endpoints`].
    Endpoints(Endpoints),
    /// See [`Kind::Routes`].
    Routes(Routes),
    /// See [`Kind::Pod`].
    Pod(Pod),
    /// See [`Kind::Gateway`].
    Gateway(Gateway),
}

impl Kind {
    /// Every kind, in the order in which they should be applied.
    pub const ALL: [Self; 9] = [
        Self::TrustBundle,
        Self::Inbound,
        Self::Policy,
        Self::Names,
        Self::Service,
        Self::Endpoints,
        Self::Routes,
        Self::Pod,
        Self::Gateway,
    ];

    /// Whether a sidecar gets resources of this kind by name only, of what it uses; else it gets all that concern it.
    pub fn on_demand(self) -> bool {
        matches!(self, Self::Service | Self::Endpoints | Self::Routes | Self::Pod)
    }

    /// The type URL on the stream.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::TrustBundle => "type.weft.dev/weft.v1.TrustBundle",
            Self::Inbound => "type.weft.dev/weft.v1.Inbound",
            Self::Policy => "type.weft.dev/weft.v1.Policy",
            Self::Names => "type.weft.dev/weft.v1.Names",
            Self::Service => "type.weft.dev/weft.v1.Service",
            Self::Endpoints => "type.weft.dev/weft.v1.Endpoints",
            Self::Routes => "type.weft.dev/weft.v1.Routes",
            Self::Pod => "type.weft.dev/weft.v1.Pod",
            Self::Gateway => "type.weft.dev/weft.v1.Gateway",
        }
    }

    /// The kind of a type URL.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

impl Resource {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::TrustBundle(_) => Kind::TrustBundle,
            Self::Inbound(_) => Kind::Inbound,
            Self::Policy(_) => Kind::Policy,
            Self::Names(_) => Kind::Names,
            Self::Service(_) => Kind::Service,
            Self::Endpoints(_) => Kind::Endpoints,
            Self::Routes(_) => Kind::Routes,
            Self::Pod(_) => Kind::Pod,
            Self::Gateway(_) => Kind::Gateway,
        }
    }

    /// Its name on the stream, unique within its kind.
    pub fn name(&self) -> String {
        match self {
            Self::TrustBundle(bundle) => bundle.trust_domain.to_string(),
            Self::Inbound(_) | Self::Gateway(_) => "self".to_owned(),
            Self::Policy(policy) => format!("{}/{}", policy.origin.namespace, policy.origin.name),
            Self::Names(names) => names.resource_name(),
            Self::Service(service) => service.name.to_string(),
            Self::Endpoints(endpoints) => endpoints.service.to_string(),
            Self::Routes(routes) => routes.service.to_string(),
            Self::Pod(pod) => pod.address.to_string(),
        }
    }

    /// The message's bytes; the same model always gives the same bytes.
    pub fn encode(&self) -> Bytes {
        let bytes = match self {
            Self::TrustBundle(bundle) => v1::TrustBundle::from(bundle).encode_to_vec(),
            Self::Inbound(inbound) => v1::Inbound::from(inbound).encode_to_vec(),
            Self::Policy(policy) => v1::Policy::from(policy).encode_to_vec(),
            Self::Names(names) => v1::Names::from(names).encode_to_vec(),
            Self::Service(service) => v1::Service::from(service).encode_to_vec(),
            Self::Endpoints(endpoints) => v1::Endpoints::from(endpoints).encode_to_vec(),
            Self::Routes(routes) => v1::Routes::from(routes).encode_to_vec(),
            Self::Pod(pod) => v1::Pod::from(pod).encode_to_vec(),
            Self::Gateway(gateway) => v1::Gateway::from(gateway).encode_to_vec(),
        };
        bytes.into()
    }

    /// Reads and validates a message of a kind.
    ///
    /// # Errors
    /// Names the field and the reason when the bytes are no such message or a value is out of bounds.
    pub fn decode(kind: Kind, bytes: Bytes) -> Result<Self, Invalid> {
        fn read<M: prost::Message + Default>(bytes: Bytes) -> Result<M, Invalid> {
            M::decode(bytes).map_err(|error| Invalid::new("", format!("no such message: {error}")))
        }
        Ok(match kind {
            Kind::TrustBundle => Self::TrustBundle(read::<v1::TrustBundle>(bytes)?.try_into()?),
            Kind::Inbound => Self::Inbound(read::<v1::Inbound>(bytes)?.try_into()?),
            Kind::Policy => Self::Policy(read::<v1::Policy>(bytes)?.try_into()?),
            Kind::Names => Self::Names(read::<v1::Names>(bytes)?.try_into()?),
            Kind::Service => Self::Service(read::<v1::Service>(bytes)?.try_into()?),
            Kind::Endpoints => Self::Endpoints(read::<v1::Endpoints>(bytes)?.try_into()?),
            Kind::Routes => Self::Routes(read::<v1::Routes>(bytes)?.try_into()?),
            Kind::Pod => Self::Pod(read::<v1::Pod>(bytes)?.try_into()?),
            Kind::Gateway => Self::Gateway(read::<v1::Gateway>(bytes)?.try_into()?),
        })
    }
}

/// The version of encoded bytes: FNV-1a, 128 bits, in hex. It depends on nothing but the bytes, so that any replica of the
/// control plane can resume any sidecar.
pub fn version(bytes: &[u8]) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = bytes.iter().fold(OFFSET, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
    });
    format!("{hash:032x}")
}
