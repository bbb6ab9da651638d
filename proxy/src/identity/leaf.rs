//! What a peer's own certificate says, read strictly.
//!
//! Enters: the DER of a leaf. Leaves: a [`Leaf`] whose identity is the one URI name, or the reason for refusing. Never: a
//! choice between several names, a name of another trust domain, a certificate that could sign others.
//!
//! Source: the SPIFFE X.509-SVID standard, sections 2 to 5. The chain, its signatures and its times are rustls's.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost::Message as _;
use weft_proto::model::identity::InvalidIdentity;
use weft_proto::model::{SpiffeId, TrustDomain};
use weft_proto::wire::v1::PodIdentity;
use x509_parser::der_parser::oid;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Object identifier of the extension that says which pod holds the key, in rcgen's form.
pub const POD_EXTENSION: [u64; 9] = [1, 3, 6, 1, 4, 1, 58888, 1, 1];
/// Longest certificate that is read, in bytes.
pub const MAX_CERTIFICATE: usize = 16 * 1024;

/// What a certificate is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// It proves a caller.
    Client,
    /// It proves the called one.
    Server,
}

/// A pod, as its certificate names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodName {
    /// Name.
    pub name: Arc<str>,
    /// Uid.
    pub uid: Arc<str>,
    /// The owner's name; may be empty.
    pub workload: Arc<str>,
    /// Canonical name, for telemetry only; may be empty.
    pub app: Arc<str>,
    /// Version, for telemetry only; may be empty.
    pub version: Arc<str>,
}

/// The contents of a certificate that matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The one URI name.
    pub id: SpiffeId,
    /// Which pod, if the certificate says so.
    pub pod: Option<PodName>,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// Serial number in hex.
    pub serial: String,
}

/// Why a certificate is no workload's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It can't be read.
    #[error("the certificate can't be read: {0}")]
    Malformed(&'static str),
    /// Not exactly one URI name.
    #[error("the certificate has {0} URI names, exactly one is allowed")]
    UriNames(usize),
    /// The URI name is no workload's SPIFFE id.
    #[error("the certificate's URI name is no workload's: {0}")]
    Name(#[from] InvalidIdentity),
    /// Another trust domain.
    #[error("the certificate is of trust domain {theirs}, ours is {ours}")]
    TrustDomain {
        /// Theirs.
        theirs: TrustDomain,
        /// Ours.
        ours: TrustDomain,
    },
    /// It may sign certificates, so that it is no leaf.
    #[error("the certificate may sign others, so that it is no workload's")]
    Signer,
    /// The extended key usage is missing or another.
    #[error("the certificate may not be used by a {0}")]
    Usage(&'static str),
    /// Somebody else than who was to be reached.
    #[error("the peer is {actual}, not who was to be reached; the endpoint may have been replaced just now")]
    Other {
        /// Who it is.
        actual: SpiffeId,
    },
}

impl Refused {
    /// A short fixed word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "certificate-malformed",
            Self::UriNames(_) | Self::Name(_) => "certificate-name",
            Self::TrustDomain { .. } => "trust-domain",
            Self::Signer => "certificate-signer",
            Self::Usage(_) => "certificate-usage",
            Self::Other { .. } => "identity",
        }
    }
}

impl Leaf {
    /// Reads a certificate that must be a workload's of `trust_domain`, fit for `usage`.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn read(der: &[u8], trust_domain: &TrustDomain, usage: Usage) -> Result<Self, Refused> {
        if der.len() > MAX_CERTIFICATE {
            return Err(Refused::Malformed("longer than 16 KiB"));
        }
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| Refused::Malformed("no X.509 certificate"))?;
        if !rest.is_empty() {
            return Err(Refused::Malformed("bytes after the certificate"));
        }
        signs_nothing(&certificate)?;
        fits(&certificate, usage)?;
        let id = uri_name(&certificate)?;
        if id.trust_domain() != trust_domain {
            return Err(Refused::TrustDomain {
                theirs: id.trust_domain().clone(),
                ours: trust_domain.clone(),
            });
        }
        let validity = certificate.validity();
        Ok(Self {
            id,
            pod: pod(&certificate)?,
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
            serial: certificate
                .raw_serial()
                .iter()
                .take(32)
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        })
    }
}

fn signs_nothing(certificate: &X509Certificate<'_>) -> Result<(), Refused> {
    let malformed = |_| Refused::Malformed("an extension is there twice or broken");
    let signs = certificate
        .key_usage()
        .map_err(malformed)?
        .is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign());
    let authority = certificate
        .basic_constraints()
        .map_err(malformed)?
        .is_some_and(|basic| basic.value.ca);
    if signs || authority {
        Err(Refused::Signer)
    } else {
        Ok(())
    }
}

fn fits(certificate: &X509Certificate<'_>, usage: Usage) -> Result<(), Refused> {
    let found = certificate
        .extended_key_usage()
        .map_err(|_| Refused::Malformed("extended key usage"))?;
    let fits = found.is_some_and(|found| match usage {
        Usage::Client => found.value.client_auth,
        Usage::Server => found.value.server_auth,
    });
    match (fits, usage) {
        (true, _) => Ok(()),
        (false, Usage::Client) => Err(Refused::Usage("client")),
        (false, Usage::Server) => Err(Refused::Usage("server")),
    }
}

fn uri_name(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Refused> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| Refused::Malformed("subject alternative names"))?
        .ok_or(Refused::UriNames(0))?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.count()) {
        (Some(uri), 0) => Ok(uri.parse()?),
        (Some(_), more) => Err(Refused::UriNames(more + 1)),
        (None, _) => Err(Refused::UriNames(0)),
    }
}

fn pod(certificate: &X509Certificate<'_>) -> Result<Option<PodName>, Refused> {
    let malformed = Refused::Malformed("the pod's extension");
    let found = certificate
        .get_extension_unique(&oid!(1.3.6.1.4.1.58888.1.1))
        .map_err(|_| malformed.clone())?;
    let Some(extension) = found else { return Ok(None) };
    let pod = PodIdentity::decode(extension.value).map_err(|_| malformed.clone())?;
    let allowed = |text: &str| {
        text.len() <= 253
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
    };
    if ![&pod.pod, &pod.uid, &pod.workload, &pod.app, &pod.version]
        .into_iter()
        .all(|text| allowed(text))
    {
        return Err(malformed);
    }
    Ok(Some(PodName {
        name: pod.pod.into(),
        uid: pod.uid.into(),
        workload: pod.workload.into(),
        app: pod.app.into(),
        version: pod.version.into(),
    }))
}

/// Times before the epoch count as the epoch.
fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
