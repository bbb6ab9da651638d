use super::*;
use weft_proto::model::Outliers;

#[test]
fn failing_fast_is_no_load() {
    let cluster = cluster(&[1, 1], Algorithm::LeastRequest);
    let mut rng = rng();
    let mut counts = [0; 2];
    // Every third answer of the bad one is an error and comes at once; good ones take their time, so that they always look busier.
    let mut open: Vec<(Tick, InFlight)> = Vec::new();
    for n in 0..4_000u64 {
        let now = Tick::from_millis(n * 2);
        let (over, still) = open.into_iter().partition(|(at, _)| *at <= now);
        open = still;
        for (at, flight) in over {
            let _ = flight.finish(at, Outcome::Success);
        }
        let mut picked = cluster
            .pick(now, &mut rng, &Tried::none(), Class::Safe, &Wish::default())
            .unwrap();
        let bad = &*picked.endpoint.workload.pod == "pod-0";
        counts[usize::from(!bad)] += 1;
        let mut flight = picked.begin(now);
        if bad && n % 3 == 0 {
            flight.answered(now.plus(100), 503);
            let _ = flight.finish(now.plus(100), Outcome::ServerError(503));
        } else {
            open.push((now.plus(5_000), flight));
        }
    }
    assert!(counts[0] * 3 < counts[1], "{counts:?}");
}

#[test]
fn one_that_never_worked_is_not_fast() {
    // Errors of the application's own, that nothing ejects for.
    let outliers = Outliers {
        consecutive_errors: Some(0),
        ..Outliers::default()
    };
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest] {
        let rules = Traffic {
            outliers,
            ..traffic(algorithm)
        };
        let cluster = next(None, (0..5).map(|n| pod(n, 1)).collect(), rules, Tick::START);
        let mut rng = rng();
        let mut bad = 0;
        for n in 0..1_000u64 {
            let now = Tick::from_millis(n * 25);
            let mut picked = cluster
                .pick(now, &mut rng, &Tried::none(), Class::Safe, &Wish::default())
                .unwrap();
            let sick = &*picked.endpoint.workload.pod == "pod-0";
            bad += u32::from(sick);
            let (takes, status) = if sick { (300, 500) } else { (20_000, 200) };
            let mut flight = picked.begin(now);
            flight.answered(now.plus(takes), status);
            let _ = flight.finish(now.plus(takes), Outcome::Success);
        }
        assert!(bad < 60, "{algorithm:?}: {bad} of 1000");
    }
}
