//! What people read, whole; and that explaining and deciding are the same.

use super::offline;
use std::path::{Path, PathBuf};
use weft_engine::explain::Request;
use weft_engine::explain::text::{Style, render};

/// The manifests, and what is said of them.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/explain");

/// A name, who asks, and for what: method, URL, header.
const QUESTIONS: [(&str, &str, [&str; 3]); 6] = [
    ("allowed", "web", ["POST", "http://cart/items/1", ""]),
    (
        "by-header",
        "web",
        ["GET", "http://cart.shop/items", "user: jane"],
    ),
    ("no-allow", "jobs", ["GET", "http://cart/items", ""]),
    ("denied", "web", ["DELETE", "http://cart/items", ""]),
    ("redirect", "web", ["GET", "http://cart/basket", ""]),
    ("no-route", "web", ["GET", "http://cart/", ""]),
];

/// The same of clients outside the mesh: URL, header, address.
const OUTSIDE: [(&str, [&str; 3]); 7] = [
    ("edge-reaches", ["https://shop.example/cart/7", "", ""]),
    ("edge-redirect", ["http://www.example/", "", ""]),
    ("edge-no-listener", ["http://shop.test/", "", ""]),
    ("edge-no-rule", ["https://shop.example/other", "", ""]),
    (
        "edge-misdirected",
        ["https://www.example/", "host: shop.example", ""],
    ),
    ("edge-denied", ["https://shop.example/cart", "", "203.0.113.7"]),
    ("edge-bytes", ["tcp://shop.example:5432", "", ""]),
];

#[test]
fn texts() {
    let one = Path::new(FOLDER).join("shop");
    for (name, who, [method, url, header]) in QUESTIONS {
        let mut request = question(url, Some(method), header);
        request.seed = Some(7);
        compare(name, std::slice::from_ref(&one), ("shop", who), &request);
    }
    let both = ["shop", "edge"].map(|name| Path::new(FOLDER).join(name));
    for (name, [url, header, client]) in OUTSIDE {
        let mut request = question(url, None, header);
        request.seed = Some(7);
        request.client = client.parse().ok();
        compare(name, &both, ("edge", "front"), &request);
    }
}

fn question(url: &str, method: Option<&str>, header: &str) -> Request {
    let headers = Some(header.to_owned()).filter(|header| !header.is_empty());
    Request::read(url, method, headers.as_slice()).unwrap()
}

fn compare(name: &str, folders: &[PathBuf], (namespace, who): (&str, &str), request: &Request) {
    let answer = offline::answer(folders, namespace, who, request).unwrap();
    let text = render(&answer.explanation, Style::new(false)).replace(&format!("{FOLDER}/"), "");
    let file = Path::new(FOLDER).join(format!("golden/{name}.txt"));
    if std::env::var_os("WEFT_REGENERATE").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let wanted = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(text, wanted, "{name}: WEFT_REGENERATE=1 writes it anew");
    // As JSON it comes back the same.
    let json = serde_json::to_string(&answer.explanation).unwrap();
    assert_eq!(answer.explanation, serde_json::from_str(&json).unwrap());
}

#[test]
fn where_it_ends() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/explain/shop"));
    for (namespace, who, url, arrives, words) in [
        ("shop", "web", "http://cat/", false, "call cart.shop"),
        ("shop", "web", "http://cart:81/", false, "its ports are 80"),
        (
            "shop",
            "web",
            "http://db-1.db:5432/",
            true,
            "a pod of Service shop/db",
        ),
        ("shop", "web", "http://db-7.db/", false, "has no pod db-7"),
        ("shop", "web", "tcp://db:5432", true, "is headless"),
        ("shop", "web", "http://example.com/", true, "leaves the mesh"),
        (
            "legacy",
            "batch",
            "http://cart.shop/items",
            false,
            "plain text is refused",
        ),
    ] {
        let mut request = Request::read(url, None, &[]).unwrap();
        request.seed = Some(1);
        let answer = offline::answer(std::slice::from_ref(&folder), namespace, who, &request).unwrap();
        let text = render(&answer.explanation, Style::new(false));
        assert_eq!(answer.explanation.end.arrives(), arrives, "{url}: {text}");
        assert!(text.contains(words), "{url}: {text}");
    }
    let request = Request::read("http://cart", None, &[]).unwrap();
    let nobody = offline::answer(std::slice::from_ref(&folder), "shop", "nobody", &request);
    assert!(
        nobody
            .err()
            .unwrap()
            .to_string()
            .contains("there are legacy/batch, shop/cart")
    );
}
