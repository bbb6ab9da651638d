use super::*;
use proptest::prelude::*;

/// Ways to write a path that some application somewhere takes for /admin.
const VARIANTS: [&str; 37] = [
    "/admin",
    "/admin/",
    "//admin",
    "/./admin",
    "/x/../admin",
    "/x/%2e%2e/admin",
    "/x/%2E./admin",
    "/%61dmin",
    "/%61%64%6D%69%6e",
    "/admin?x",
    "/admin#x",
    "/admin%23",
    "/admin%3Fx",
    "/Admin",
    "/ADMIN",
    "/admin;x=1",
    "/admin;",
    "/;x/admin",
    "/x;y/../admin",
    "/x/..;/admin",
    "/x/..%3B/admin",
    "/x/..%2Fadmin",
    "/x/..%2fadmin",
    "/x%2F..%2Fadmin",
    "/x%2F%2E%2E%2Fadmin",
    "/%2Fadmin",
    "/%5Cadmin",
    "/x%5C..%5Cadmin",
    "/x\\..\\admin",
    "\\admin",
    "/x/%252e%252e/admin",
    "/x/..%252Fadmin",
    "/%2561dmin",
    "/%252561dmin",
    "/admin%2F",
    "/admin%00",
    "/admin%0d%0ax:y",
];

#[test]
fn no_spelling_gets_past_a_deny() {
    let exactly = PolicySet::compile(&[policy(
        Action::Deny,
        "p",
        vec![],
        to(Ask {
            paths: exact(&["/admin"]),
            ..Ask::default()
        }),
    )]);
    let public = Ask {
        paths: vec![StringMatch::Present],
        not_paths: prefix(&["/public/", "/x"]),
        ..Ask::default()
    };
    let all_but_public = PolicySet::compile(&[policy(Action::Deny, "p", vec![], to(public))]);
    let regex = PolicySet::compile(&[policy(
        Action::Deny,
        "p",
        vec![],
        to(Ask {
            paths: vec![StringMatch::Regex("/adm.*".into())],
            ..Ask::default()
        }),
    )]);
    for variant in VARIANTS {
        assert!(!get(&exactly, variant), "exact: {variant}");
        assert!(!get(&all_but_public, variant), "all but public: {variant}");
        assert!(!get(&regex, variant), "regex: {variant}");
    }
    for other in ["/", "/adminx", "/public/a%2Fb", "/x/admin"] {
        assert!(get(&exactly, other), "{other}");
    }
    assert!(
        get(&all_but_public, "/public/a")
            && get(&all_but_public, "/public/a%2Fb")
            && !get(&all_but_public, "/PUBLIC/a")
    );
}

#[test]
fn no_spelling_gets_into_an_allow() {
    let public = PolicySet::compile(&[policy(
        Action::Allow,
        "p",
        vec![],
        to(Ask {
            paths: prefix(&["/public/"]),
            ..Ask::default()
        }),
    )]);
    for bad in [
        "/admin",
        "/public/../admin",
        "/public/..;/admin",
        "/public/..%2Fadmin",
        "/public/..%5Cadmin",
        "/public/..%3B/admin",
        "/public/%2e%2e/admin",
        "/public/%252e%252e%252Fadmin",
        "/public%2F..%2F..%2Fadmin",
        "/PUBLIC/x",
        "/public",
    ] {
        assert!(!get(&public, bad), "{bad}");
    }
    for good in [
        "/public/",
        "/public/x",
        "/public/a%2Fb",
        "/public/a;v=1/b",
        "/public/100%25",
        "/public/caf%C3%A9",
    ] {
        assert!(get(&public, good), "{good}");
    }
    let escaped = PolicySet::compile(&[policy(
        Action::Allow,
        "p",
        vec![],
        to(Ask {
            paths: exact(&["/caf\u{e9}", "/a%20b", "/%41", "/a;b"]),
            ..Ask::default()
        }),
    )]);
    for good in ["/caf%C3%A9", "/caf%c3%a9", "/caf\u{e9}", "/a%20b", "/A", "/a;b"] {
        assert!(get(&escaped, good), "{good}");
    }
    let not = PolicySet::compile(&[policy(
        Action::Allow,
        "p",
        vec![],
        to(Ask {
            not_paths: exact(&["/admin"]),
            ..Ask::default()
        }),
    )]);
    for variant in VARIANTS {
        assert!(!get(&not, variant), "{variant}");
    }
    assert!(get(&not, "/x"));
}

proptest! {
    /// However pieces are put together: what is forwarded and read by a strict or a generous application as under
    /// /admin is denied.
    #[test]
    fn nothing_that_reads_as_admin_is_forwarded(pieces in prop::collection::vec(prop::sample::select(vec![
        "/", "//", ".", "..", "%2e", "%2E%2e", "%2f", "%5c", "%5C", ";", ";x=1", "%3b", "%25", "%252f", "%252e", "admin", "AdMin",
        "%61dmin", "adm%69n", "public", "x", "%20", "é",
    ]), 1..10)) {
        let set = PolicySet::compile(&[policy(Action::Deny, "p", vec![], to(Ask {
            paths: vec![StringMatch::PathPrefix("/admin".into())],
            ..Ask::default()
        }))]);
        let target = format!("/{}", pieces.concat());
        if let Ok(forwarded) = normalize(&target)
            && get(&set, &target)
        {
            for reading in readings(&forwarded) {
                let under = reading == "/admin" || reading.starts_with("/admin/");
                prop_assert!(!under, "{target} is forwarded as {forwarded} and read as {reading}");
            }
        }
    }
}

/// How applications may read a path: as it is, decoded once, decoded until nothing is left; each resolved, in small
/// letters, with and without parameters.
fn readings(forwarded: &str) -> Vec<String> {
    let once = decode(forwarded);
    let twice = decode(&once);
    let thrice = decode(&twice);
    let mut all = Vec::new();
    for text in [forwarded.to_owned(), once, twice, thrice] {
        let text = text.to_ascii_lowercase().replace('\\', "/");
        let bare: Vec<_> = text
            .split('/')
            .map(|segment| segment.split(';').next().unwrap_or(""))
            .collect();
        all.push(resolve(&text));
        all.push(resolve(&bare.join("/")));
    }
    all
}

fn decode(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let value = rest
            .get(at + 1..at + 3)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match value {
            Some(value) if value.is_ascii() => {
                out.push(char::from(value));
                rest = &rest[at + 3..];
            }
            _ => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

fn resolve(text: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}
