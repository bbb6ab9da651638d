//! Host names of Services.

use std::sync::Arc;
use weft_proto::model::ServiceName;

/// The Service that a host names: `name` (of the namespace `own`), `name.namespace`, `name.namespace.svc`, or that with the
/// cluster's domain. Case and one trailing dot don't matter. `None`: a name outside the cluster, or no name at all.
pub fn service(host: &str, own: &str, cluster_domain: &str) -> Option<ServiceName> {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let labels = |text: &str| {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=63).contains(&text.len()) && text.bytes().all(fits)
    };
    let mut parts = host.splitn(3, '.');
    let (name, namespace, rest) = (parts.next()?, parts.next().unwrap_or(own), parts.next());
    let inside = match rest.map(|rest| rest.strip_prefix("svc").unwrap_or("outside")) {
        None | Some("") => true,
        Some(domain) => domain
            .strip_prefix('.')
            .is_some_and(|domain| domain.eq_ignore_ascii_case(cluster_domain)),
    };
    (inside && labels(name) && labels(namespace)).then(|| ServiceName::new(namespace, name))
}

/// The Service, and the hostname of its pod, that a host names: `pod.` before a name that [`service`] takes. `None`: no such name.
pub fn pod(host: &str, own: &str, cluster_domain: &str) -> Option<(ServiceName, Arc<str>)> {
    let (pod, rest) = host.split_once('.')?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let named = (1..=63).contains(&pod.len()) && pod.bytes().all(fits);
    let service = service(rest, own, cluster_domain).filter(|_| named)?;
    Some((service, pod.to_ascii_lowercase().into()))
}

/// Whether a host with a wildcard is about a Service: `*` or the end of one of its names, for example `*.shop.svc.cluster.local`.
pub fn covers(host: &str, service: &ServiceName, cluster_domain: &str) -> bool {
    let Some(end) = host.strip_prefix('*') else {
        return false;
    };
    let short = format!("{}.{}", service.name, service.namespace);
    end.is_empty()
        || ["", ".svc"]
            .iter()
            .any(|more| format!("{short}{more}").ends_with(end))
        || format!("{short}.svc.{}", cluster_domain.to_ascii_lowercase()).ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_full_names_of_services() {
        for (host, wanted) in [
            ("cart", Some("shop/cart")),
            ("Cart.", Some("shop/cart")),
            ("cart.other", Some("other/cart")),
            ("cart.other.svc", Some("other/cart")),
            ("cart.other.svc.cluster.local", Some("other/cart")),
            ("cart.other.svc.cluster.local.", Some("other/cart")),
            ("cart.other.svc.cluster", None),
            ("cart.other.svcx", None),
            ("api.example.com", None),
            ("", None),
            (".", None),
            ("a b", None),
            ("*", None),
            ("*.shop.svc.cluster.local", None),
        ] {
            let found = service(host, "shop", "cluster.local").map(|name| name.to_string());
            assert_eq!(found.as_deref(), wanted, "{host}");
        }
    }

    #[test]
    fn names_of_pods() {
        for (host, wanted) in [
            ("web-0.web", Some(("shop/web", "web-0"))),
            ("Web-0.web.other", Some(("other/web", "web-0"))),
            ("web-0.web.other.svc.cluster.local.", Some(("other/web", "web-0"))),
            ("web-0", None),
            ("web-0.api.example.com", None),
            (".web", None),
            ("a b.web", None),
            ("web-0.", None),
        ] {
            let found = pod(host, "shop", "cluster.local");
            let found = found.map(|(service, pod)| (service.to_string(), pod));
            let found = found.as_ref().map(|(service, pod)| (service.as_str(), &**pod));
            assert_eq!(found, wanted, "{host}");
        }
    }

    #[test]
    fn wildcards_end_names() {
        let cart = ServiceName::new("shop", "cart");
        for (host, wanted) in [
            ("*", true),
            ("*.shop", true),
            ("*.shop.svc", true),
            ("*.shop.svc.cluster.local", true),
            ("*.svc.cluster.local", true),
            ("*.cluster.local", true),
            ("*art.shop.svc.cluster.local", true),
            ("*.bank.svc.cluster.local", false),
            ("*.com", false),
            ("cart.shop", false),
            ("*.cart.shop", false),
        ] {
            assert_eq!(covers(host, &cart, "cluster.local"), wanted, "{host}");
        }
    }
}
