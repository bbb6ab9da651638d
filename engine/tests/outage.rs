//! Bad days: what the engine's decisions add up to, on a simulated clock.
#![allow(missing_docs, clippy::unwrap_used)]

mod world;

use weft_engine::{Class, Reason};
use weft_proto::model::Distance;
use world::{Pod, World};

/// Share of the tries of a span that went to a distance, in percent.
fn share(world: &World, span: std::ops::Range<u64>, tier: Distance) -> usize {
    let all = world.sent_in(span.clone()).count();
    world.sent_in(span).filter(|sent| sent.tier == tier).count() * 100 / all.max(1)
}

fn region_lost(seed: u64, rate: u64, counts: [usize; 3], prober: bool, unsafe_percent: u32) -> World {
    let local = counts[0] + counts[1];
    let mut world = World::new(seed, counts, prober);
    world.rate = rate;
    world.unsafe_percent = unsafe_percent;
    world.run_to(10_000);
    assert_eq!(
        share(&world, 0..10_000, Distance::Zone),
        100,
        "all is well: all traffic stays in the zone"
    );
    world.set(0..local, Pod::Cut);
    world.run_to(25_000);
    world.set(0..local, Pod::Up);
    world.run_to(60_000);
    world
}

#[test]
fn a_region_is_cut_off_and_comes_back() {
    for seed in 0..3 {
        for (rate, counts) in [
            (100, [2, 2, 4]),
            (300, [1, 1, 2]),
            (20, [2, 2, 4]),
            (500, [4, 4, 8]),
        ] {
            for prober in [false, true] {
                let world = region_lost(seed, rate, counts, prober, 10);
                let local = counts[0] + counts[1];
                let label = format!("seed {seed}, {rate}/s, {counts:?}, prober {prober}");
                assert_eq!(world.failed_safe(), 0, "{label}");
                let to_dead: Vec<_> = world
                    .sent_in(11_000..25_000)
                    .filter(|s| s.pod < local && s.reason != Reason::Trial)
                    .collect();
                assert!(to_dead.is_empty(), "{label}: {:?}", to_dead.first());
                let trials = world.sent_in(11_000..25_000).filter(|s| s.pod < local).count();
                assert!(trials <= if prober { 0 } else { 30 }, "{label}: {trials} trials");
                assert!(share(&world, 11_500..25_000, Distance::Remote) >= 80, "{label}");
                assert!(
                    share(&world, 28_000..60_000, Distance::Zone) >= 99,
                    "{label}: {}",
                    share(&world, 28_000..60_000, Distance::Zone)
                );
                assert_eq!(share(&world, 29_000..60_000, Distance::Remote), 0, "{label}");
                let slowest = world
                    .done
                    .iter()
                    .filter(|d| d.class == Class::Safe)
                    .map(|d| d.latency)
                    .max()
                    .unwrap();
                assert!(slowest < 1_500_000, "{label}: {slowest}");
                assert!(world.percentile(99) < 1_000, "{label}: {}", world.percentile(99));
            }
        }
    }
}

#[test]
fn unsafe_requests_alone_find_the_way_back() {
    for prober in [false, true] {
        let world = region_lost(1, 100, [2, 2, 4], prober, 100);
        // Only what was in flight when the region went, or was a trial, is lost.
        let lost: Vec<_> = world.done.iter().filter(|d| d.status >= 500).collect();
        assert!(lost.iter().all(|d| d.tries == 1));
        let late = lost.iter().filter(|d| d.arrived > 11_000_000).count();
        assert!(late <= if prober { 0 } else { 10 }, "{late}");
        assert!(share(&world, 31_000..60_000, Distance::Zone) >= 99);
    }
}

#[test]
fn a_killed_pod_costs_nothing() {
    for seed in 0..8 {
        let mut world = World::new(seed, [2, 2, 4], false);
        world.unsafe_percent = 50;
        world.run_to(5_000);
        world.set(0..1, Pod::Down);
        world.run_to(15_000);
        world.set(0..1, Pod::Up);
        world.run_to(30_000);
        assert!(
            world.done.iter().all(|d| d.status == 200),
            "a refused connection is always tried elsewhere"
        );
        let to_dead = world
            .sent_in(5_000..15_000)
            .filter(|s| s.pod == 0 && s.reason != Reason::Trial)
            .count();
        assert!(
            to_dead <= 1,
            "seed {seed}: only the first one finds out, not {to_dead}"
        );
        assert!(
            world.sent_in(18_500..30_000).filter(|s| s.pod == 0).count() > 300,
            "seed {seed}"
        );
        assert_eq!(share(&world, 19_000..30_000, Distance::Zone), 100, "seed {seed}");
    }
}

#[test]
fn pods_that_answer_errors_are_left_alone_until_they_stop() {
    for status in [502, 503, 504] {
        let mut world = World::new(3, [2, 2, 4], false);
        world.run_to(5_000);
        world.set(0..2, Pod::Failing(status));
        world.run_to(15_000);
        world.set(0..2, Pod::Up);
        world.run_to(90_000);
        assert_eq!(world.failed_safe(), 0, "{status}");
        assert!(share(&world, 6_000..15_000, Distance::Region) >= 97, "{status}");
        assert_eq!(share(&world, 60_000..90_000, Distance::Zone), 100, "{status}");
    }
}

#[test]
fn errors_of_the_application_do_not_move_traffic_out_of_the_region() {
    let mut world = World::new(4, [2, 2, 4], false);
    world.run_to(5_000);
    world.set(0..8, Pod::Failing(500));
    world.run_to(20_000);
    world.set(0..8, Pod::Up);
    world.run_to(60_000);
    assert_eq!(share(&world, 50_000..60_000, Distance::Zone), 100);
    assert!(world.cluster.all().filter(|e| !e.open()).count() <= 4);
}

#[test]
fn a_few_slow_requests_do_not_move_traffic() {
    for (rate, percent, least) in [(2, 10, 60), (10, 3, 80), (100, 1, 95)] {
        let mut world = World::new(5, [2, 2, 4], false);
        world.rate = rate;
        world.slow_percent = percent;
        world.slow = 3_000;
        world.run_to(120_000);
        assert_eq!(world.failed_safe(), 0);
        let zone = share(&world, 0..120_000, Distance::Zone);
        assert!(zone >= least, "{rate}/s: {zone}%");
        let tries: usize = world.done.iter().map(|d| usize::from(d.tries)).sum();
        assert!(
            tries * 10 <= world.done.len() * 12 + 50,
            "{rate}/s: {tries} of {}",
            world.done.len()
        );
    }
}

#[test]
fn an_application_slow_from_the_start_is_not_tried_twice() {
    let mut world = World::new(6, [2, 0, 2], false);
    world.rate = 5;
    world.latency = [1_200, 1_200, 1_300];
    world.run_to(60_000);
    assert!(world.done.iter().all(|d| d.tries == 1));
    assert_eq!(share(&world, 0..60_000, Distance::Zone), 100);
}

#[test]
fn one_cut_after_another_is_seen_as_fast() {
    let mut world = World::new(7, [2, 2, 4], false);
    world.unsafe_percent = 10;
    for round in 0..4u64 {
        let start = 10_000 + round * 20_000;
        world.run_to(start);
        world.set(0..4, Pod::Cut);
        world.run_to(start + 8_000);
        world.set(0..4, Pod::Up);
        world.run_to(start + 20_000);
        let late = world
            .sent_in(start + 1_500..start + 8_000)
            .filter(|s| s.pod < 4 && s.reason != Reason::Trial);
        assert_eq!(late.count(), 0, "round {round}");
        assert!(
            share(&world, start + 12_000..start + 20_000, Distance::Zone) >= 99,
            "round {round}"
        );
    }
    assert_eq!(world.failed_safe(), 0);
}

#[test]
fn the_whole_service_gone_and_back() {
    let mut world = World::new(8, [2, 2, 4], false);
    world.run_to(5_000);
    world.set(0..8, Pod::Down);
    world.run_to(15_000);
    world.set(0..8, Pod::Up);
    world.run_to(30_000);
    assert!(world.sent_in(0..30_000).count() > 2_900);
    let late = world
        .done
        .iter()
        .filter(|d| d.arrived > 18_000_000 && d.status != 200)
        .count();
    assert_eq!(late, 0);
    assert_eq!(share(&world, 20_000..30_000, Distance::Zone), 100);
    assert_eq!(world.size(), 8);
}
