//! A pod's volumes: directories of files.
//!
//! In: the pod's spec, ConfigMaps, Secrets, tokens. Out: a directory per volume, kept up to date. Never: half a file seen
//! by a container; a path that leaves its volume; a secret in a message.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use serde_json::Value;
use tokio::time::Instant;

use super::environment;
use crate::api::tokens::Grant;
use crate::api::{Api, object};
use crate::pod::Mount;

/// Content and mode of each file of a volume.
type Files = BTreeMap<PathBuf, (Vec<u8>, u32)>;

/// Largest content of one volume, bytes.
const MAX_VOLUME: usize = 4 << 20;
/// Mode of files where the volume does not say.
const MODE: u32 = 0o644;

/// A token that was given out, and when to replace it.
#[derive(Debug, Clone)]
struct Issued {
    token: String,
    renew: Instant,
}

/// The volumes of one pod.
#[derive(Debug)]
pub struct Volumes {
    directory: PathBuf,
    tokens: HashMap<(String, PathBuf), Issued>,
}

impl Volumes {
    /// Volumes below a directory of the pod's own.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            tokens: HashMap::new(),
        }
    }

    fn path(&self, volume: &str) -> PathBuf {
        self.directory.join(volume)
    }

    /// Makes the volumes, or brings them up to date.
    ///
    /// # Errors
    /// What is missing (try again when it is there), what is not supported, or what the system refuses.
    pub fn sync(&mut self, api: &Api, pod: &Value) -> Result<(), String> {
        for volume in object::list(pod, "/spec/volumes") {
            let name = volume["name"].as_str().unwrap_or_default();
            let path = self.path(name);
            let failed = |e: io::Error| format!("volume {name}: {e}");
            if volume.get("emptyDir").is_some() {
                if !path.exists() {
                    std::fs::create_dir_all(&path).map_err(failed)?;
                    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))
                        .map_err(failed)?;
                }
            } else if volume.get("hostPath").is_some() {
                let host = object::string(volume, "/hostPath/path").unwrap_or_default();
                if !Path::new(host).exists() {
                    return Err(format!(
                        "volume {name}: hostPath {host} does not exist on this machine"
                    ));
                }
            } else {
                let files = self
                    .render(api, pod, volume, name)
                    .map_err(|why| format!("volume {name}: {why}"))?;
                write(&path, &files).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn render(&mut self, api: &Api, pod: &Value, volume: &Value, name: &str) -> Result<Files, String> {
        let mut files = Files::new();
        let sources: &[Value] = match volume.get("projected") {
            Some(projected) => object::list(projected, "/sources"),
            None => std::slice::from_ref(volume),
        };
        let mode = ["projected", "configMap", "secret", "downwardAPI"]
            .iter()
            .find_map(|kind| object::number(volume, &format!("/{kind}/defaultMode")))
            .and_then(|m| u32::try_from(m).ok())
            .unwrap_or(MODE);
        for source in sources {
            if let Some(map) = source.get("configMap") {
                keyed(
                    api,
                    pod,
                    map,
                    "configmaps",
                    map["name"].as_str(),
                    mode,
                    &mut files,
                )?;
            } else if let Some(secret) = source.get("secret") {
                let of = secret["secretName"].as_str().or_else(|| secret["name"].as_str());
                keyed(api, pod, secret, "secrets", of, mode, &mut files)?;
            } else if let Some(downward) = source.get("downwardAPI") {
                for item in object::list(downward, "/items") {
                    let path = inner(item["path"].as_str().unwrap_or_default())?;
                    if let Some(field) = object::string(item, "/fieldRef/fieldPath") {
                        files.insert(
                            path,
                            (environment::field(pod, field)?.into_bytes(), mode_of(item, mode)),
                        );
                    }
                }
            } else if let Some(token) = source.get("serviceAccountToken") {
                let path = inner(token["path"].as_str().unwrap_or_default())?;
                let text = self.token(api, pod, token, (name.to_owned(), path.clone()))?;
                files.insert(path, (text.into_bytes(), mode));
            } else {
                let kinds = "emptyDir, configMap, secret, projected, downwardAPI, hostPath";
                return Err(format!("the sandbox has volumes of these kinds only: {kinds}"));
            }
        }
        if files.values().map(|(content, _)| content.len()).sum::<usize>() > MAX_VOLUME {
            return Err(format!("is larger than {MAX_VOLUME} bytes"));
        }
        Ok(files)
    }

    /// A token for the pod: the one that it has, or a new one once four fifths of its life are over.
    fn token(
        &mut self,
        api: &Api,
        pod: &Value,
        asked: &Value,
        key: (String, PathBuf),
    ) -> Result<String, String> {
        if let Some(issued) = self.tokens.get(&key)
            && Instant::now() < issued.renew
        {
            return Ok(issued.token.clone());
        }
        let name = object::string(pod, "/spec/serviceAccountName").unwrap_or("default");
        let namespace = object::namespace(pod);
        let account = api
            .store
            .get("serviceaccounts", namespace, name)
            .ok_or_else(|| format!("service account {namespace}/{name} does not exist"))?;
        let audiences: Vec<String> = asked["audience"]
            .as_str()
            .map(str::to_owned)
            .into_iter()
            .collect();
        let seconds = object::number(asked, "/expirationSeconds")
            .unwrap_or(3600)
            .max(60);
        let grant = Grant {
            audiences: &audiences,
            seconds,
            pod: Some(pod),
        };
        let (token, expires) = api.tokens.issue(&account, &grant).map_err(|e| e.to_string())?;
        let life = (expires - time::OffsetDateTime::now_utc()).unsigned_abs();
        let renew = Instant::now() + life.mul_f64(0.8);
        self.tokens.insert(
            key,
            Issued {
                token: token.clone(),
                renew,
            },
        );
        Ok(token)
    }

    /// What a container mounts.
    ///
    /// # Errors
    /// A `subPath` that leaves its volume or can't be made.
    pub fn mounts(&self, pod: &Value, container: &Value) -> Result<Vec<Mount>, String> {
        let mut mounts = Vec::new();
        for mount in object::list(container, "/volumeMounts") {
            let name = mount["name"].as_str().unwrap_or_default();
            let volume = object::list(pod, "/spec/volumes")
                .iter()
                .find(|v| v["name"] == name)
                .unwrap_or(&Value::Null);
            let host = object::string(volume, "/hostPath/path");
            let mut source = host.map_or_else(|| self.path(name), PathBuf::from);
            if let Some(sub) = mount["subPath"].as_str().filter(|s| !s.is_empty()) {
                source.push(inner(sub)?);
                if volume.get("emptyDir").is_some() {
                    std::fs::create_dir_all(&source)
                        .map_err(|e| format!("volume {name}: subPath {sub}: {e}"))?;
                } else if !source.exists() {
                    return Err(format!("volume {name}: subPath {sub} does not exist"));
                }
            }
            let made_by_us = volume.get("emptyDir").is_none();
            mounts.push(Mount {
                host_path: source,
                container_path: mount["mountPath"].as_str().unwrap_or_default().into(),
                // What holds objects of the API is theirs, and the machine's files are the machine's.
                read_only: made_by_us || mount["readOnly"] == true,
            });
        }
        // Outer mount points before inner ones.
        mounts.sort_by(|a, b| a.container_path.cmp(&b.container_path));
        Ok(mounts)
    }
}

/// The entries of a ConfigMap (`configmaps`) or Secret (`secrets`).
#[must_use]
pub fn entries(of: &Value, kind: &str) -> Vec<(String, Vec<u8>)> {
    let map = |field: &str| of.get(field).and_then(Value::as_object).into_iter().flatten();
    let decoded = |(k, v): (&String, &Value)| {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(v.as_str()?.replace(['\n', ' '], ""))
            .ok()?;
        Some((k.clone(), bytes))
    };
    if kind == "secrets" {
        return map("data").filter_map(decoded).collect();
    }
    let plain = map("data").filter_map(|(k, v)| Some((k.clone(), v.as_str()?.as_bytes().to_vec())));
    plain.chain(map("binaryData").filter_map(decoded)).collect()
}

fn mode_of(item: &Value, default: u32) -> u32 {
    object::number(item, "/mode")
        .and_then(|m| u32::try_from(m).ok())
        .unwrap_or(default)
}

/// The files that a ConfigMap or Secret makes.
fn keyed(
    api: &Api,
    pod: &Value,
    source: &Value,
    kind: &str,
    name: Option<&str>,
    mode: u32,
    files: &mut Files,
) -> Result<(), String> {
    let (namespace, name) = (object::namespace(pod), name.unwrap_or_default());
    let optional = source["optional"] == true;
    let word = if kind == "secrets" { "Secret" } else { "ConfigMap" };
    let Some(found) = api.store.get(kind, namespace, name) else {
        return if optional {
            Ok(())
        } else {
            Err(format!("{word} {namespace}/{name} does not exist"))
        };
    };
    let entries = entries(&found, kind);
    let items = object::list(source, "/items");
    if items.is_empty() {
        for (key, content) in entries {
            files.insert(inner(&key)?, (content, mode));
        }
        return Ok(());
    }
    for item in items {
        let key = item["key"].as_str().unwrap_or_default();
        match entries.iter().find(|(k, _)| k == key) {
            Some((_, content)) => {
                let path = inner(item["path"].as_str().unwrap_or_default())?;
                files.insert(path, (content.clone(), mode_of(item, mode)));
            }
            None if optional => {}
            None => return Err(format!("{word} {namespace}/{name} has no key {key:?}")),
        }
    }
    Ok(())
}

/// A path within a volume.
fn inner(path: &str) -> Result<PathBuf, String> {
    let inside = Path::new(path);
    let fine = !path.is_empty() && inside.components().all(|c| matches!(c, Component::Normal(_)));
    if fine {
        Ok(inside.to_owned())
    } else {
        Err(format!("path {path:?} would leave the volume"))
    }
}

/// Brings a directory to this content; each file changes at once.
fn write(directory: &Path, files: &Files) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
    for (path, (content, mode)) in files {
        let full = directory.join(path);
        if std::fs::read(&full).is_ok_and(|now| now == *content) {
            continue;
        }
        if let Some(parent) = full.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let next = full.with_file_name(format!(
            ".next-{}",
            full.file_name().unwrap_or_default().to_string_lossy()
        ));
        std::fs::write(&next, content)?;
        std::fs::set_permissions(&next, std::fs::Permissions::from_mode(*mode))?;
        std::fs::rename(&next, &full)?;
    }
    prune(directory, directory, files)
}

fn prune(root: &Path, directory: &Path, files: &Files) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            prune(root, &path, files)?;
        } else if path.strip_prefix(root).is_ok_and(|p| !files.contains_key(p)) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn setting() -> (std::sync::Arc<Api>, tempfile::TempDir) {
        let api = Api::new("/nonexistent".into()).unwrap();
        let account = json!({"metadata": {"namespace": "a", "name": "default", "uid": "u"}});
        api.store.create("serviceaccounts", account).unwrap();
        (api, tempfile::tempdir().unwrap())
    }

    #[tokio::test]
    async fn projected_volumes_follow_their_sources() {
        let (api, dir) = setting();
        let pod = json!({"metadata": {"namespace": "a", "name": "p", "uid": "x"}, "spec": {"serviceAccountName": "default",
            "volumes": [{"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "audience": "weft"}},
                {"configMap": {"name": "c", "items": [{"key": "k", "path": "deep/k.txt"}]}},
                {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}]}});
        let mut volumes = Volumes::new(dir.path().to_owned());
        assert!(
            volumes
                .sync(&api, &pod)
                .unwrap_err()
                .contains("ConfigMap a/c does not exist")
        );
        api.store
            .create(
                "configmaps",
                json!({"metadata": {"namespace": "a", "name": "c"}, "data": {"k": "1"}}),
            )
            .unwrap();
        volumes.sync(&api, &pod).unwrap();
        let read = |path: &str| std::fs::read_to_string(dir.path().join("v").join(path)).unwrap();
        assert_eq!((read("deep/k.txt").as_str(), read("ns").as_str()), ("1", "a"));
        let token = read("token");
        api.set_status("configmaps", "a", "c", |o| o["data"]["k"] = "2".into())
            .unwrap();
        volumes.sync(&api, &pod).unwrap();
        assert_eq!(read("deep/k.txt"), "2");
        assert_eq!(read("token"), token, "a token is kept while it is young");
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_renewed() {
        let (api, dir) = setting();
        let pod = json!({"metadata": {"namespace": "a", "name": "p", "uid": "x"}, "spec": {"volumes": [
            {"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 600}}]}}]}});
        let mut volumes = Volumes::new(dir.path().to_owned());
        volumes.sync(&api, &pod).unwrap();
        let read = || std::fs::read_to_string(dir.path().join("v/t")).unwrap();
        let first = read();
        tokio::time::advance(std::time::Duration::from_secs(500)).await;
        volumes.sync(&api, &pod).unwrap();
        assert_ne!(read(), first);
    }

    #[test]
    fn paths_stay_inside() {
        for bad in ["", "/etc", "../x", "a/../../b", "."] {
            assert!(inner(bad).is_err(), "{bad}");
        }
        assert!(inner("a/b").is_ok());
    }

    #[tokio::test]
    async fn mounts_and_sub_paths() {
        let (_, dir) = setting();
        let volumes = Volumes::new(dir.path().to_owned());
        let pod = json!({"spec": {"volumes": [{"name": "e", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/usr"}}]}});
        let container = json!({"volumeMounts": [{"name": "h", "mountPath": "/x"}, {"name": "e", "mountPath": "/a", "subPath": "s"}]});
        let mounts = volumes.mounts(&pod, &container).unwrap();
        assert_eq!(mounts[0].container_path, Path::new("/a"));
        assert!(!mounts[0].read_only && mounts[1].read_only);
        assert!(dir.path().join("e/s").is_dir());
        let escape = json!({"volumeMounts": [{"name": "e", "mountPath": "/a", "subPath": "../.."}]});
        assert!(volumes.mounts(&pod, &escape).is_err());
    }
}
