use super::*;

fn note(id: &str, path: &'static str, at: u64) -> Note<'static> {
    Note {
        id: Box::leak(id.to_owned().into_boxed_str()).as_bytes(),
        method: "GET",
        authority: "cart.shop",
        path,
        code: 200,
        flags: "-",
        duration: Duration::from_millis(3),
        at: Tick::from_millis(at),
        caller: "10.0.0.1:4000".parse().unwrap(),
        side: Side::Inbound {
            peer: None,
            port: 8080,
            own: None,
            policies: Arc::default(),
        },
    }
}

#[test]
fn the_last_ones_are_found_by_id_and_the_oldest_are_forgotten() {
    let recent = Recent::new(4, 2);
    let rings = [recent.ring(), recent.ring()];
    for n in 0..6 {
        rings[n % 2].remember(note(&format!("id-{n}"), "/items", n as u64));
    }
    let now = Tick::from_millis(10);
    assert_eq!(recent.find(Some("id-0"), now), []);
    let found = recent.find(Some("id-4"), now);
    assert_eq!(
        (found.len(), found[0].ago_millis, &*found[0].path),
        (1, 6, "/items")
    );
    assert!(found[0].explanation.end.arrives());
    let all: Vec<u64> = recent.find(None, now).iter().map(|one| one.ago_millis).collect();
    assert_eq!(all, [5, 6, 7, 8]);
    // Two of the same id, as when a pod calls itself.
    rings[0].remember(note("id-5", "/again", 9));
    assert_eq!(recent.find(Some("id-5"), now).len(), 2);
}

#[test]
fn texts_are_bounded_and_nothing_is_kept_without_an_id() {
    let recent = Recent::new(2, 1);
    let ring = recent.ring();
    ring.remember(note("", "/items", 0));
    assert_eq!(recent.find(None, Tick::START), []);
    let long: &'static str = Box::leak(format!("/{}", "é".repeat(1_000)).into_boxed_str());
    ring.remember(note(&"x".repeat(500), long, 0));
    let found = recent.find(Some(&"x".repeat(500)), Tick::START);
    assert_eq!((found.len(), found[0].path.len()), (1, 511));
    Recent::new(0, 1).ring().remember(note("id", "/", 0));
}
