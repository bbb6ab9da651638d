//! Which sandbox, and which pod in it, as people write them.

use clap::Args;
use weft_sandbox::control::Client;

/// Options that every verb on a running sandbox has.
#[derive(Args, Debug, Clone)]
pub struct Which {
    /// The sandbox's name
    #[arg(long, default_value = "default", env = "WEFT_SANDBOX", global = true)]
    pub name: String,
}

impl Which {
    /// The sandbox, if it runs.
    pub fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(&self.name)?)
    }
}

/// Splits `NAMESPACE/POD`; the option decides where there is no namespace.
pub fn pod<'a>(text: &'a str, namespace: &'a str) -> (&'a str, &'a str) {
    match text.split_once('/') {
        // `deployment/web` is no namespace.
        Some(("deployment" | "deploy" | "service" | "svc" | "pod", _)) | None => (namespace, text),
        Some((namespace, pod)) => (namespace, pod),
    }
}

#[cfg(test)]
mod tests {
    use super::pod;

    #[test]
    fn namespaces_and_kinds() {
        assert_eq!(pod("web-1", "shop"), ("shop", "web-1"));
        assert_eq!(pod("shop/web-1", "default"), ("shop", "web-1"));
        assert_eq!(pod("deployment/web", "shop"), ("shop", "deployment/web"));
        assert_eq!(pod("shop/deployment/web", "default"), ("shop", "deployment/web"));
    }
}
