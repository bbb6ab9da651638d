use super::policy::{LONGEST_FACTOR, LONGEST_PAUSE, PAUSE};
use super::*;
use http::Method;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::time::Duration;
use weft_proto::model::{Retries, RetryOn};

const FRESH: Progress = Progress {
    tries: 1,
    written: false,
    body_kept: true,
    answered: false,
};
const WRITTEN: Progress = Progress {
    written: true,
    ..FRESH
};

fn verdict(method: &Method, failure: Failure, progress: Progress) -> Option<Stop> {
    let budget = Budget::new(Tick::START);
    let decision = decide(
        &Policy::default(),
        Class::of(method),
        failure,
        progress,
        &budget,
        Tick::START,
        &mut StdRng::seed_from_u64(1),
    );
    match decision {
        Decision::Retry { pause } => {
            assert!(pause <= LONGEST_PAUSE);
            None
        }
        Decision::Stop(stop) => Some(stop),
    }
}

#[test]
fn nothing_runs_twice_that_must_not() {
    use Failure::*;
    for (failure, progress, safe, unsafe_) in [
        (Connect, FRESH, None, None),
        (Stale, FRESH, None, None),
        (Stale, WRITTEN, None, Some(Stop::MayHaveRun)),
        (RefusedStream, WRITTEN, None, None),
        (NotDelivered, WRITTEN, None, None),
        (Reset, FRESH, None, None),
        (Reset, WRITTEN, None, Some(Stop::MayHaveRun)),
        (Silent, FRESH, None, None),
        (Silent, WRITTEN, None, Some(Stop::MayHaveRun)),
        (Timeout, FRESH, None, None),
        (Timeout, WRITTEN, None, Some(Stop::MayHaveRun)),
        (Status(502), WRITTEN, None, Some(Stop::MayHaveRun)),
        (Status(503), WRITTEN, None, Some(Stop::MayHaveRun)),
        (Status(504), WRITTEN, None, Some(Stop::MayHaveRun)),
        (Status(500), WRITTEN, Some(Stop::Final), Some(Stop::Final)),
        (Status(501), WRITTEN, Some(Stop::Final), Some(Stop::Final)),
        (Status(429), WRITTEN, Some(Stop::Final), Some(Stop::Final)),
    ] {
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE] {
            assert_eq!(
                verdict(&method, failure, progress),
                safe,
                "{method} {failure:?} {progress:?}"
            );
        }
        let custom = Method::from_bytes(b"PURGE").unwrap();
        for method in [
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::PATCH,
            Method::CONNECT,
            custom,
        ] {
            assert_eq!(
                verdict(&method, failure, progress),
                unsafe_,
                "{method} {failure:?} {progress:?}"
            );
        }
        let answered = Progress {
            answered: true,
            ..progress
        };
        assert_eq!(
            verdict(&Method::GET, failure, answered),
            Some(Stop::Answered),
            "{failure:?}"
        );
    }
}

#[test]
fn bodies_tries_and_budget_end_it() {
    let gone = Progress {
        body_kept: false,
        ..WRITTEN
    };
    assert_eq!(verdict(&Method::GET, Failure::Reset, gone), Some(Stop::BodyGone));
    assert_eq!(
        verdict(&Method::POST, Failure::RefusedStream, gone),
        Some(Stop::BodyGone)
    );
    let third = Progress {
        tries: TRIES,
        ..WRITTEN
    };
    assert_eq!(verdict(&Method::GET, Failure::Reset, third), Some(Stop::Tries));
    let budget = Budget::new(Tick::START);
    let mut rng = StdRng::seed_from_u64(1);
    let mut ask = || {
        decide(
            &Policy::default(),
            Class::Safe,
            Failure::Reset,
            WRITTEN,
            &budget,
            Tick::START,
            &mut rng,
        )
    };
    while let Decision::Retry { .. } = ask() {}
    assert_eq!(ask(), Decision::Stop(Stop::Budget));
}

#[test]
fn pauses_only_where_work_was_done() {
    let own = Policy::default();
    let mut rng = StdRng::seed_from_u64(1);
    assert_eq!(own.pause(Failure::Connect, 1, &mut rng), 0);
    for tries in 1..40 {
        let longest = (0..100)
            .map(|_| own.pause(Failure::Status(503), tries, &mut rng))
            .max()
            .unwrap();
        assert!(
            longest <= (PAUSE << (tries - 1).min(8)).min(LONGEST_PAUSE) && longest > PAUSE / 2,
            "{tries}"
        );
    }
}

/// What a rule with these reasons says of a failure after the first try, the request having been written.
fn asked(on: &[RetryOn], failure: Failure) -> Option<Stop> {
    let policy = Policy::compile(Some(&Retries {
        attempts: 2,
        on: on.to_vec(),
        ..Retries::default()
    }));
    policy.stop(Class::Unsafe, failure, WRITTEN)
}

#[test]
fn a_rule_holds_for_every_method_and_for_what_it_names() {
    use Failure::{Grpc, Silent, Status};
    use RetryOn::*;
    for (on, failure, again) in [
        (&[GatewayError][..], Status(503), true),
        (&[GatewayError], Status(500), false),
        (&[GatewayError], Failure::Reset, true),
        (&[ServerError], Status(500), true),
        (&[ServerError], Failure::Timeout, true),
        (&[Retriable4xx], Status(409), true),
        (&[Retriable4xx], Status(429), false),
        (&[ConnectFailure], Status(503), false),
        (&[ConnectFailure], Failure::Reset, false),
        (&[ConnectFailure], Failure::Timeout, false),
        // What has not run is always harmless.
        (&[Retriable4xx], Failure::RefusedStream, true),
        (&[Retriable4xx], Failure::NotDelivered, true),
        (&[Reset], Failure::Reset, true),
        (&[Reset], Silent, true),
        (&[Timeout], Failure::Timeout, true),
        (&[Timeout], Failure::Reset, false),
        (&[Unavailable], Grpc(14), true),
        (&[Unavailable], Grpc(13), false),
        (&[Unavailable], Status(503), false),
        (&[Cancelled, Internal], Grpc(13), true),
        (&[DeadlineExceeded], Grpc(4), true),
        (&[ResourceExhausted], Grpc(8), true),
    ] {
        let stop = asked(on, failure);
        assert_eq!(stop, (!again).then_some(Stop::NotAsked), "{on:?} {failure:?}");
    }
    let statuses = Policy::compile(Some(&Retries {
        attempts: 1,
        statuses: vec![418],
        ..Retries::default()
    }));
    assert_eq!(statuses.stop(Class::Unsafe, Failure::Status(418), WRITTEN), None);
    assert_eq!(
        statuses.stop(Class::Safe, Failure::Status(503), WRITTEN),
        Some(Stop::NotAsked)
    );
}

#[test]
fn a_rule_never_goes_beyond_body_answer_and_attempts() {
    let policy = Policy::compile(Some(&Retries {
        attempts: 4,
        on: vec![RetryOn::ServerError],
        ..Retries::default()
    }));
    let stop = |progress| policy.stop(Class::Unsafe, Failure::Status(503), progress);
    for (progress, wanted) in [
        (WRITTEN, None),
        (Progress { tries: 4, ..WRITTEN }, None),
        (Progress { tries: 5, ..WRITTEN }, Some(Stop::Tries)),
        (
            Progress {
                body_kept: false,
                ..WRITTEN
            },
            Some(Stop::BodyGone),
        ),
        (
            Progress {
                answered: true,
                ..WRITTEN
            },
            Some(Stop::Answered),
        ),
    ] {
        assert_eq!(stop(progress), wanted, "{progress:?}");
    }
}

#[test]
fn no_attempts_means_none_but_for_a_connection_that_had_ended() {
    let off = Policy::compile(Some(&Retries::default()));
    for failure in [
        Failure::Connect,
        Failure::RefusedStream,
        Failure::NotDelivered,
        Failure::Reset,
        Failure::Silent,
        Failure::Timeout,
        Failure::Status(503),
    ] {
        assert_eq!(
            off.stop(Class::Safe, failure, FRESH),
            Some(Stop::Tries),
            "{failure:?}"
        );
    }
    assert_eq!(off.stop(Class::Unsafe, Failure::Stale, FRESH), None);
    assert_eq!(
        off.stop(Class::Unsafe, Failure::Stale, WRITTEN),
        Some(Stop::MayHaveRun)
    );
}

#[test]
fn a_rule_without_reasons_only_changes_how_often() {
    let policy = Policy::compile(Some(&Retries {
        attempts: 1,
        hedge_after: Some(Duration::from_millis(50)),
        ..Retries::default()
    }));
    assert!(!policy.is_asked());
    assert_eq!(
        policy.stop(Class::Unsafe, Failure::Status(503), WRITTEN),
        Some(Stop::MayHaveRun)
    );
    assert_eq!(policy.stop(Class::Safe, Failure::Status(503), WRITTEN), None);
    let second = Progress { tries: 2, ..WRITTEN };
    assert_eq!(
        policy.stop(Class::Safe, Failure::Status(503), second),
        Some(Stop::Tries)
    );
    assert_eq!(
        policy.hedge_after(Class::Safe, true),
        Some(Duration::from_millis(50))
    );
    assert_eq!(policy.hedge_after(Class::Safe, false), None);
    assert_eq!(policy.hedge_after(Class::Unsafe, true), None);
}

#[test]
fn answers_are_failures_only_where_they_may_be_tried_again() {
    let own = Policy::default();
    assert_eq!(own.failure(Class::Safe, 503, None), Some(Failure::Status(503)));
    assert_eq!(own.failure(Class::Safe, 500, None), None);
    assert_eq!(own.failure(Class::Unsafe, 503, None), None);
    assert_eq!(own.failure(Class::Unsafe, 200, Some(14)), None);
    let rule = Policy::compile(Some(&Retries {
        attempts: 1,
        on: vec![RetryOn::Unavailable],
        ..Retries::default()
    }));
    assert_eq!(
        rule.failure(Class::Unsafe, 200, Some(14)),
        Some(Failure::Grpc(14))
    );
    assert_eq!(rule.failure(Class::Unsafe, 200, Some(0)), None);
    assert_eq!(rule.failure(Class::Unsafe, 200, None), None);
}

proptest! {
    #[test]
    fn a_rules_pause_is_never_shorter_than_it_says(
        base in 0u64..400_000_000,
        tries in 1u8..12,
        seed: u64,
    ) {
        let policy = Policy::compile(Some(&Retries {
            attempts: 10,
            on: vec![RetryOn::ServerError],
            backoff: Some(Duration::from_micros(base)),
            ..Retries::default()
        }));
        let pause = policy.pause(Failure::Connect, tries, &mut StdRng::seed_from_u64(seed));
        prop_assert!(pause >= base.min(60_000_000));
        prop_assert!(pause <= (base * LONGEST_FACTOR).min(60_000_000) * 3 / 2);
    }

    #[test]
    fn without_a_rule_nothing_that_may_have_run_is_repeated(
        status in 100u16..600,
        grpc in 0u8..17,
        kind in 0usize..6,
        tries in 1u8..5,
        kept: bool,
    ) {
        let failure = [
            Failure::Status(status),
            Failure::Grpc(grpc),
            Failure::Reset,
            Failure::Silent,
            Failure::Timeout,
            Failure::Stale,
        ][kind];
        let progress = Progress { tries, written: true, body_kept: kept, answered: false };
        prop_assert!(Policy::default().stop(Class::Unsafe, failure, progress).is_some());
    }
}
