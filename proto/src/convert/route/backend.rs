//! Where requests and their copies go.

use super::super::{Invalid, name, port, required};
use super::{header, number, within};
use crate::model::{Backend, Mirror};
use crate::wire::v1;
use std::sync::Arc;

/// Highest weight, and all of something in millionths.
const MILLION: u32 = 1_000_000;

impl TryFrom<v1::Backend> for Backend {
    type Error = Invalid;
    fn try_from(wire: v1::Backend) -> Result<Self, Invalid> {
        let invalid: Option<Arc<str>> = (!wire.invalid.is_empty()).then(|| wire.invalid.into());
        // A backend that can't be used may lack the port that makes it so.
        let port = if invalid.is_some() {
            u16::try_from(wire.port).unwrap_or(0)
        } else {
            port("port", wire.port)?
        };
        Ok(Self {
            service: within("service", required("service", wire.service)?)?,
            port,
            weight: number("weight", wire.weight, 0, MILLION)?,
            invalid,
            subset: match &*wire.subset {
                "" => None,
                subset => Some(name("subset", subset)?),
            },
            request_headers: within("request_headers", wire.request_headers.unwrap_or_default())?,
            response_headers: within("response_headers", wire.response_headers.unwrap_or_default())?,
        })
    }
}

impl From<&Backend> for v1::Backend {
    fn from(backend: &Backend) -> Self {
        Self {
            service: Some((&backend.service).into()),
            port: backend.port.into(),
            weight: backend.weight,
            invalid: backend.invalid.as_deref().unwrap_or_default().to_owned(),
            subset: backend.subset.as_deref().unwrap_or_default().to_owned(),
            request_headers: header::wire(&backend.request_headers),
            response_headers: header::wire(&backend.response_headers),
        }
    }
}

impl TryFrom<v1::Mirror> for Mirror {
    type Error = Invalid;
    fn try_from(wire: v1::Mirror) -> Result<Self, Invalid> {
        Ok(Self {
            backend: within("backend", required("backend", wire.backend)?)?,
            millionths: millionths("millionths", wire.millionths)?,
        })
    }
}

impl From<&Mirror> for v1::Mirror {
    fn from(mirror: &Mirror) -> Self {
        Self {
            backend: Some((&mirror.backend).into()),
            millionths: mirror.millionths,
        }
    }
}

/// A share, in millionths.
pub(super) fn millionths(field: &str, value: u32) -> Result<u32, Invalid> {
    number(field, value, 0, MILLION)
}
