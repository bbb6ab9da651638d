//! Cross-origin requests (the Fetch standard's CORS protocol).
//!
//! In: what a rule allows, once; then heads of requests. Out: the answer to a preflight, and what is added to other answers. Never: an
//! origin allowed that no rule names; `*` where credentials may come along, since clients refuse that.

use super::RequestHead;
use crate::Invalid;
use crate::matcher::Matcher;
use std::sync::Arc;
use weft_proto::model::{Cors, StringMatch};

/// What a rule allows, compiled.
#[derive(Clone, Debug)]
pub struct CorsRule {
    any_origin: bool,
    origins: Vec<Matcher>,
    methods: List,
    headers: List,
    expose: List,
    max_age: Option<Arc<str>>,
    credentials: bool,
}

/// Names as a header field lists them.
#[derive(Clone, Debug)]
struct List {
    any: bool,
    text: Arc<str>,
}

/// Fields of an answer, lower-case names.
pub type Fields = Vec<(Arc<str>, Arc<str>)>;

impl CorsRule {
    /// Compiles what a rule allows.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub fn compile(cors: &Cors) -> Result<Self, Invalid> {
        let any = |origin: &&StringMatch| matches!(origin, StringMatch::Exact(text) if &**text == "*");
        let mut origins = Vec::new();
        for (i, origin) in cors.allow_origins.iter().enumerate() {
            if !any(&origin) {
                let origin = Matcher::compile_folded(origin);
                origins.push(origin.map_err(|e| e.within(&format!("allow_origins[{i}]")))?);
            }
        }
        Ok(Self {
            any_origin: cors.allow_origins.iter().any(|origin| any(&origin)),
            origins,
            methods: List::new(&cors.allow_methods),
            headers: List::new(&cors.allow_headers),
            expose: List::new(&cors.expose_headers),
            max_age: cors.max_age.map(|age| age.as_secs().to_string().into()),
            credentials: cors.allow_credentials,
        })
    }

    /// The fields of the answer to a preflight; `None`: it is none, or its origin isn't allowed: then it goes on like any request.
    pub fn preflight(&self, head: &RequestHead<'_>) -> Option<Fields> {
        if head.method != "OPTIONS" {
            return None;
        }
        let method = text(head, "access-control-request-method")?;
        let mut fields = self.origin(head)?;
        if let Some(methods) = self.methods.allowed(self.credentials, Some(method)) {
            fields.push(("access-control-allow-methods".into(), methods));
        }
        let asked = text(head, "access-control-request-headers");
        if let Some(headers) = self.headers.allowed(self.credentials, asked) {
            fields.push(("access-control-allow-headers".into(), headers));
        }
        if let Some(age) = &self.max_age {
            fields.push(("access-control-max-age".into(), age.clone()));
        }
        Some(fields)
    }

    /// The fields of an answer to any other request; `None`: it comes from no other origin, or from one that isn't allowed.
    pub fn answer(&self, head: &RequestHead<'_>) -> Option<Fields> {
        let mut fields = self.origin(head)?;
        if !self.expose.text.is_empty() {
            fields.push(("access-control-expose-headers".into(), self.expose.text.clone()));
        }
        Some(fields)
    }

    /// What both kinds have in common.
    fn origin(&self, head: &RequestHead<'_>) -> Option<Fields> {
        let origin = text(head, "origin")?;
        let allowed = self.any_origin || self.origins.iter().any(|each| each.matches(origin.as_bytes()));
        if !allowed {
            return None;
        }
        let mut fields = Vec::with_capacity(5);
        if self.any_origin && !self.credentials {
            fields.push(("access-control-allow-origin".into(), "*".into()));
        } else {
            fields.push(("access-control-allow-origin".into(), origin.into()));
        }
        if self.credentials {
            fields.push(("access-control-allow-credentials".into(), "true".into()));
        }
        Some(fields)
    }

    /// Whether answers differ by origin, so that caches must know.
    pub fn varies(&self) -> bool {
        !self.any_origin || self.credentials
    }
}

impl List {
    fn new(names: &[Arc<str>]) -> Self {
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        Self {
            any: names.contains(&"*"),
            text: names.join(", ").into(),
        }
    }

    /// What a preflight is told; with credentials `*` is no wildcard, so that what was asked for is named.
    fn allowed(&self, credentials: bool, asked: Option<&str>) -> Option<Arc<str>> {
        match (self.any, credentials) {
            (true, true) => asked.map(Arc::from),
            (true, false) => Some("*".into()),
            (false, _) if self.text.is_empty() => None,
            (false, _) => Some(self.text.clone()),
        }
    }
}

/// The only value of a field, if it is text.
fn text<'a>(head: &RequestHead<'a>, name: &str) -> Option<&'a str> {
    head.headers.get(name)?.to_str().ok()
}
