//! What people read, whole; and that explaining and deciding are the same.

use super::offline;
use std::path::PathBuf;
use weft_engine::explain::Request;
use weft_engine::explain::text::{Style, render};

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

#[test]
fn texts() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/explain");
    for (name, who, [method, url, header]) in QUESTIONS {
        let headers: Vec<String> = Some(header)
            .filter(|header| !header.is_empty())
            .map(str::to_owned)
            .into_iter()
            .collect();
        let mut request = Request::read(url, Some(method), &headers).unwrap();
        request.seed = Some(7);
        let answer = offline::answer(&[PathBuf::from(folder).join("shop")], "shop", who, &request).unwrap();
        let text = render(&answer.explanation, Style::new(false)).replace(&format!("{folder}/"), "");
        let file = PathBuf::from(folder).join(format!("golden/{name}.txt"));
        if std::env::var_os("WEFT_REGENERATE").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let wanted = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(text, wanted, "{name}: WEFT_REGENERATE=1 writes it anew");
        // As JSON it comes back the same.
        let json = serde_json::to_string(&answer.explanation).unwrap();
        assert_eq!(answer.explanation, serde_json::from_str(&json).unwrap());
    }
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
