//! What a container runs, and as whom.
//!
//! In: a container of a pod's spec, its environment. Out: a command line, a user. Never: an image pulled: images have
//! names only, and a few of them stand for the `weft` binary.

use serde_json::Value;

use crate::api::object;
use crate::pod::WEFT;

/// The image that is the built-in echo.
const ECHO: &str = "weft.dev/echo";
/// The variable that says where the echo serves HTTP, and where it does if nobody says.
const ECHO_PORT: &str = "ECHO_HTTP_PORT";
const ECHO_DEFAULT: u64 = 8080;
/// The images that are the `weft` binary.
const BINARY: [&str; 2] = ["weft.dev/weft", "weft"];

/// The name of an image without tag and digest.
fn base(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    }
}

/// The command line of a container.
///
/// # Errors
/// A sentence: the image stands for nothing here and there is no `command`.
pub fn line(container: &Value, env: &[(String, String)]) -> Result<Vec<String>, String> {
    let words = |list: &str| -> Vec<String> {
        object::list(container, list)
            .iter()
            .filter_map(Value::as_str)
            .map(|w| expand(w, env))
            .collect()
    };
    let (command, args) = (words("/command"), words("/args"));
    let image = container["image"].as_str().unwrap_or_default();
    let mut line = if !command.is_empty() {
        command
    } else if base(image) == ECHO {
        vec![WEFT.to_owned(), "echo".to_owned()]
    } else if BINARY.contains(&base(image)) {
        vec![WEFT.to_owned()]
    } else {
        return Err(format!(
            "image {image} has no command here: the sandbox runs programs of this machine; add `command:` (and `args:`), or \
             use the image {ECHO}"
        ));
    };
    line.extend(args);
    Ok(line)
}

/// The port that the built-in echo serves HTTP on, where a container declares ports but not the echo's own: a manifest
/// that was written for another image works as it is.
#[must_use]
pub fn echo_port(container: &Value, env: &[(String, String)]) -> Option<(String, String)> {
    let image = container["image"].as_str().unwrap_or_default();
    let own = base(image) != ECHO || !object::list(container, "/command").is_empty();
    if own || env.iter().any(|(key, _)| key == ECHO_PORT) {
        return None;
    }
    let ports = object::list(container, "/ports")
        .iter()
        .filter(|p| p["protocol"].as_str().unwrap_or("TCP") == "TCP");
    let ports: Vec<u64> = ports.filter_map(|p| p["containerPort"].as_u64()).collect();
    let first = ports.first().filter(|_| !ports.contains(&ECHO_DEFAULT))?;
    Some((ECHO_PORT.to_owned(), first.to_string()))
}

/// Replaces `$(NAME)` where there is such a variable; `$$` stands for `$`.
#[must_use]
pub fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let name = rest.strip_prefix('(').and_then(|r| r.split_once(')'));
        let value = name.and_then(|(name, _)| env.iter().rev().find(|(k, _)| k == name));
        match (name, value) {
            (Some((_, after)), Some((_, value))) => {
                out.push_str(value);
                rest = after;
            }
            _ => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

/// As whom a container runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Capabilities to add.
    pub add: Vec<String>,
    /// Capabilities to drop.
    pub drop: Vec<String>,
}

/// As whom a container of a pod runs.
#[must_use]
pub fn identity(pod: &Value, container: &Value) -> Identity {
    let number = |field: &str| {
        let of = |o: &Value| {
            object::number(o, &format!("/securityContext/{field}")).and_then(|n| u32::try_from(n).ok())
        };
        of(container).or_else(|| of(&pod["spec"])).unwrap_or(0)
    };
    let list = |field: &str| -> Vec<String> {
        let path = format!("/securityContext/capabilities/{field}");
        object::list(container, &path)
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    Identity {
        uid: number("runAsUser"),
        gid: number("runAsGroup"),
        add: list("add"),
        drop: list("drop"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines() {
        let env = [("A".to_owned(), "1".to_owned())];
        let of = |c: Value| line(&c, &env);
        assert_eq!(
            of(json!({"image": "weft.dev/echo:v1", "args": ["--x"]})).unwrap(),
            [WEFT, "echo", "--x"]
        );
        assert_eq!(
            of(json!({"image": "weft.dev/weft:0.1.0", "args": ["proxy"]})).unwrap(),
            [WEFT, "proxy"]
        );
        assert_eq!(
            of(json!({"image": "r.io:5000/x@sha256:0", "command": ["sh", "$(A)"]})).unwrap(),
            ["sh", "1"]
        );
        assert!(
            of(json!({"image": "nginx"}))
                .unwrap_err()
                .contains("image nginx has no command here")
        );
        assert_eq!(base("r.io:5000/x"), "r.io:5000/x");
    }

    #[test]
    fn the_echo_takes_the_place_of_another_image() {
        let port = |ports: Value, env: &[(String, String)]| {
            echo_port(&json!({"image": "weft.dev/echo", "ports": ports}), env).map(|(_, port)| port)
        };
        assert_eq!(port(json!([{"containerPort": 80}]), &[]).as_deref(), Some("80"));
        assert_eq!(
            port(json!([{"containerPort": 80}, {"containerPort": 8080}]), &[]),
            None
        );
        assert_eq!(port(json!([]), &[]), None);
        assert_eq!(
            port(
                json!([{"containerPort": 80}]),
                &[(ECHO_PORT.to_owned(), "1".to_owned())]
            ),
            None
        );
        assert_eq!(
            echo_port(&json!({"image": "x", "ports": [{"containerPort": 80}]}), &[]),
            None
        );
    }

    #[test]
    fn expansion() {
        let env = [("A".to_owned(), "1".to_owned()), ("A".to_owned(), "2".to_owned())];
        for (text, expected) in [
            ("$(A)b", "2b"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("a$", "a$"),
            ("$(A", "$(A"),
            ("$x$(A)", "$x2"),
        ] {
            assert_eq!(expand(text, &env), expected, "{text}");
        }
    }

    #[test]
    fn the_container_speaks_first() {
        let pod = json!({"spec": {"securityContext": {"runAsUser": 5, "runAsGroup": 6}}});
        let container = json!({"securityContext": {"runAsUser": 7, "capabilities": {"add": ["NET_ADMIN"]}}});
        let identity = identity(&pod, &container);
        assert_eq!(
            (identity.uid, identity.gid, identity.add),
            (7, 6, vec!["NET_ADMIN".to_owned()])
        );
    }
}
