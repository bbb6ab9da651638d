//! How much a peer may send ahead on one stream.
//!
//! Enters: how many bytes came and how many were read. Leaves: credit to give. Never: more than the window outstanding or
//! waiting, a large window for a reader that is slow.

use std::time::Duration;

use tokio::time::Instant;

/// What each side may send on a new stream before it hears of more: 32 KiB.
pub const FIRST: u32 = 32 * 1024;
/// Most that a stream's window grows to: 1 MiB.
pub const MOST: u32 = 1024 * 1024;
/// Most that all windows of one tunnel grow beyond [`FIRST`] together: 16 MiB.
pub const GROWTH: u32 = 16 * 1024 * 1024;
/// A window of which half was used within this time is too small for the way's length.
const QUICK: Duration = Duration::from_millis(250);

/// The receiving side of one stream's flow control. Received and waiting, read but not given back, and given: together
/// always the window.
#[derive(Debug)]
pub struct Window {
    /// Bytes that the peer may still send.
    given: u32,
    /// Bytes that were read since the last credit.
    read: u32,
    size: u32,
    last: Instant,
}

/// The peer sent more than it may.
#[derive(Debug, PartialEq, Eq)]
pub struct Exceeded;

impl Window {
    /// A new stream's.
    pub fn new(now: Instant) -> Self {
        Self {
            given: FIRST,
            read: 0,
            size: FIRST,
            last: now,
        }
    }

    /// `count` bytes come.
    ///
    /// # Errors
    /// They are more than were given.
    pub fn receive(&mut self, count: usize) -> Result<(), Exceeded> {
        let count = u32::try_from(count).map_err(|_| Exceeded)?;
        self.given = self.given.checked_sub(count).ok_or(Exceeded)?;
        Ok(())
    }

    /// `count` bytes were read. Says how many more the peer may send, if it is worth a frame. `growth`: what the
    /// tunnel's windows may still grow; `now` is only asked for then.
    pub fn read(&mut self, count: usize, growth: &mut u32, now: impl FnOnce() -> Instant) -> Option<u32> {
        self.read += count as u32;
        if self.read < self.size / 2 {
            return None;
        }
        let now = now();
        let waiting = self.size - self.given - self.read;
        let quick = now.duration_since(self.last) < QUICK;
        self.last = now;
        let mut credit = self.read;
        if waiting < self.size / 4 && quick {
            let more = self.size.min(MOST - self.size).min(*growth);
            *growth -= more;
            self.size += more;
            credit += more;
        } else if waiting > self.size / 2 || !quick {
            // Giving less back than was read makes the window smaller.
            let less = (self.size / 2).min(self.size - FIRST).min(credit);
            *growth += less;
            self.size -= less;
            credit -= less;
        }
        self.read = 0;
        self.given += credit;
        (credit > 0).then_some(credit)
    }

    /// By how much it has grown.
    pub fn grown(&self) -> u32 {
        self.size - FIRST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[tokio::test(start_paused = true)]
    async fn it_grows_for_a_quick_reader_and_shrinks_for_a_slow_one() {
        let (mut window, mut growth) = (Window::new(Instant::now()), GROWTH);
        let mut total = 0;
        while window.size < MOST {
            let given = window.given as usize;
            window.receive(given).unwrap();
            window.read(given, &mut growth, Instant::now).unwrap();
            total += given;
        }
        assert!(total < 2 * MOST as usize);
        assert_eq!(GROWTH - growth, MOST - FIRST);
        while window.size > FIRST {
            tokio::time::advance(Duration::from_secs(1)).await;
            let given = window.given as usize;
            window.receive(given).unwrap();
            window.read(given, &mut growth, Instant::now);
        }
        assert_eq!(growth, GROWTH);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_the_bound_holds(steps in prop::collection::vec((0_usize..70_000, 0_usize..70_000), 1..200)) {
            let now = Instant::now();
            let (mut window, mut growth, mut waiting) = (Window::new(now), 3 * FIRST, 0_u32);
            let mut allowed = FIRST;
            for (come, read) in steps {
                let come = come.min(allowed as usize);
                window.receive(come).unwrap();
                prop_assert_eq!(window.receive(allowed as usize - come + 1), Err(Exceeded));
                allowed -= come as u32;
                waiting += come as u32;
                let read = read.min(waiting as usize);
                waiting -= read as u32;
                allowed += window.read(read, &mut growth, || now).unwrap_or(0);
                prop_assert!(allowed + waiting <= 4 * FIRST);
                prop_assert_eq!(window.given, allowed);
                // A reader that has read everything never leaves the sender without credit.
                prop_assert!(waiting > 0 || allowed > 0);
            }
        }
    }
}
