use super::*;
use http::HeaderMap;
use proptest::prelude::*;
use std::sync::LazyLock;
use weft_proto::model::{RouteMatch, StringMatch};

static NO_FIELDS: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);

fn head(path: &str) -> RequestHead<'_> {
    RequestHead {
        method: "GET",
        path,
        query: None,
        scheme: "http",
        host: "cart",
        headers: &NO_FIELDS,
    }
}

fn a_minute(requests: Option<u32>, each: Option<u32>) -> RateLimit {
    RateLimit {
        requests,
        requests_per_identity: each,
        interval: Duration::from_secs(60),
        ..RateLimit::default()
    }
}

fn compile(limits: &[RateLimit]) -> RateLimits {
    RateLimits::compile(limits, None).unwrap()
}

#[test]
fn a_caller_over_its_own_limit_takes_nothing_from_the_others() {
    let limits = compile(&[a_minute(Some(10), Some(4))]);
    let now = Tick::from_millis(1_000);
    let granted = |caller: &str, times: usize| {
        (0..times)
            .filter(|_| limits.take(now, 80, caller, &head("/")).is_ok())
            .count()
    };
    assert_eq!(granted("a", 100), 4);
    assert_eq!(granted("b", 100), 4);
    // Ten in all.
    assert_eq!(granted("c", 100), 2);
    let limited = limits.take(now, 80, "a", &head("/")).unwrap_err();
    assert!(limited.by_caller);
    assert_eq!(limited.retry_after, Duration::from_secs(15));
    let limited = limits.take(now, 80, "c", &head("/")).unwrap_err();
    assert!(!limited.by_caller);
    assert_eq!(limited.retry_after, Duration::from_secs(6));
    // What everyone's limit refused was given back to the caller: two are left of its four.
    let later = now.plus(20_000_000);
    let granted = (0..9)
        .filter(|_| limits.take(later, 80, "c", &head("/")).is_ok())
        .count();
    assert_eq!(granted, 3);
}

#[test]
fn only_what_a_limit_is_about_counts() {
    let orders = RateLimit {
        port: Some(8080),
        matches: vec![RouteMatch {
            path: Some(StringMatch::Prefix("/orders".into())),
            ..RouteMatch::default()
        }],
        ..a_minute(Some(1), None)
    };
    let limits = compile(&[orders, a_minute(Some(3), None)]);
    let now = Tick::START;
    let take = |port, path| limits.take(now, port, "", &head(path)).is_ok();
    assert!(take(8080, "/orders/1"));
    assert!(!take(8080, "/orders/2"));
    assert!(take(8081, "/orders/2"));
    assert!(take(8080, "/"));
    // The second limit is used up by three, not by the one that the first refused.
    assert!(!take(8080, "/"));
    assert!(!limits.looks_at_fields());
}

#[test]
fn what_did_not_change_goes_on_counting() {
    let limits = [a_minute(Some(1), None), a_minute(None, Some(7))];
    let first = compile(&limits);
    assert!(first.take(Tick::START, 80, "", &head("/")).is_ok());
    let changed = [a_minute(Some(1), None), a_minute(None, Some(8))];
    let second = RateLimits::compile(&changed, Some(&first)).unwrap();
    assert!(second.take(Tick::START, 80, "", &head("/")).is_err());
    let fresh = compile(&changed);
    assert!(fresh.take(Tick::START, 80, "", &head("/")).is_ok());
    assert!(RateLimits::default().is_empty());
}

proptest! {
    #[test]
    fn neither_limit_is_ever_exceeded(
        total in 1u32..40,
        each in 1u32..20,
        burst in prop::option::of(1u32..10),
        requests in prop::collection::vec((0usize..5, 0u64..400), 1..300),
    ) {
        let limit = RateLimit { burst, interval: Duration::from_secs(1), ..a_minute(Some(total), Some(each)) };
        let limits = compile(&[limit]);
        let (mut now, mut granted) = (1_000u64, Vec::new());
        for (caller, gap) in requests {
            now += gap;
            let name = ["", "a", "b", "c", "d"][caller];
            if limits.take(Tick::from_millis(now), 80, name, &head("/")).is_ok() {
                granted.push((now, caller));
            }
        }
        let within = |times: Vec<u64>, rate: u32| {
            let most = |span: u64| u64::from(burst.unwrap_or(rate)) + span * u64::from(rate) / 1_000 + 1;
            times.iter().enumerate().all(|(from, first)| {
                times[from..].iter().enumerate().all(|(n, at)| (n as u64) < most(at - first))
            })
        };
        prop_assert!(within(granted.iter().map(|(at, _)| *at).collect(), total));
        for caller in 0..5 {
            let of_caller = granted.iter().filter(|(_, by)| *by == caller).map(|(at, _)| *at);
            prop_assert!(within(of_caller.collect(), each));
        }
    }
}
