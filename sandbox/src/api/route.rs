//! What a request asks for.
//!
//! In: a method, a path and a query. Out: a [`Target`] and [`Query`]. Never: an object.

use std::sync::Arc;

use super::kinds::{Kind, Kinds};
use super::refusal::Refusal;
use super::selector::{Fields, Labels};

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/healthz`, `/livez`, `/readyz`.
    Health,
    /// `/version`.
    Version,
    /// `/api`.
    Core,
    /// `/apis`.
    Groups,
    /// `/apis/<group>`.
    Group(String),
    /// `/api/v1`, `/apis/<group>/<version>`.
    Resources(String, String),
    /// `/openapi/v3`, or one of its documents (`apis/apps/v1`).
    OpenApi(String),
    /// A question: its group, plural and namespace.
    Review(String, String, String),
    /// Objects of a kind.
    Objects(Place),
}

/// Objects of a kind, or one of them, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The kind.
    pub kind: Arc<Kind>,
    /// The version in the path.
    pub version: String,
    /// The namespace in the path; none for cluster-wide kinds and for lists over all namespaces.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: Option<String>,
    /// `status`, `scale`, `log`, `token`, `eviction`.
    pub sub: Option<String>,
}

/// Longest path and query that are looked at.
const MAX_URI: usize = 8192;

/// Reads a path.
///
/// # Errors
/// 404 where nothing is served there.
pub fn target(kinds: &Kinds, path: &str) -> Result<Target, Refusal> {
    let none = || Refusal::no_path(&path.chars().take(256).collect::<String>());
    if path.len() > MAX_URI {
        return Err(none());
    }
    let parts: Vec<String> = path
        .split('/')
        .filter(|p| !p.is_empty())
        .map(decode)
        .collect::<Option<_>>()
        .ok_or_else(none)?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => return Ok(Target::Health),
        ["version"] => return Ok(Target::Version),
        ["openapi", "v3", rest @ ..] => return Ok(Target::OpenApi(rest.join("/"))),
        ["api"] => return Ok(Target::Core),
        ["apis"] => return Ok(Target::Groups),
        ["apis", group] => return Ok(Target::Group((*group).to_owned())),
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(none()),
    };
    if rest.is_empty() {
        return Ok(Target::Resources(group.to_owned(), version.to_owned()));
    }
    if let Some((plural, namespace)) = review(group, version, rest) {
        return Ok(Target::Review(
            group.to_owned(),
            plural.to_owned(),
            namespace.to_owned(),
        ));
    }
    let (namespace, rest) = match rest {
        ["namespaces", _, "status" | "finalize"] => (None, rest),
        ["namespaces", namespace, more @ ..] if !more.is_empty() => (Some((*namespace).to_owned()), more),
        _ => (None, rest),
    };
    let (plural, name, sub) = match rest {
        [plural] => (*plural, None, None),
        [plural, name] => (*plural, Some((*name).to_owned()), None),
        [plural, name, sub] => (*plural, Some((*name).to_owned()), Some((*sub).to_owned())),
        _ => return Err(none()),
    };
    let kind = kinds.by_url(group, version, plural).ok_or_else(none)?;
    if kind.namespaced != namespace.is_some() && (name.is_some() || !kind.namespaced) {
        return Err(none());
    }
    let served = match sub.as_deref() {
        None => true,
        Some("status") => kind.status,
        Some("scale") => kind.scale(),
        Some("eviction") => kind.key() == "pods",
        Some("log") => kind.key() == "pods",
        Some("token") => kind.key() == "serviceaccounts",
        Some(part @ ("exec" | "attach" | "portforward")) if kind.key() == "pods" => {
            let instead = if part == "portforward" {
                "weft port-forward"
            } else {
                "weft exec"
            };
            return Err(Refusal::not_in_sandbox(&format!("pods/{part}"), instead));
        }
        Some(_) => false,
    };
    if !served {
        return Err(none());
    }
    Ok(Target::Objects(Place {
        kind,
        version: version.to_owned(),
        namespace,
        name,
        sub,
    }))
}

/// The plural and the namespace of a question.
fn review<'a>(group: &str, version: &str, rest: &[&'a str]) -> Option<(&'a str, &'a str)> {
    match (group, version, rest) {
        ("authentication.k8s.io", "v1", [plural @ ("tokenreviews" | "selfsubjectreviews")])
        | (
            "authorization.k8s.io",
            "v1",
            [plural @ ("selfsubjectaccessreviews" | "selfsubjectrulesreviews" | "subjectaccessreviews")],
        ) => Some((plural, "")),
        ("authorization.k8s.io", "v1", ["namespaces", namespace, plural @ "localsubjectaccessreviews"]) => {
            Some((plural, namespace))
        }
        _ => None,
    }
}

/// The options in a query string.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads a query string.
    ///
    /// # Errors
    /// 400 where it is too long or not properly escaped.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() > MAX_URI {
            return Err(Refusal::bad_request("the query is too long"));
        }
        let pairs = text
            .split('&')
            .filter(|p| !p.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                Some((decode(&key.replace('+', " "))?, decode(&value.replace('+', " "))?))
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Refusal::bad_request("the query is not properly escaped"))?;
        Ok(Self { pairs })
    }

    /// The options of a body, for those that the query does not have.
    pub fn add(&mut self, key: &str, value: &str) {
        if self.get(key).is_none() {
            self.pairs.push((key.to_owned(), value.to_owned()));
        }
    }

    /// The first value of an option.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Whether an option is `true` or `1`.
    #[must_use]
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some("true" | "1"))
    }

    /// An option that is a number.
    ///
    /// # Errors
    /// 400 where it is not.
    pub fn number(&self, key: &str) -> Result<Option<u64>, Refusal> {
        match self.get(key).filter(|v| !v.is_empty()) {
            None => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| Refusal::bad_request(format!("{key}: {text:?} is not a number"))),
        }
    }

    /// `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// 400 where one can't be read.
    pub fn selectors(&self) -> Result<(Labels, Fields), Refusal> {
        let labels =
            Labels::parse(self.get("labelSelector").unwrap_or_default()).map_err(Refusal::bad_request)?;
        let fields =
            Fields::parse(self.get("fieldSelector").unwrap_or_default()).map_err(Refusal::bad_request)?;
        Ok((labels, fields))
    }
}

/// Undoes percent escapes; none where they are broken or not UTF-8.
fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parts = (String, Option<String>, Option<String>, Option<String>);

    fn place(path: &str) -> Option<Parts> {
        match target(&Kinds::default(), path) {
            Ok(Target::Objects(p)) => Some((p.kind.key(), p.namespace, p.name, p.sub)),
            _ => None,
        }
    }

    #[test]
    fn paths() {
        let some = |s: &str| Some(s.to_owned());
        for (path, expected) in [
            ("/api/v1/pods", Some(("pods", None, None, None))),
            ("/api/v1/namespaces", Some(("namespaces", None, None, None))),
            (
                "/api/v1/namespaces/a",
                Some(("namespaces", None, some("a"), None)),
            ),
            (
                "/api/v1/namespaces/a/status",
                Some(("namespaces", None, some("a"), some("status"))),
            ),
            (
                "/api/v1/namespaces/a/pods/b/log",
                Some(("pods", some("a"), some("b"), some("log"))),
            ),
            (
                "/apis/apps/v1/namespaces/a/deployments/d%2Dx",
                Some(("deployments.apps", some("a"), some("d-x"), None)),
            ),
            ("/api/v1/nodes/n", Some(("nodes", None, some("n"), None))),
            ("/api/v1/pods/b", None),
            ("/api/v1/namespaces/a/nodes", None),
            ("/api/v1/namespaces/a/configmaps/b/status", None),
            ("/apis/apps/v2/deployments", None),
            ("/api/v1/%zz", None),
            ("/", None),
        ] {
            let expected = expected.map(|(k, n, o, s)| (k.to_owned(), n, o, s));
            assert_eq!(place(path), expected, "{path}");
        }
        let kinds = Kinds::default();
        assert_eq!(
            target(&kinds, "/apis/authentication.k8s.io/v1/tokenreviews"),
            Ok(Target::Review(
                "authentication.k8s.io".to_owned(),
                "tokenreviews".to_owned(),
                String::new()
            ))
        );
        assert_eq!(
            target(&kinds, "/readyz?verbose"),
            Err(Refusal::no_path("/readyz?verbose"))
        );
        assert_eq!(target(&kinds, "/livez"), Ok(Target::Health));
    }

    #[test]
    fn queries() {
        let query = Query::parse("watch=1&labelSelector=a%3Db%2Cc&timeoutSeconds=5&x+y=z").unwrap();
        assert!(query.flag("watch"));
        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert_eq!(query.number("timeoutSeconds"), Ok(Some(5)));
        assert_eq!(query.get("x y"), Some("z"));
        assert!(Query::parse("a=%f").is_err());
        assert!(Query::parse("limit=x").unwrap().number("limit").is_err());
    }
}
