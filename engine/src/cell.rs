//! Atomics that can be copied, so that what is known of endpoints can be: whoever explains a choice makes it on a copy.
//!
//! In: a value that threads change. Out: another one that is what the first was at some moment. Never: a lock; a moment that two values share.

use std::ops::Deref;
use std::sync::atomic::{self, Ordering::Relaxed};

macro_rules! cells {
    ($($name:ident: $value:ty,)*) => {$(
        /// As the standard library's, but it can be copied.
        #[derive(Debug, Default)]
        pub(crate) struct $name(atomic::$name);

        impl $name {
            /// With a value.
            pub(crate) const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }
        }

        impl Clone for $name {
            fn clone(&self) -> Self {
                Self::new(self.0.load(Relaxed))
            }
        }

        impl Deref for $name {
            type Target = atomic::$name;
            #[inline]
            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }
    )*};
}

cells! {
    AtomicBool: bool,
    AtomicI32: i32,
    AtomicU8: u8,
    AtomicU16: u16,
    AtomicU32: u32,
    AtomicU64: u64,
    AtomicUsize: usize,
}
