//! Buffers that a thread lends to connections while they have bytes.
//!
//! Enters: bytes at the end. Leaves: bytes at the front; the memory goes back to the thread when the last byte is gone.
//! Never: more than [`LIMIT`] bytes, memory held while empty.

use std::cell::RefCell;

/// Size of a lent buffer: a whole TLS record.
pub const SIZE: usize = 16 * 1024;
/// Most that a buffer may grow to, for a long request head: 64 KiB.
pub const LIMIT: usize = 64 * 1024;
/// Size that is lent to a connection whose last read filled a whole buffer.
pub const LARGE: usize = 32 * 1024;
/// Buffers of each size that a thread keeps for the next connection, 1.5 MiB in all.
const KEPT: usize = 32;

thread_local! {
    static SPARE: RefCell<[Vec<Vec<u8>>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// A queue of bytes. Empty, it holds no memory.
#[derive(Debug, Default)]
pub struct Buffer {
    /// Empty, or initialised over its whole length.
    memory: Vec<u8>,
    start: usize,
    end: usize,
    /// Lend [`LARGE`] next time.
    large: bool,
}

impl Buffer {
    /// An empty buffer.
    pub const fn new() -> Self {
        Self {
            memory: Vec::new(),
            start: 0,
            end: 0,
            large: false,
        }
    }

    /// The bytes that wait.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// No byte waits.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether memory is held now.
    pub fn is_held(&self) -> bool {
        !self.memory.is_empty()
    }

    /// No byte fits without [`Buffer::grow`].
    pub fn is_full(&self) -> bool {
        self.is_held() && self.len() == self.memory.len()
    }

    /// Doubles the memory. False: it is at [`LIMIT`].
    pub fn grow(&mut self) -> bool {
        if self.memory.len() >= LIMIT {
            return false;
        }
        let size = (self.memory.len() * 2).clamp(SIZE, LIMIT);
        self.memory.resize(size, 0);
        true
    }

    /// Room behind the bytes: at least one byte unless the buffer is full.
    pub fn space(&mut self) -> &mut [u8] {
        if self.memory.is_empty() {
            self.memory = take(self.large);
        } else if self.end == self.memory.len() && self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.memory[self.end..]
    }

    /// `count` bytes were written to the [`Buffer::space`].
    pub fn advance(&mut self, count: usize) {
        self.end += count;
        debug_assert!(self.end <= self.memory.len());
        if count >= SIZE - 512 {
            self.large = true;
        } else if count < SIZE / 4 {
            self.large = false;
        }
        self.release();
    }

    /// `count` bytes at the front are done with.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        self.release();
    }

    /// Gives the memory back if no byte waits.
    pub fn release(&mut self) {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if !self.memory.is_empty() {
                give(std::mem::take(&mut self.memory));
            }
        }
    }

    /// Takes as many of `bytes` as fit without growing; says how many.
    pub fn extend_within(&mut self, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        let space = self.space();
        let count = space.len().min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        self.end += count;
        count
    }

    /// Takes all of `bytes`, growing as needed, beyond [`LIMIT`] too: for heads that this side writes itself, which are
    /// as long as a head that was read, and a little.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.memory.is_empty() {
            self.memory = take(self.large);
        }
        let needed = self.end + bytes.len();
        if needed > self.memory.len() {
            self.memory.resize(needed.next_power_of_two(), 0);
        }
        self.memory[self.end..needed].copy_from_slice(bytes);
        self.end = needed;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.memory.is_empty() {
            give(std::mem::take(&mut self.memory));
        }
    }
}

/// Frees half of what this thread keeps and nobody has borrowed. Called from time to time, a burst leaves nothing behind.
pub fn trim() {
    SPARE.with_borrow_mut(|spare| {
        for class in spare {
            class.truncate(class.len() / 2);
            if class.is_empty() {
                *class = Vec::new();
            }
        }
    });
}

fn take(large: bool) -> Vec<u8> {
    let spare = SPARE.with_borrow_mut(|spare| spare[usize::from(large)].pop());
    spare.unwrap_or_else(|| vec![0; if large { LARGE } else { SIZE }])
}

fn give(memory: Vec<u8>) {
    let class = match memory.len() {
        SIZE => 0,
        LARGE => 1,
        _ => return,
    };
    // A thread that ends has no spare buffers any more; then the memory is simply freed.
    let _ = SPARE.try_with(|spare| {
        let spare = &mut spare.borrow_mut()[class];
        if spare.len() < KEPT {
            spare.push(memory);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_held_only_while_bytes_wait() {
        let mut buffer = Buffer::new();
        assert!(!buffer.is_held());
        assert_eq!(buffer.extend_within(b"hello"), 5);
        assert!(buffer.is_held());
        buffer.consume(2);
        assert_eq!(buffer.bytes(), b"llo");
        buffer.consume(3);
        assert!(!buffer.is_held());
    }

    #[test]
    fn a_burst_leaves_nothing_behind() {
        let mut many: Vec<Buffer> = (0..40).map(|_| Buffer::new()).collect();
        many.iter_mut().for_each(|buffer| {
            buffer.extend_within(b"x");
        });
        drop(many);
        let kept = || SPARE.with_borrow(|spare| spare[0].len());
        assert_eq!(kept(), KEPT);
        for _ in 0..6 {
            trim();
        }
        assert_eq!(kept(), 0);
    }

    #[test]
    fn it_moves_bytes_before_it_is_full_and_grows_to_its_limit() {
        let mut buffer = Buffer::new();
        assert_eq!(buffer.extend_within(&vec![1; SIZE + 5]), SIZE);
        assert!(buffer.is_full());
        buffer.consume(SIZE - 1);
        assert!(!buffer.is_full());
        assert_eq!(buffer.extend_within(&[2; 4]), 4);
        assert_eq!(buffer.bytes(), [1, 2, 2, 2, 2]);
        let mut grown = 1;
        while buffer.grow() {
            grown *= 2;
        }
        assert_eq!(grown * SIZE, LIMIT);
        assert_eq!(buffer.bytes(), [1, 2, 2, 2, 2]);
    }
}
