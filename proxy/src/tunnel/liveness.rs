//! Whether the peer is still there.
//!
//! Enters: what was sent and heard, and the time. Leaves: a PING to send, or the verdict that the peer is silent. Never: a
//! verdict without a PING that it had time to answer, a PING for a tunnel that nobody waits for.

use std::time::Duration;

use tokio::time::Instant;

/// Silence after which the peer is asked.
const ASK: Duration = Duration::from_millis(250);
/// Least time it has for the answer.
const ANSWER: Duration = Duration::from_millis(500);
/// Most of it, for a long way.
const LONGEST_ANSWER: Duration = Duration::from_secs(3);
/// Longest time between two questions while a stream is open.
const RARE: Duration = Duration::from_secs(15);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Look again then.
    Wait(Instant),
    /// Send a PING, and look again then.
    Ask(Instant),
    /// It is not there, or can't be reached.
    Silent,
}

/// What is known of the peer.
#[derive(Debug)]
pub struct Liveness {
    heard: Instant,
    /// The first time that something was sent after [`Self::heard`].
    owed: Option<Instant>,
    /// The last time that something of a stream was sent.
    active: Instant,
    asked: Option<Instant>,
    /// The longest way there and back that a PING took lately.
    trip: Duration,
}

impl Liveness {
    /// A peer that has just shaken hands.
    pub fn new(now: Instant) -> Self {
        Self {
            heard: now,
            owed: None,
            active: now,
            asked: None,
            trip: Duration::ZERO,
        }
    }

    /// Any bytes came.
    pub fn heard(&mut self, now: Instant) {
        if let Some(asked) = self.asked.take() {
            // What comes first may have been under way already: that makes the trip look short, and never the peer silent,
            // since the answer itself comes too.
            self.trip = now.duration_since(asked).max(self.trip / 2);
        }
        self.heard = now;
        self.owed = None;
    }

    /// Something of a stream was sent.
    pub fn sent(&mut self, now: Instant) {
        self.active = now;
        self.owed.get_or_insert(now);
    }

    /// What to do while at least one stream is open.
    pub fn judge(&mut self, now: Instant) -> Verdict {
        if let Some(asked) = self.asked {
            let due = asked + (self.trip * 4).clamp(ANSWER, LONGEST_ANSWER);
            return if now < due {
                Verdict::Wait(due)
            } else {
                Verdict::Silent
            };
        }
        // A stream may be waiting for something that was asked for long ago: the longer ago, the less often.
        let due = match self.owed {
            Some(owed) => owed + ASK,
            None => self.heard + (self.heard.saturating_duration_since(self.active) / 4).clamp(ASK, RARE),
        };
        if now < due {
            return Verdict::Wait(due);
        }
        self.asked = Some(now);
        Verdict::Ask(now + (self.trip * 4).clamp(ANSWER, LONGEST_ANSWER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn silence_is_noticed_within_a_second() {
        let start = Instant::now();
        let mut peer = Liveness::new(start);
        let sent = start + Duration::from_secs(100);
        peer.sent(sent);
        assert_eq!(peer.judge(sent), Verdict::Wait(sent + ms(250)));
        assert_eq!(peer.judge(sent + ms(250)), Verdict::Ask(sent + ms(750)));
        assert_eq!(peer.judge(sent + ms(749)), Verdict::Wait(sent + ms(750)));
        assert_eq!(peer.judge(sent + ms(750)), Verdict::Silent);
    }

    #[test]
    fn any_byte_is_life() {
        let start = Instant::now();
        let mut peer = Liveness::new(start);
        peer.sent(start);
        assert!(matches!(peer.judge(start + ms(250)), Verdict::Ask(_)));
        peer.heard(start + ms(700));
        assert!(matches!(peer.judge(start + ms(800)), Verdict::Wait(_)));
        // The way is long: the next answer may take longer.
        peer.sent(start + ms(800));
        assert_eq!(
            peer.judge(start + ms(1050)),
            Verdict::Ask(start + ms(1050 + 4 * 450))
        );
    }

    #[test]
    fn an_idle_stream_asks_rarely() {
        let start = Instant::now();
        let (mut peer, mut now, mut asked) = (Liveness::new(start), start, 0);
        while now < start + Duration::from_secs(3600) {
            match peer.judge(now) {
                Verdict::Wait(due) => now = due,
                Verdict::Ask(_) => {
                    asked += 1;
                    now += ms(1);
                    peer.heard(now);
                }
                Verdict::Silent => panic!("it answers"),
            }
        }
        assert!(asked < 280, "{asked} questions in an hour");
    }
}
