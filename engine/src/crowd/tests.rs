//! Requests that meet an application with so many hands, in time that is made up.

use super::*;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

const SECOND: u64 = 1_000_000;

/// An application.
struct Application {
    /// How many requests it works on at once.
    hands: usize,
    /// How long one takes, in microseconds.
    work: u64,
    /// Whether that is a mean of a wide distribution.
    varied: bool,
}

/// What came of the requests of some time.
#[derive(Debug, Default, PartialEq, Eq)]
struct Result {
    refused: u64,
    /// Answered within the caller's patience.
    good: u64,
    late: u64,
}

struct World {
    crowd: Arc<Crowd>,
    application: Application,
    now: u64,
    rng: StdRng,
    queue: VecDeque<(u64, Place)>,
    busy: BinaryHeap<Reverse<(u64, u64)>>,
    places: std::collections::HashMap<u64, (u64, Place)>,
    next: u64,
}

impl World {
    fn new(bound: Bound, application: Application) -> Self {
        Self {
            crowd: Arc::new(Crowd::new(bound, Tick::START)),
            application,
            now: 0,
            rng: StdRng::seed_from_u64(7),
            queue: VecDeque::new(),
            busy: BinaryHeap::new(),
            places: std::collections::HashMap::new(),
            next: 0,
        }
    }

    fn wait(&mut self, mean: u64) -> u64 {
        let part: f64 = self.rng.random_range(f64::MIN_POSITIVE..1.0);
        (-(part.ln()) * mean as f64) as u64
    }

    fn begin(&mut self, came: u64, place: Place) {
        let takes = match self.application.varied {
            true => self.wait(self.application.work),
            false => self.application.work,
        };
        self.next += 1;
        self.busy.push(Reverse((self.now + takes, self.next)));
        self.places.insert(self.next, (came, place));
    }

    /// So many requests a second, for so many seconds, by callers who wait for so many microseconds.
    fn run(&mut self, rate: u64, seconds: u64, patience: u64) -> Result {
        let mut result = Result::default();
        let end = self.now + seconds * SECOND;
        let mut arrival = self.now + self.wait(SECOND / rate);
        loop {
            let done = self.busy.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
            if arrival.min(done) >= end {
                self.now = end;
                return result;
            }
            if done <= arrival {
                self.now = done;
                let Some(Reverse((_, id))) = self.busy.pop() else {
                    continue;
                };
                let (came, place) = self.places.remove(&id).unwrap();
                let now = Tick::from_micros(self.now);
                match self.now - came <= patience {
                    true => result.good += 1,
                    false => result.late += 1,
                }
                place.answered(now, true);
                if let Some((came, place)) = self.queue.pop_front() {
                    self.begin(came, place);
                }
                continue;
            }
            self.now = arrival;
            arrival += self.wait(SECOND / rate).max(1);
            match self.crowd.enter(Tick::from_micros(self.now)) {
                Err(_) => result.refused += 1,
                Ok(place) if self.busy.len() < self.application.hands => self.begin(self.now, place),
                Ok(place) => self.queue.push_back((self.now, place)),
            }
        }
    }
}

fn application(hands: usize, work: u64, varied: bool) -> Application {
    Application { hands, work, varied }
}

#[test]
fn a_number_bounds_and_places_come_back() {
    let crowd = Arc::new(Crowd::new(Bound::Fixed(2), Tick::START));
    let first = crowd.enter(Tick::START).unwrap();
    let second = crowd.enter(Tick::START).unwrap();
    assert_eq!(crowd.enter(Tick::START).unwrap_err(), Crowded { most: 2 });
    first.answered(Tick::from_millis(1), true);
    let third = crowd.enter(Tick::START).unwrap();
    drop(second);
    third.given_up(Tick::from_millis(2));
    assert_eq!((crowd.waiting(), crowd.limit()), (0, 2));
}

#[test]
fn texts() {
    assert_eq!("adaptive".parse(), Ok(Bound::Adaptive));
    assert_eq!(" 40 ".parse(), Ok(Bound::Fixed(40)));
    for wrong in ["0", "-1", "100001", "auto", ""] {
        assert!(
            wrong.parse::<Bound>().unwrap_err().contains("from 1 to 100000"),
            "{wrong}"
        );
    }
}

#[test]
fn twice_the_load_costs_no_goodput() {
    for (hands, work, varied) in [
        (10, 100_000, false),
        (10, 100_000, true),
        (100, 20_000, true),
        (2, 5_000, true),
        (200, 300_000, true),
    ] {
        let capacity = hands as u64 * SECOND / work;
        let mut world = World::new(Bound::Adaptive, application(hands, work, varied));
        let patience = 12 * work;
        // At ease first, or at once.
        let calm = world.run(capacity / 2, 20, patience);
        assert_eq!(calm.refused, 0, "{hands} {work}: {calm:?}");
        world.run(capacity * 2, 5, patience);
        let result = world.run(capacity * 2, 60, patience);
        let goodput = result.good as f64 / (60 * capacity) as f64;
        assert!(goodput > 0.9, "{hands} {work}: {goodput} {result:?}");
        assert!(result.late < result.good / 20, "{hands} {work}: {result:?}");
        // And when it is over, nobody is refused any more.
        world.run(capacity / 2, 20, patience);
        let after = world.run(capacity / 2, 60, patience);
        assert!(after.refused < after.good / 1_000, "{hands} {work}: {after:?}");
    }
}

#[test]
fn twice_the_load_from_the_start() {
    for (hands, work) in [(10, 100_000), (10, 50_000), (100, 20_000)] {
        let capacity = hands as u64 * SECOND / work;
        let mut world = World::new(Bound::Adaptive, application(hands, work, true));
        world.run(capacity * 2, 20, 12 * work);
        let result = world.run(capacity * 2, 60, 12 * work);
        let goodput = result.good as f64 / (60 * capacity) as f64;
        assert!(goodput > 0.9, "{hands} {work}: {goodput} {result:?}");
    }
}

#[test]
fn without_a_bound_everything_is_late() {
    let mut world = World::new(Bound::Fixed(MOST), application(10, 100_000, true));
    world.run(200, 30, 1_200_000);
    let result = world.run(200, 60, 1_200_000);
    assert_eq!((result.good, result.refused), (0, 0), "{result:?}");
}

#[test]
fn an_application_that_became_slower_is_not_crowded() {
    let mut world = World::new(Bound::Adaptive, application(1_000, 10_000, true));
    world.run(500, 20, SECOND);
    // Other requests, that take a hundred times as long; there are hands enough.
    world.application.work = SECOND;
    world.run(500, 60, 10 * SECOND);
    let result = world.run(500, 60, 10 * SECOND);
    assert!(result.refused < result.good / 1_000, "{result:?}");
}

#[test]
fn an_application_with_fewer_hands_keeps_them_busy() {
    let mut world = World::new(Bound::Adaptive, application(20, 50_000, true));
    world.run(200, 20, SECOND);
    world.application = application(10, 150_000, true);
    world.run(200, 30, SECOND);
    let result = world.run(200, 60, 2 * SECOND);
    let goodput = result.good as f64 / (60.0 * 66.6);
    assert!(goodput > 0.9, "{goodput} {result:?}");
}

#[test]
fn callers_who_give_up_are_heard() {
    let crowd = Arc::new(Crowd::new(Bound::Adaptive, Tick::START));
    // Answers after a millisecond; then none at all, and each caller gives up after 200.
    for at in 0..2_000 {
        let place = crowd.enter(Tick::from_millis(at)).unwrap();
        place.answered(Tick::from_millis(at + 1), true);
    }
    let mut waiting = VecDeque::new();
    let mut refused = 0;
    for at in 2_000..6_000 {
        while waiting.front().is_some_and(|(since, _)| since + 200 <= at) {
            let (_, place): (u64, Place) = waiting.pop_front().unwrap();
            place.given_up(Tick::from_millis(at));
        }
        match crowd.enter(Tick::from_millis(at)) {
            Ok(place) => waiting.push_back((at, place)),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 2_000, "{refused}");
}
