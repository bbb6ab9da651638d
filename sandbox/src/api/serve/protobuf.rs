//! Bodies in Kubernetes' protobuf form, which `kubectl`'s typed commands send (`create`, `auth can-i`, `drain`).
//!
//! In: the envelope `k8s\0` and an object of a kind listed here. Out: the object as JSON. Never: a field dropped in silence: an
//! object with a field that is not listed is refused, and the client can send JSON.

use base64::Engine as _;
use serde_json::{Map, Value, json};

/// Deepest nesting that is read.
const MAX_DEPTH: usize = 24;

/// What a field holds.
enum Holds {
    Text,
    Number,
    Flag,
    One(&'static [Field]),
    Texts,
    Many(&'static [Field]),
    /// A map of strings.
    Map,
    /// A map of strings to bytes.
    ByteMap,
    /// Seconds since 1970.
    Time,
    /// A number or a name.
    IntOrText,
}

/// Number, name, contents.
type Field = (u64, &'static str, Holds);

use Holds::{ByteMap, Flag, IntOrText, Many, Number, One, Text, Texts, Time};

const OWNER: &[Field] = &[
    (1, "kind", Text),
    (3, "name", Text),
    (4, "uid", Text),
    (5, "apiVersion", Text),
    (6, "controller", Flag),
    (7, "blockOwnerDeletion", Flag),
];
const METADATA: &[Field] = &[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (5, "uid", Text),
    (6, "resourceVersion", Text),
    (7, "generation", Number),
    (8, "creationTimestamp", Time),
    (11, "labels", Holds::Map),
    (12, "annotations", Holds::Map),
    (13, "ownerReferences", Many(OWNER)),
    (14, "finalizers", Texts),
];
const PORT: &[Field] = &[
    (1, "name", Text),
    (3, "containerPort", Number),
    (4, "protocol", Text),
];
const VARIABLE: &[Field] = &[(1, "name", Text), (2, "value", Text)];
const CONTAINER: &[Field] = &[
    (1, "name", Text),
    (2, "image", Text),
    (3, "command", Texts),
    (4, "args", Texts),
    (5, "workingDir", Text),
    (6, "ports", Many(PORT)),
    (7, "env", Many(VARIABLE)),
    (8, "resources", One(&[])),
    (13, "terminationMessagePath", Text),
    (14, "imagePullPolicy", Text),
    (16, "stdin", Flag),
    (17, "stdinOnce", Flag),
    (18, "tty", Flag),
];
const POD_SPEC: &[Field] = &[
    (2, "containers", Many(CONTAINER)),
    (3, "restartPolicy", Text),
    (6, "dnsPolicy", Text),
    (8, "serviceAccountName", Text),
    (9, "serviceAccount", Text),
    (10, "nodeName", Text),
    (11, "hostNetwork", Flag),
    (12, "hostPID", Flag),
    (13, "hostIPC", Flag),
    (19, "schedulerName", Text),
];
const TEMPLATE: &[Field] = &[(1, "metadata", One(METADATA)), (2, "spec", One(POD_SPEC))];
const SELECTOR: &[Field] = &[(1, "matchLabels", Holds::Map)];
const DEPLOYMENT_SPEC: &[Field] = &[
    (1, "replicas", Number),
    (2, "selector", One(SELECTOR)),
    (3, "template", One(TEMPLATE)),
    (4, "strategy", One(&[])),
    (5, "minReadySeconds", Number),
    (7, "paused", Flag),
];
const JOB_SPEC: &[Field] = &[
    (1, "parallelism", Number),
    (2, "completions", Number),
    (3, "activeDeadlineSeconds", Number),
    (6, "template", One(TEMPLATE)),
    (7, "backoffLimit", Number),
    (8, "ttlSecondsAfterFinished", Number),
];
const SERVICE_PORT: &[Field] = &[
    (1, "name", Text),
    (2, "protocol", Text),
    (3, "port", Number),
    (4, "targetPort", IntOrText),
    (5, "nodePort", Number),
    (6, "appProtocol", Text),
];
const SERVICE_SPEC: &[Field] = &[
    (1, "ports", Many(SERVICE_PORT)),
    (2, "selector", Holds::Map),
    (3, "clusterIP", Text),
    (4, "type", Text),
    (10, "externalName", Text),
    (18, "clusterIPs", Texts),
];
const RESOURCE: &[Field] = &[
    (1, "namespace", Text),
    (2, "verb", Text),
    (3, "group", Text),
    (4, "version", Text),
    (5, "resource", Text),
    (6, "subresource", Text),
    (7, "name", Text),
];
const PATH: &[Field] = &[(1, "path", Text), (2, "verb", Text)];
const ACCESS: &[Field] = &[
    (1, "resourceAttributes", One(RESOURCE)),
    (2, "nonResourceAttributes", One(PATH)),
];
const PRECONDITIONS: &[Field] = &[(1, "uid", Text), (2, "resourceVersion", Text)];
const DELETE: &[Field] = &[
    (1, "gracePeriodSeconds", Number),
    (2, "preconditions", One(PRECONDITIONS)),
    (3, "orphanDependents", Flag),
    (4, "propagationPolicy", Text),
    (5, "dryRun", Texts),
];
const BOUND: &[Field] = &[
    (1, "kind", Text),
    (2, "apiVersion", Text),
    (3, "name", Text),
    (4, "uid", Text),
];
const TOKEN: &[Field] = &[
    (1, "audiences", Texts),
    (3, "boundObjectRef", One(BOUND)),
    (4, "expirationSeconds", Number),
];
const RULE: &[Field] = &[
    (1, "verbs", Texts),
    (2, "apiGroups", Texts),
    (3, "resources", Texts),
    (4, "resourceNames", Texts),
    (5, "nonResourceURLs", Texts),
];
const SUBJECT: &[Field] = &[
    (1, "kind", Text),
    (2, "apiGroup", Text),
    (3, "name", Text),
    (4, "namespace", Text),
];
const ROLE_REF: &[Field] = &[(1, "apiGroup", Text), (2, "kind", Text), (3, "name", Text)];
/// A status that a client sends is empty: one that is not is refused.
const UNSET: &[Field] = &[];

/// The fields of a kind's objects.
fn fields(kind: &str) -> Option<&'static [Field]> {
    Some(match kind {
        "ConfigMap" => &[
            (1, "metadata", One(METADATA)),
            (2, "data", Holds::Map),
            (3, "binaryData", ByteMap),
            (4, "immutable", Flag),
        ],
        "Secret" => &[
            (1, "metadata", One(METADATA)),
            (2, "data", ByteMap),
            (3, "type", Text),
            (4, "stringData", Holds::Map),
            (5, "immutable", Flag),
        ],
        "Namespace" => &[
            (1, "metadata", One(METADATA)),
            (2, "spec", One(&[])),
            (3, "status", One(UNSET)),
        ],
        "ServiceAccount" => &[
            (1, "metadata", One(METADATA)),
            (4, "automountServiceAccountToken", Flag),
        ],
        "Deployment" => &[
            (1, "metadata", One(METADATA)),
            (2, "spec", One(DEPLOYMENT_SPEC)),
            (3, "status", One(UNSET)),
        ],
        "Job" => &[
            (1, "metadata", One(METADATA)),
            (2, "spec", One(JOB_SPEC)),
            (3, "status", One(UNSET)),
        ],
        "Pod" => &[
            (1, "metadata", One(METADATA)),
            (2, "spec", One(POD_SPEC)),
            (3, "status", One(UNSET)),
        ],
        "Service" => &[
            (1, "metadata", One(METADATA)),
            (2, "spec", One(SERVICE_SPEC)),
            (3, "status", One(&[(1, "loadBalancer", One(&[]))])),
        ],
        "Role" | "ClusterRole" => &[(1, "metadata", One(METADATA)), (2, "rules", Many(RULE))],
        "RoleBinding" | "ClusterRoleBinding" => &[
            (1, "metadata", One(METADATA)),
            (2, "subjects", Many(SUBJECT)),
            (3, "roleRef", One(ROLE_REF)),
        ],
        "SelfSubjectAccessReview" => &[
            (1, "metadata", One(METADATA)),
            (2, "spec", One(ACCESS)),
            (
                3,
                "status",
                One(&[
                    (1, "allowed", Flag),
                    (2, "reason", Text),
                    (3, "evaluationError", Text),
                    (4, "denied", Flag),
                ]),
            ),
        ],
        "SelfSubjectReview" => &[
            (1, "metadata", One(METADATA)),
            (
                2,
                "status",
                One(&[(1, "userInfo", One(&[(1, "username", Text), (2, "uid", Text)]))]),
            ),
        ],
        "SelfSubjectRulesReview" => &[
            (1, "metadata", One(METADATA)),
            (2, "spec", One(&[(1, "namespace", Text)])),
            (
                3,
                "status",
                One(&[(3, "incomplete", Flag), (4, "evaluationError", Text)]),
            ),
        ],
        "TokenRequest" => &[
            (1, "metadata", One(METADATA)),
            (2, "spec", One(TOKEN)),
            (
                3,
                "status",
                One(&[(1, "token", Text), (2, "expirationTimestamp", Time)]),
            ),
        ],
        "Eviction" => &[(1, "metadata", One(METADATA)), (2, "deleteOptions", One(DELETE))],
        "DeleteOptions" => DELETE,
        _ => return None,
    })
}

/// Reads a body.
///
/// # Errors
/// A sentence: what can't be read.
pub(super) fn read(body: &[u8]) -> Result<Value, String> {
    let envelope = body
        .strip_prefix(b"k8s\0")
        .ok_or("the body does not begin with k8s\\0")?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for (number, value) in entries(envelope)? {
        match (number, value) {
            (1, Wire::Bytes(types)) => {
                for (number, value) in entries(types)? {
                    match (number, value) {
                        (1, Wire::Bytes(text)) => version = word(text)?,
                        (2, Wire::Bytes(text)) => kind = word(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let fields = fields(&kind)
        .ok_or_else(|| format!("the sandbox's API reads {kind:?} as JSON or YAML, not as protobuf"))?;
    let mut object = message(raw, fields, &kind, 0)?;
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    Ok(object)
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or("a number is cut off")?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number is too long".to_owned())
}

fn entries(mut bytes: &[u8]) -> Result<Vec<(u64, Wire<'_>)>, String> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Wire::Number(varint(&mut bytes)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).map_err(|e| e.to_string())?;
                let (value, rest) = bytes.split_at_checked(length).ok_or("a field is cut off")?;
                bytes = rest;
                Wire::Bytes(value)
            }
            other => return Err(format!("wire type {other} is not read")),
        };
        found.push((tag >> 3, value));
    }
    Ok(found)
}

fn word(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a text is not UTF-8".to_owned())
}

fn encoded(bytes: &[u8]) -> Value {
    base64::engine::general_purpose::STANDARD.encode(bytes).into()
}

fn message(bytes: &[u8], fields: &[Field], kind: &str, depth: usize) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err("the object is nested too deep".to_owned());
    }
    let mut object = Map::new();
    for (number, value) in entries(bytes)? {
        let Some((_, name, holds)) = fields.iter().find(|(n, ..)| *n == number) else {
            // Go's encoder writes many fields that are not set: nothing is lost with those.
            if matches!(value, Wire::Number(0) | Wire::Bytes([])) {
                continue;
            }
            return Err(format!(
                "field {number} of a {kind} is not read from protobuf here; send JSON or YAML"
            ));
        };
        let read = match (holds, value) {
            (Text, Wire::Bytes([])) => continue,
            (Text, Wire::Bytes(text)) => word(text)?.into(),
            // Numbers of Kubernetes are signed.
            (Number, Wire::Number(number)) => i64::from_ne_bytes(number.to_ne_bytes()).into(),
            (Flag, Wire::Number(number)) => (number != 0).into(),
            (One(fields), Wire::Bytes(inner)) => message(inner, fields, name, depth + 1)?,
            (Time, Wire::Bytes(inner)) => match entries(inner)?.first() {
                Some((1, Wire::Number(seconds))) => {
                    let seconds = i64::from_ne_bytes(seconds.to_ne_bytes());
                    let at = time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|e| e.to_string())?;
                    super::object::timestamp(at).into()
                }
                _ => continue,
            },
            (IntOrText, Wire::Bytes(inner)) => either(inner)?,
            (Texts | Many(_), Wire::Bytes(inner)) => {
                let one = match holds {
                    Many(fields) => message(inner, fields, name, depth + 1)?,
                    _ => word(inner)?.into(),
                };
                if let Value::Array(list) = object.entry(*name).or_insert_with(|| json!([])) {
                    list.push(one);
                }
                continue;
            }
            (Holds::Map | ByteMap, Wire::Bytes(inner)) => {
                let (mut key, mut value) = (String::new(), &[][..]);
                for (number, field) in entries(inner)? {
                    match (number, field) {
                        (1, Wire::Bytes(text)) => key = word(text)?,
                        (2, Wire::Bytes(bytes)) => value = bytes,
                        _ => {}
                    }
                }
                let value = if matches!(holds, ByteMap) {
                    encoded(value)
                } else {
                    word(value)?.into()
                };
                if let Value::Object(map) = object.entry(*name).or_insert_with(|| json!({})) {
                    map.insert(key, value);
                }
                continue;
            }
            _ => return Err(format!("{kind}.{name} has another wire type")),
        };
        object.insert((*name).to_owned(), read);
    }
    Ok(Value::Object(object))
}

fn either(bytes: &[u8]) -> Result<Value, String> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for (field, value) in entries(bytes)? {
        match (field, value) {
            (1, Wire::Number(kind)) => is_text = kind == 1,
            (2, Wire::Number(value)) => number = value,
            (3, Wire::Bytes(value)) => text = word(value)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend(bytes);
        out
    }

    fn body(kind: &str, raw: &[u8]) -> Vec<u8> {
        let types = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
        [b"k8s\0".to_vec(), field(1, &types), field(2, raw)].concat()
    }

    #[test]
    fn a_config_map() {
        let labels = field(11, &[field(1, b"k"), field(2, b"v")].concat());
        let metadata = field(1, &[field(1, b"name"), labels].concat());
        let data = field(2, &[field(1, b"a"), field(2, b"b")].concat());
        let immutable = vec![4 << 3, 1];
        let read = read(&body("ConfigMap", &[metadata, data, immutable].concat())).unwrap();
        let expected = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "name", "labels": {"k": "v"}},
            "data": {"a": "b"}, "immutable": true});
        assert_eq!(read, expected);
    }

    #[test]
    fn nothing_is_dropped_in_silence() {
        assert!(
            read(&body("ConfigMap", &field(9, b"x")))
                .unwrap_err()
                .contains("field 9")
        );
        assert!(
            read(&body("StatefulSet", b""))
                .unwrap_err()
                .contains("StatefulSet")
        );
        assert!(read(b"{}").is_err());
        assert!(read(&body("ConfigMap", &[10, 200])).is_err(), "cut off");
        assert!(read(&body("ConfigMap", &[0xff; 12])).is_err());
    }
}
