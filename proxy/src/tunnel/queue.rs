//! Bytes of one stream that were received and wait for their reader.
//!
//! Enters: pieces of DATA. Leaves: whole buffers, without a copy where the reader has none yet. Never: memory while empty; a
//! bound (that is the window's).

use std::collections::VecDeque;

use crate::buffer::Buffer;

/// Received bytes in order.
#[derive(Debug, Default)]
pub struct Queue {
    /// Read first; empty only if all is.
    front: Buffer,
    behind: VecDeque<Buffer>,
}

impl Queue {
    /// Adds bytes at the end.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let last = self.behind.back_mut().unwrap_or(&mut self.front);
            if last.is_full() {
                self.behind.push_back(Buffer::new());
                continue;
            }
            let taken = last.extend_within(bytes);
            bytes = &bytes[taken..];
        }
    }

    /// No byte waits.
    pub fn is_empty(&self) -> bool {
        self.front.is_empty()
    }

    /// The bytes that can be read at once.
    pub fn bytes(&self) -> &[u8] {
        self.front.bytes()
    }

    /// `count` of [`Queue::bytes`] were read.
    pub fn consume(&mut self, count: usize) {
        self.front.consume(count);
        if self.front.is_empty() {
            self.front = self.behind.pop_front().unwrap_or_default();
            if self.behind.is_empty() {
                self.behind = VecDeque::new();
            }
        }
    }

    /// Moves bytes to the end of `buffer`: the whole front without a copy if there is nothing in it. Says how many.
    pub fn pour(&mut self, buffer: &mut Buffer) -> usize {
        if buffer.is_empty() {
            std::mem::swap(buffer, &mut self.front);
            self.consume(0);
            return buffer.len();
        }
        let count = buffer.extend_within(self.front.bytes());
        self.consume(count);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn bytes_leave_in_the_order_they_came(steps in prop::collection::vec((0_usize..40_000, 0_usize..40_000, any::<bool>()), 1..40)) {
            let (mut queue, mut put, mut got) = (Queue::default(), 0_u64, 0_u64);
            for (push, read, pour) in steps {
                let bytes: Vec<u8> = (put..put + push as u64).map(|at| (at % 251) as u8).collect();
                put += push as u64;
                queue.push(&bytes);
                if pour {
                    let mut buffer = Buffer::new();
                    let count = queue.pour(&mut buffer);
                    prop_assert_eq!(count, buffer.len());
                    prop_assert!(buffer.bytes().iter().enumerate().all(|(at, byte)| *byte == ((got + at as u64) % 251) as u8));
                    got += count as u64;
                } else {
                    let count = read.min(queue.bytes().len());
                    prop_assert!(queue.bytes()[..count].iter().enumerate().all(|(at, byte)| *byte == ((got + at as u64) % 251) as u8));
                    queue.consume(count);
                    got += count as u64;
                }
                prop_assert_eq!(queue.is_empty(), put == got);
            }
        }
    }
}
